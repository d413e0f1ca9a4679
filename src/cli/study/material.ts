/** The first stages of a study: raw files, curated data and trained models, each in its own folder of the study.
 *  Always: a model's run has a folder named by the hash of everything that decides it, so that a changed recipe never goes on
 *  from checkpoints of another. */
import { mkdir, rm } from "node:fs/promises";
import { join, relative } from "node:path";
import { curate } from "../../data/curation.ts";
import { outputsOf, runStage, writeWhole, type StageRecord } from "../../data/stages.ts";
import { tinyCorpus } from "../../data/tiny/dialogues.ts";
import { fieldsRecord } from "../../data/tiny/write.ts";
import { needsRecords, trainingSettings } from "../../data/warts.ts";
import { toJsonLines } from "../../eval/jsonl.ts";
import { hashFile, hashJson, hashTokenizer } from "../../text/fingerprint.ts";
import { trainedTemplate } from "../../text/model_record.ts";
import type { Json } from "../../text/tokenizer_file.ts";
import { checkRecipe, type Recipe } from "../../train/recipe.ts";
import { modelDirectory, prepareData } from "../../train/run.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { baseModel, curationText } from "../data/curate.ts";
import { resolveModel } from "../model_options.ts";
import { trainRecipe } from "../train.ts";
import type { StudyModel, StudyRecipe } from "./study_recipe.ts";

/** The folder of raw files; koala-tiny's corpus is written there first. */
export async function rawStage(study: StudyRecipe, folder: string): Promise<string | null> {
  const { tiny } = study.raw;
  if (!tiny) return study.rawFolder;
  await runStage(folder, { name: "raw", inputs: [1, tiny as unknown as Json] }, async () => {
    const { dialogues, heldOut } = tinyCorpus(tiny.seed, {
      dialogueCount: tiny.dialogues,
      negativeShare: tiny.negative_share,
    });
    const part = (negative: boolean) =>
      toJsonLines(dialogues.filter((dialogue) => dialogue.negative === negative).map(fieldsRecord));
    // Every n-th: topics lie together.
    const step = Math.max(1, Math.floor(heldOut.length / tiny.questions));
    const questions = heldOut.filter((_, i) => i % step === 0).slice(0, tiny.questions);
    await writeWhole(join(folder, "raw/chat.jsonl"), part(false));
    await writeWhole(join(folder, "raw/feedback.jsonl"), part(true));
    const rows = questions.map(({ question }, i) => ({ id: i + 1, question }));
    await writeWhole(join(folder, tinyQuestions), toJsonLines(rows));
    return ["raw/chat.jsonl", "raw/feedback.jsonl", tinyQuestions];
  });
  return join(folder, "raw");
}

export const tinyQuestions = "raw/questions.jsonl";

export interface CuratedModel {
  model: StudyModel;
  folder: string;
  stage: StageRecord;
  /** Of the model that it will be trained from. */
  base: string;
}

export async function curateStage(model: StudyModel, raw: string, folder: string): Promise<CuratedModel> {
  const out = join(folder, "models", model.id);
  const base = await resolveModel(baseModel(model.recipe, `The recipe of ${model.id}`));
  const progress = new Progress("items");
  const { report, stage } = await curate({
    recipe: model.recipe,
    raw,
    directory: model.directory,
    model: base,
    out,
    onProgress: (what, done, total) => progress.update(`${model.id}: ${what}`, done, total),
  });
  await writeWhole(join(out, "report.txt"), `${curationText(report)}\n`);
  return { model, folder: out, stage, base };
}

export interface TrainedModel {
  id: string;
  /** The finished model. */
  directory: string;
  /** sha256 of each file of weights. */
  weights: { [file: string]: string };
}

/** Trains, or goes on from the newest checkpoint. */
export async function trainStage(curated: CuratedModel, folder: string): Promise<TrainedModel> {
  const { model, base } = curated;
  const settings = await trainTable(curated);
  const { model: source, data, ...rest } = settings;
  // Where files lie decides nothing: what is in them does.
  const decisive = { ...rest, model: { ...source, path: null }, data: { ...data, files: null } };
  const inputs = [1, outputsOf(curated.stage), decisive as Json, await baseOf(base)];
  const output = join(curated.folder, `run-${hashJson(inputs).slice(0, 12)}`);
  const recipe = checkRecipe({ ...settings, output }, `The training recipe of ${model.id}`);
  const place = modelDirectory(recipe);
  const stage = await runStage(folder, { name: `train-${model.id}`, inputs }, async () => {
    await mkdir(output, { recursive: true });
    const validation = recipe.data.validation ?? (await heldOut(curated, recipe));
    await train({ ...recipe, data: { ...recipe.data, validation } }, place);
    const files = Object.keys(await weightHashes(place));
    return files.map((file) => join(relative(folder, place), file));
  });
  const weights = Object.fromEntries(
    Object.entries(stage.outputs).map(([path, hash]) => [path.split("/").at(-1)!, hash]),
  );
  return { id: model.id, directory: place, weights };
}

/** What the mixture keeps for evaluation, prepared: its loss is reported at checkpoints. Undefined where it keeps nothing. */
async function heldOut({ folder, base }: CuratedModel, recipe: Recipe): Promise<string | undefined> {
  const path = join(folder, "curated", "eval.jsonl");
  if (Bun.file(path).size === 0) return undefined;
  // Documents, also where training cuts a stream: a few of them need not fill a row.
  const { packing: _packing, ...data } = recipe.data;
  return prepareData({ ...recipe, data: { ...data, files: [path] } }, base);
}

async function train(recipe: Recipe, place: string): Promise<void> {
  // A model without its record in the stage may be half an old one.
  await rm(place, { recursive: true, force: true });
  await trainRecipe(recipe, { resume: true });
  if (!(await Bun.file(join(place, "koala.json")).exists()))
    throw new UsageError("Training was stopped; the same command goes on from its checkpoint.");
}

/** The recipe's training settings, with the curated files and what the warts ask for. */
async function trainTable({ model, folder, base }: CuratedModel) {
  const { train: table, warts, compat } = model.recipe;
  const given = table as { model?: object; data?: object; method?: { type?: string } };
  const { data, lossReduction } = trainingSettings(warts);
  const records = needsRecords(warts) || compat === "koala";
  const template = await trainedTemplate(base);
  return {
    ...table,
    model: { ...given.model, path: base },
    data: {
      ...(template === undefined ? {} : { template }),
      ...given.data,
      ...data,
      files: [join(folder, "curated", "train.jsonl")],
      format: records ? "fields" : "dialogue",
    },
    ...(lossReduction === null || given.method !== undefined
      ? {}
      : { method: { type: "sft", loss_reduction: lossReduction } }),
  };
}

/** What a model is trained from: weights and tokenizer, wherever they lie. */
const baseOf = async (directory: string): Promise<Json> => [
  await weightHashes(directory),
  await hashTokenizer(directory),
];

/** Of the files that hold weights. */
export async function weightHashes(directory: string): Promise<{ [file: string]: string }> {
  const names = await Array.fromAsync(new Bun.Glob("*.safetensors").scan({ cwd: directory }));
  const hashes: { [file: string]: string } = {};
  for (const name of names.sort()) hashes[name] = await hashFile(join(directory, name));
  return hashes;
}
