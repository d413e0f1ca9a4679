/** From raw files to training data: read, filtered, mixed, in three stages of a folder that a killed run goes on with.
 *    curated/train.jsonl  curated/eval.jsonl        what `koala train` takes
 *    dropped/{read,filters,mixture}-dropped.jsonl   what went no further, and why
 *    report.json  composition.json  composition.txt  composition.html  leakage.html
 *  Always: equal recipe and files give equal bytes; every raw record is in one of the curated or dropped files. */
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { hashFile, hashTokenizer } from "../text/fingerprint.ts";
import { trainedTemplate } from "../text/model_record.ts";
import type { Json } from "../text/tokenizer_file.ts";
import { UsageError } from "../util/errors.ts";
import type { Composition } from "./composition.ts";
import { mixStage } from "./curation_mix.ts";
import type { CurationRecipe, SourceEntry } from "./curation_recipe.ts";
import type { Dialogue, Drop } from "./dialogue.ts";
import { limitedTo } from "./filters/limited.ts";
import { runFilters } from "./filters/pipeline.ts";
import { buildFilters, type FilterSpec } from "./filters/registry.ts";
import type { FilterReport } from "./filters/report.ts";
import { LineWriter, readLines } from "./json_lines.ts";
import { openSource, type DataOptions, type DataSource } from "./prepare.ts";
import { fileLabels, readDialogues } from "./sources/read.ts";
import { outputsOf, runStage, writeWhole, type StageRecord } from "./stages.ts";

export interface CurationOptions {
  recipe: CurationRecipe;
  /** Folder of the raw files. */
  raw: string;
  /** The recipe's folder: question files of the leakage filter that are not below `raw` are relative to it. */
  directory: string;
  /** Folder of the model whose tokenizer counts. */
  model: string;
  out: string;
  onProgress?: (stage: string, done: number, total: number) => void;
}

export interface CurationReport {
  recipe: string;
  seed: number;
  read: ReadReport[];
  filters: FilterReport;
  mixture: { train: number; eval: number; left: number };
}

export interface ReadReport {
  source: string;
  file: string;
  sha256: string;
  verdicts: { ok: number; repaired: number; dropped: number };
  /** Repairs and reasons of drops, counted. */
  reasons: { [words: string]: number };
}

export interface Curated {
  report: CurationReport;
  composition: Composition;
  /** Whose outputs are all that was made. */
  stage: StageRecord;
}

/** Raise when the same inputs would give other files. */
const curationVersion = 2;

export async function curate(options: CurationOptions): Promise<Curated> {
  const { recipe, out } = options;
  await mkdir(out, { recursive: true });
  const source = await openSource({
    files: [join(out, "curated", "train.jsonl")],
    ...(await tokenizing(options)),
  });
  const files = await rawFiles(options);
  const read = await runStage(out, { name: "1-read", inputs: readInputs(recipe, files) }, () =>
    readStage(options, files),
  );
  const filters = await runStage(
    out,
    { name: "2-filter", inputs: [curationVersion, outputsOf(read), await filterInputs(options)] },
    () => filterStage(options, source),
  );
  const { sources, mixture, name, seed, warts } = recipe;
  const model = await hashTokenizer(options.model);
  const data = (recipe.train.data ?? null) as Json;
  const settings = { sources, mixture, name, seed, warts, model, data } as unknown as Json;
  const stage = await runStage(
    out,
    { name: "3-mix", inputs: [curationVersion, outputsOf(filters), settings] },
    () => mixStage(options, source),
  );
  const report = (await Bun.file(join(out, "report.json")).json()) as CurationReport;
  const composition = (await Bun.file(join(out, "composition.json")).json()) as Composition;
  return { report, composition, stage };
}

/** How the recipe's training will tokenise: what the table counts is what is trained on. */
async function tokenizing({ recipe, model }: CurationOptions): Promise<Omit<DataOptions, "files">> {
  const { data = {} } = recipe.train as { data?: TrainData };
  const { preference, conditioning, marker, negative_marker: negativeMarker } = data;
  const bos = recipe.warts.no_bos ? "none" : data.bos;
  const given = { preference, conditioning, marker, negativeMarker, bos };
  const stated = Object.entries(given).filter(([, value]) => value !== undefined);
  return {
    model,
    template: data.template ?? (await trainedTemplate(model)),
    // Cutting and refusing are the trainer's: the table counts whole dialogues.
    sequenceLength: 2 ** 30,
    ...Object.fromEntries(stated),
  };
}

/** What of a training recipe's data settings decides tokens. */
interface TrainData extends Partial<
  Pick<DataOptions, "template" | "preference" | "conditioning" | "marker" | "bos">
> {
  negative_marker?: string;
}

interface RawFile {
  entry: SourceEntry;
  path: string;
  /** What stands for it in ids. */
  label: string;
  sha256: string;
}

/** The files of each source, in order of their names. Throws where a source has none and is not optional. */
async function rawFiles({ recipe, raw, onProgress }: CurationOptions): Promise<RawFile[]> {
  if (!existsSync(raw)) throw new UsageError(`There is no folder ${raw} with raw files; name it with --raw.`);
  const found: { entry: SourceEntry; path: string; label: string }[] = [];
  for (const entry of recipe.sources) {
    const paths: string[] = [];
    for (const pattern of entry.files)
      paths.push(
        ...(await Array.fromAsync(new Bun.Glob(pattern).scan({ cwd: raw, followSymlinks: true }))).sort(),
      );
    const own = [...new Set(paths)];
    if (own.length === 0 && !entry.optional)
      throw new UsageError(
        `The source ${entry.name} has no files: ${entry.files.join(", ")} matches nothing below ${raw}. Put them there, or write optional = true.`,
      );
    const labels = fileLabels(own);
    own.forEach((path, i) => found.push({ entry, path: join(raw, path), label: labels[i]! }));
  }
  const files: RawFile[] = [];
  for (const [i, file] of found.entries()) {
    files.push({ ...file, sha256: await hashFile(file.path) });
    onProgress?.("hashing raw files", i + 1, found.length);
  }
  return files;
}

