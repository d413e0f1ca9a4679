/** A study's recipe: which models are curated and trained, who answers which questions, who is compared, and who rates. TOML.
 *  Always: unknown keys are errors; a study folder keeps the recipe with those of its models, so that every stage can be run
 *  again without the files that it was made from. */
import { existsSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import {
  checkCurationRecipe,
  checkTable,
  readToml,
  type CurationRecipe,
} from "../../data/curation_recipe.ts";
import { writeWhole } from "../../data/stages.ts";
import { questionViews } from "../../data/question_sets.ts";
import { defaultRaterRule } from "../../eval/study_data.ts";
import { hashJson } from "../../text/fingerprint.ts";
import { readJsonObject, type Json } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";
import { checkTraining } from "../data/curate.ts";

const name = z.string().regex(/^[\w.-]+$/, "may hold letters, digits, dots, dashes and underscores");
const share = z.number().min(0).max(1);
const seed = z
  .int()
  .min(0)
  .max(2 ** 31 - 1);

const decoding = z.strictObject({
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  max_tokens: z.int().min(1).default(512),
  seed: seed.optional(),
});

const endpoint = {
  /** An OpenAI-compatible server, with or without /v1. */
  url: z.string().regex(/^https?:\/\//, "must begin with http:// or https://"),
  /** The model's name there; by default the first one served. */
  model: z.string().min(1).optional(),
  /** Environment variable that holds the key. */
  api_key_env: z.string().min(1).optional(),
};

const system = z
  .strictObject({
    id: name,
    label: z.string().min(1).optional(),
    /** One of the study's models, … */
    trained: name.optional(),
    /** … a model's folder or hub name, … */
    folder: z.string().min(1).optional(),
    /** … a server, … */
    endpoint: z.strictObject(endpoint).optional(),
    /** … or a file of answers: lines of {id or question, text or answer or output}. */
    answers: z.string().min(1).optional(),
    /** koala, koala-negative, chatml or a Jinja file instead of the model's own template. */
    template: z.string().min(1).optional(),
    decoding: decoding.partial().default({}),
  })
  .refine(
    ({ trained, folder, endpoint: server, answers }) =>
      [trained, folder, server, answers].filter((one) => one !== undefined).length === 1,
    { message: "name one of trained, folder, endpoint and answers" },
  );

const study = z.strictObject({
  title: z.string().min(1),
  seed: seed.default(0),
  raw: z
    .strictObject({
      /** Folder of raw files, as `koala data curate --raw`; --raw replaces it. */
      folder: z.string().min(1).optional(),
      /** Or koala-tiny's own corpus, generated: chat.jsonl, feedback.jsonl and the questions. */
      tiny: z
        .strictObject({
          dialogues: z.int().min(10).default(2000),
          negative_share: share.default(0.5),
          questions: z.int().min(2).default(30),
          seed: seed.default(1),
        })
        .optional(),
    })
    .refine(({ folder, tiny }) => folder === undefined || tiny === undefined, {
      message: "name folder or tiny, not both",
    })
    .default({}),
  questions: z
    .array(
      z.strictObject({
        path: z.string().min(1),
        set: name.optional(),
        view: z.enum(questionViews).default("clean"),
        /** So many, drawn by the seed. */
        sample: z.int().min(1).optional(),
      }),
    )
    .default([]),
  models: z.array(z.looseObject({ id: name, recipe: z.string().min(1).optional() })).default([]),
  systems: z.array(system).min(2),
  decoding: decoding.prefault({}),
  pairs: z
    .array(
      z.strictObject({
        a: name,
        b: name,
        /** Simulated raters prefer a to b so much: wins plus half the ties. */
        planted_score: z.number().min(0.02).max(0.98).optional(),
      }),
    )
    .min(1),
  comparison: z
    .strictObject({
      ratings: z.int().min(1).default(3),
      raters: z.int().min(1).default(100),
      gold_share: share.default(0.1),
      repeat_share: share.default(0.05),
      criteria: z.array(z.strictObject({ name, question: z.string().min(1) })).default([]),
      drop_leaks: z.boolean().default(false),
      instructions: z.string().optional(),
      consent: z.string().optional(),
      completion_url: z.string().optional(),
      /** Votes that come sooner after their item, or more of them, are refused. */
      min_dwell_ms: z.int().min(0).optional(),
      votes_per_minute: z.int().min(1).optional(),
      gold_share_min: share.default(defaultRaterRule.goldShareMin),
      median_dwell_ms_min: z.number().min(0).default(defaultRaterRule.medianDwellMsMin),
    })
    .prefault({}),
  /** people: through `koala study serve`; simulated: with the pairs' planted scores; none: a judge alone. */
  raters: z.enum(["people", "simulated", "none"]).default("people"),
  judge: z
    .strictObject({
      ...endpoint,
      order: z.enum(["both", "random", "fixed"]).default("both"),
      concurrency: z.int().min(1).max(64).default(4),
    })
    .optional(),
  report: z.strictObject({ bootstrap: z.int().min(100).default(10_000) }).prefault({}),
});

export type StudyTable = z.output<typeof study>;
export type StudySystemTable = StudyTable["systems"][number];

export interface StudyModel {
  id: string;
  /** Folder that paths of its recipe are relative to. */
  directory: string;
  recipe: CurationRecipe;
}

export interface StudyRecipe extends Omit<StudyTable, "models"> {
  /** Of the recipe with those of its models. */
  sha256: string;
  /** Folder that paths of the study are relative to. */
  directory: string;
  models: StudyModel[];
  /** Folder of raw files; null: generated, or none needed. */
  rawFolder: string | null;
}

interface Saved {
  directory: string;
  /** sha256 of the recipes as they were written. */
  sha256: string;
  /** --raw of the command line. */
  raw: string | null;
  study: Record<string, unknown>;
  models: { id: string; directory: string; table: Record<string, unknown> }[];
}

export const savedRecipe = (folder: string): string => join(folder, "recipe.json");

/** Reads the recipe with those of its models, checks all, and keeps them in the study's folder. */
export async function initStudy(path: string, folder: string, raw?: string): Promise<StudyRecipe> {
  const table = await readToml(path);
  const directory = resolve(dirname(path));
  const checked = checkTable(study, table, path);
  const models: Saved["models"] = [];
  const written: unknown[] = [table];
  for (const { id, recipe, ...inline } of checked.models) {
    const place = recipe === undefined ? path : resolve(directory, recipe);
    const own = recipe === undefined ? { name: id, ...inline } : await readToml(place);
    if (recipe !== undefined && Object.keys(inline).length > 0)
      throw new UsageError(
        `${path}: the model ${id} has a recipe file and settings of its own (${Object.keys(inline).join(", ")}); keep one of them.`,
      );
    written.push(own);
    models.push({ id, directory: dirname(place), table: withFoundModel(own, dirname(place)) });
  }
  const sha256 = hashJson(written as Json);
  const saved: Saved = {
    directory,
    sha256,
    raw: raw === undefined ? null : resolve(raw),
    study: table,
    models,
  };
  const parsed = parseSaved(saved, path);
  await writeWhole(savedRecipe(folder), `${JSON.stringify(saved, null, 2)}\n`);
  return parsed;
}

/** The recipe of a study's folder. */
export async function openStudy(folder: string): Promise<StudyRecipe> {
  const path = savedRecipe(folder);
  if (!existsSync(path))
    throw new UsageError(`${folder} is no study: koala study init RECIPE --out ${folder} makes it one.`);
  const saved = (await readJsonObject(path)) as unknown as Saved;
  if (!Array.isArray(saved.models) || typeof saved.study !== "object")
    throw new UsageError(
      `${path} is not what koala study wrote; koala study init RECIPE --out ${folder} writes it again.`,
    );
  return parseSaved(saved, path);
}

function parseSaved(saved: Saved, path: string): StudyRecipe {
  const table = checkTable(study, saved.study, path);
  const models = saved.models.map(({ id, directory, table: own }) => ({
    id,
    directory,
    recipe: checkCurationRecipe(own, `${path} (model ${id})`),
  }));
  for (const { id, recipe } of models) checkTraining(recipe, `${path} (model ${id})`);
  const trained = new Set(models.map(({ id }) => id));
  const systems = new Set(table.systems.map(({ id }) => id));
  for (const { id, trained: model } of table.systems)
    if (model !== undefined && !trained.has(model))
      throw new UsageError(
        `${path}: the system ${id} is to be the model ${model}, but [[models]] has ${[...trained].join(", ") || "none"}.`,
      );
  for (const { a, b, planted_score: planted } of table.pairs) {
    const stranger = [a, b].find((one) => !systems.has(one));
    if (stranger !== undefined || a === b)
      throw new UsageError(
        `${path}: the pair ${a}, ${b} must name two different systems of ${[...systems].join(", ")}.`,
      );
    if (table.raters === "simulated" && planted === undefined)
      throw new UsageError(
        `${path}: simulated raters need to know how much they prefer ${a} to ${b}; write planted_score = 0.6, say.`,
      );
  }
  if (table.questions.length === 0 && !table.raw.tiny)
    throw new UsageError(`${path} asks nothing: write [[questions]] with the path of a question file.`);
  if (table.raters === "simulated" && table.comparison.ratings > table.comparison.raters)
    throw new UsageError(
      `${path}: ${table.comparison.ratings} ratings of an item need as many raters, and there are ${table.comparison.raters}.`,
    );
  const given =
    saved.raw ?? (table.raw.folder === undefined ? null : resolve(saved.directory, table.raw.folder));
  if (models.length > 0 && given === null && !table.raw.tiny)
    throw new UsageError(
      `The models of ${path} need raw files: give their folder with --raw, or as raw.folder.`,
    );
  return { ...table, sha256: saved.sha256, directory: saved.directory, models, rawFolder: given };
}

/** A folder beside the recipe or below the working folder becomes absolute: later stages may run elsewhere. */
function withFoundModel(table: Record<string, unknown>, directory: string): Record<string, unknown> {
  const train = table.train as { model?: { path?: unknown } } | undefined;
  const path = train?.model?.path;
  if (typeof path !== "string" || isAbsolute(path)) return table;
  const found = [resolve(path), resolve(directory, path)].find((candidate) => existsSync(candidate));
  if (found === undefined) return table;
  return { ...table, train: { ...train, model: { ...train!.model, path: found } } };
}
