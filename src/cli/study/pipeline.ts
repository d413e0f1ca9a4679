/** The whole study, stage by stage: raw, curate, train, answer, plan, votes, judge, report, sums.
 *  Always: a stage whose inputs did not change is not run again; killed at any moment and started again, a study ends with the
 *  same files, byte for byte. */
import { mkdir } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { materialPath } from "../../data/curation.ts";
import { readQuestions } from "../../data/question_sets.ts";
import { outputsOf, runStage, writeWhole, type StageRecord } from "../../data/stages.ts";
import type { Question } from "../../eval/comparison.ts";
import { computeResults, type Results } from "../../eval/report/results.ts";
import { writeReport } from "../../eval/report/write.ts";
import { RandomStream } from "../../eval/statistics/random.ts";
import { readStudy } from "../../eval/study_files.ts";
import { hashFile } from "../../text/fingerprint.ts";
import type { Json } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { answerStage, answerTable, type Answered } from "./answer.ts";
import { judgeStage, planStage, voteStage } from "./compare.ts";
import { curateStage, rawStage, tinyQuestions, trainStage, type TrainedModel } from "./material.ts";
import type { StudyRecipe } from "./study_recipe.ts";

/** Where a run may end; each includes those before it. */
export const studyStages = ["curate", "train", "answer", "plan", "votes", "judge", "report"] as const;
export type StudyStage = (typeof studyStages)[number];

export interface StudyEnd {
  /** Votes that people are still to give: the report waits for them. */
  missing: number;
  results: Results | null;
}

const nothing: StudyEnd = { missing: 0, results: null };

/** `partial`: report on the votes that are there. */
export async function runStudy(
  study: StudyRecipe,
  folder: string,
  { until = "report", partial = false }: { until?: StudyStage; partial?: boolean } = {},
): Promise<StudyEnd> {
  await mkdir(folder, { recursive: true });
  const reaches = (stage: StudyStage): boolean => studyStages.indexOf(stage) <= studyStages.indexOf(until);
  const say = (text: string): void => void process.stderr.write(`study: ${text}\n`);
  const raw = await rawStage(study, folder);
  const trained: TrainedModel[] = [];
  const made: StageRecord[] = [];
  for (const model of study.models) {
    say(`curating ${model.id}`);
    const curated = await curateStage(model, raw!, folder);
    made.push(curated.stage);
    if (!reaches("train")) continue;
    say(`training ${model.id}`);
    trained.push(await trainStage(curated, folder));
  }
  if (!reaches("answer")) return nothing;
  const { questions, hashes } = await questionsOf(study, folder);
  const answered: Answered[] = [];
  for (const system of study.systems) {
    say(`answers of ${system.id}`);
    answered.push(await answerStage(system, { study, folder, questions, trained }));
  }
  const table = answerTable(answered, questions);
  await writeWhole(join(folder, "answers", "table.txt"), `${table}\n`);
  if (!reaches("plan")) {
    console.log(table);
    return nothing;
  }
  say("planning the comparison");
  const planned = await planStage({ study, folder, questions, answered, trained, hashes });
  if (!reaches("votes")) return nothing;
  say("collecting votes");
  const votes = await voteStage(study, folder, planned);
  if (!reaches("judge")) return { missing: votes.missing, results: null };
  if (study.judge) say("judging");
  const judged = await judgeStage(study, folder, { plan: planned.plan, answered, planned: planned.stage });
  if (!reaches("report") || (votes.missing > 0 && !partial && !judged))
    return { missing: votes.missing, results: null };
  say("computing the report");
  const inputs = [outputsOf(planned.stage), outputsOf(votes.stage), judged ? outputsOf(judged) : null];
  const report = await reportStage(study, folder, inputs);
  const files = sumsOf([planned.stage, votes.stage, judged, report]);
  for (const { id } of study.models)
    Object.assign(files, curatedSums(id, made[study.models.findIndex((one) => one.id === id)]!));
  for (const { directory, weights } of trained)
    for (const [name, hash] of Object.entries(weights)) files[join(relative(folder, directory), name)] = hash;
  await writeWhole(join(folder, "SHA256SUMS"), sumsText(files));
  const results = (await Bun.file(join(folder, "report", "results.json")).json()) as Results;
  return { missing: votes.missing, results };
}

/** report/: index.html, results.json, results.csv. */
async function reportStage(study: StudyRecipe, folder: string, inputs: Json): Promise<StageRecord> {
  const draws = study.report.bootstrap;
  return runStage(folder, { name: "report", inputs: [1, inputs, draws] }, async () => {
    const data = await readStudy(folder);
    const progress = new Progress("items");
    const results = computeResults(data, {
      draws,
      onProgress: (done, total) => progress.update("resampling", done, total),
    });
    const written = await writeReport(results, data, join(folder, "report"));
    return written.map((path) => relative(folder, path));
  });
}

/** The questions of all sets, and the hashes of their files. */
async function questionsOf(
  study: StudyRecipe,
  folder: string,
): Promise<{ questions: Question[]; hashes: Record<string, string> }> {
  const places = { raw: study.rawFolder, directory: study.directory };
  const sets = study.questions.map((one) => ({ ...one, path: materialPath(places, one.path) }));
  if (sets.length === 0) sets.push({ path: join(folder, tinyQuestions), set: "tiny", view: "raw" });
  const questions: Question[] = [];
  const hashes: Record<string, string> = { recipe: study.sha256 };
  for (const { path, set, view, sample } of sets) {
    const all = await readQuestions(path, { view, ...(set === undefined ? {} : { set }) });
    hashes[`questions: ${basename(path)}`] = await hashFile(path);
    if (sample !== undefined && sample > all.length)
      throw new UsageError(`${path} has ${all.length} questions, and a sample of ${sample} is wanted.`);
    const draw = new RandomStream(study.seed, `questions of ${basename(path)}`);
    const drawn = sample === undefined ? null : new Set(draw.sample(all.length, sample));
    questions.push(...all.filter((_, i) => drawn === null || drawn.has(i)));
  }
  const ids = new Set(questions.map(({ id }) => id));
  if (ids.size < questions.length)
    throw new UsageError("Two question files of the study have the same ids; give each its own set.");
  return { questions, hashes };
}

const sumsOf = (stages: readonly (StageRecord | null)[]): { [path: string]: string } =>
  Object.assign({}, ...stages.map((stage) => stage?.outputs ?? {}));

const curatedSums = (id: string, { outputs }: StageRecord): { [path: string]: string } =>
  Object.fromEntries(Object.entries(outputs).map(([path, hash]) => [`models/${id}/${path}`, hash]));

/** As sha256sum writes and checks it. */
const sumsText = (files: { [path: string]: string }): string =>
  Object.keys(files)
    .sort()
    .map((path) => `${files[path]}  ${path}\n`)
    .join("");