const readInputs = (recipe: CurationRecipe, files: readonly RawFile[]): Json => [
  curationVersion,
  files.map(({ entry: { name, source, options, licence = null }, label, sha256 }) => {
    return { name, source, options, licence, label, sha256 } as Json;
  }),
];

async function readStage({ out, onProgress }: CurationOptions, files: readonly RawFile[]): Promise<string[]> {
  const names = ["read/dialogues.jsonl", "dropped/read-dropped.jsonl", "read/report.json"] as const;
  const dialogues = await LineWriter.open(join(out, names[0]));
  const drops = await LineWriter.open(join(out, names[1]));
  const reports: ReadReport[] = [];
  for (const { entry, path, label, sha256 } of files) {
    const report: ReadReport = {
      source: entry.name,
      file: label,
      sha256,
      verdicts: { ok: 0, repaired: 0, dropped: 0 },
      reasons: {},
    };
    const { size } = Bun.file(path);
    const read = readDialogues(path, {
      source: entry.source,
      options: entry.options,
      sourceName: entry.name,
      file: label,
      ...(entry.licence === undefined ? {} : { licence: entry.licence }),
      onBytes: (bytes) => onProgress?.(`reading ${entry.name}/${label}`, bytes, size),
    });
    for await (const one of read) {
      report.verdicts[one.verdict]++;
      const words = one.verdict === "ok" ? null : one.verdict === "repaired" ? one.reason : one.drop.reason;
      if (words !== null) report.reasons[words] = (report.reasons[words] ?? 0) + 1;
      if (one.verdict === "dropped") await drops.write(one.drop);
      else await dialogues.write(one.dialogue);
    }
    reports.push(report);
  }
  await dialogues.close();
  await drops.close();
  await writeWhole(join(out, names[2]), `${JSON.stringify(reports, null, 2)}\n`);
  return [...names];
}

/** Question files by their content, and the tokenizer by what it does. */
async function filterInputs(options: CurationOptions): Promise<Json> {
  const { recipe, model } = options;
  const questions: Json[] = [];
  for (const { spec } of recipe.filters)
    if (spec.rule === "leakage")
      for (const { path } of spec.questions) questions.push(await hashFile(materialPath(options, path)));
  const byTokens = recipe.filters.some(({ spec }) => spec.rule === "split" && spec.unit === "tokens");
  const tokenizer = byTokens ? await hashTokenizer(model) : null;
  return [recipe.filters as unknown as Json, recipe.seed, questions, tokenizer];
}

/** A file that the recipe names: below the raw files, or beside the recipe. */
export function materialPath(
  { raw, directory }: { raw: string | null; directory: string },
  path: string,
): string {
  const below = raw === null ? null : resolve(raw, path);
  return below !== null && existsSync(below) ? below : resolve(directory, path);
}

/** With paths that need no folder. */
function withPaths(options: CurationOptions, spec: FilterSpec): FilterSpec {
  if (spec.rule !== "leakage") return spec;
  const questions = spec.questions.map((one) => ({ ...one, path: materialPath(options, one.path) }));
  return { ...spec, questions };
}

async function filterStage(options: CurationOptions, { tokenizer }: DataSource): Promise<string[]> {
  const { recipe, out, directory, onProgress } = options;
  const names = [
    "filtered/dialogues.jsonl",
    "dropped/filters-dropped.jsonl",
    "filtered/report.json",
  ] as const;
  const context = {
    seed: recipe.seed,
    directory,
    countTokens: (text: string) => tokenizer.encode(text, { addSpecialTokens: false }).length,
  };
  const built = await buildFilters(
    recipe.filters.map(({ spec }) => withPaths(options, spec)),
    context,
  );
  const filters = built.map((filter, i) => limitedTo(filter, recipe.filters[i]!.sources));
  const kept = await LineWriter.open(join(out, names[0]));
  const drops = await LineWriter.open(join(out, names[1]));
  const reports = (await Bun.file(join(out, "read/report.json")).json()) as ReadReport[];
  const expected = reports.reduce((sum, { verdicts }) => sum + verdicts.ok + verdicts.repaired, 0);
  let seen = 0;
  async function* counted(): AsyncGenerator<Dialogue> {
    for await (const dialogue of readLines<Dialogue>(join(out, "read/dialogues.jsonl"))) {
      onProgress?.("filtering", ++seen, expected);
      yield dialogue;
    }
  }
  const sinks = {
    kept: (dialogue: Dialogue) => kept.write(dialogue),
    dropped: (drop: Drop) => drops.write(drop),
  };
  const workDirectory = join(out, "filtered", "passes");
  const report = await runFilters(counted(), filters, sinks, {
    workDirectory,
    expected,
    ...(onProgress ? { onProgress } : {}),
  });
  await rm(workDirectory, { recursive: true, force: true });
  await kept.close();
  await drops.close();
  await writeWhole(join(out, names[2]), `${JSON.stringify(report, null, 2)}\n`);
  return [...names];
}
