/** `koala card`: the model card of a trained model or of its diff, from what its training, its data and its study left behind. */
import { readdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { Command } from "commander";
import { headerFile, readDiff } from "../release/diff_file.ts";
import { type CompositionRow, type EvaluationRow, modelCard } from "../release/model_card.ts";
import { hashFile } from "../text/fingerprint.ts";
import { UsageError } from "../util/errors.ts";

interface CardFlags {
  model: string;
  name?: string;
  base?: string;
  licence?: string;
  about?: string;
  composition?: string;
  results?: string;
  force: boolean;
}

export function register(program: Command): void {
  program
    .command("card")
    .description(
      "write README.md, the model card, into a model's or a diff's folder: training, data, evaluation, hashes",
    )
    .requiredOption("--model <folder>", "folder of the model or of the diff")
    .option("--name <text>", "the model's name (default: its folder's)")
    .option("--base <name>", "the base model, for the hub's base_model (default: what the training recorded)")
    .option("--licence <id>", "licence of the weights, as the hub spells it, such as apache-2.0")
    .option("--about <text>", "a paragraph of your own, put in front")
    .option("--composition <file>", "composition.json that koala data curate wrote")
    .option("--results <file>", "results.json that koala eval report wrote")
    .option("--force", "write over a README.md that is there", false)
    .action(run);
}

async function run(flags: CardFlags): Promise<void> {
  const path = join(flags.model, "README.md");
  if (!flags.force && (await stat(path).catch(() => null)))
    throw new UsageError(`${path} is there already; name --force to write over it.`);
  const isDiff = (await stat(join(flags.model, headerFile)).catch(() => null)) !== null;
  const record = await optionalJson(join(flags.model, "koala.json"));
  const recorded = isDiff ? (await readDiff(flags.model)).base : record?.["base"];
  const card = modelCard({
    name: flags.name ?? basename(resolve(flags.model)),
    licence: flags.licence ?? null,
    base: flags.base ?? (typeof recorded === "string" ? recorded : null),
    record,
    composition: flags.composition ? await compositionRows(flags.composition) : null,
    evaluation: flags.results ? await evaluationRows(flags.results) : null,
    files: await hashes(flags.model),
    isDiff,
    about: flags.about ?? null,
  });
  await Bun.write(path, card);
  console.log(`${path}: written`);
}

async function hashes(folder: string): Promise<{ name: string; bytes: number; sha256: string }[]> {
  const names = await readdir(folder).catch(() => {
    throw new UsageError(`There is no folder ${folder}.`);
  });
  const kept = names.filter((name) => /\.(safetensors|bin|gguf|json|model|jinja)$/.test(name)).sort();
  const files: { name: string; bytes: number; sha256: string }[] = [];
  for (const name of kept) {
    const { size: bytes } = await stat(join(folder, name));
    files.push({ name, bytes, sha256: await hashFile(join(folder, name)) });
  }
  if (files.length === 0) throw new UsageError(`${folder} holds neither a model nor a diff.`);
  return files;
}

async function compositionRows(path: string): Promise<CompositionRow[]> {
  const { sources } = (await requiredJson(path)) as { sources?: CompositionRow[] };
  if (!Array.isArray(sources))
    throw new UsageError(
      `${path} is no composition: it has no list of sources. koala data curate writes composition.json.`,
    );
  return sources.map((row) => ({ ...row, licence: row.licence ?? null }));
}

interface Headline {
  pair: [string, string];
  set: string;
  rate: Omit<EvaluationRow, "pair" | "set" | "interval"> & { scoreInterval: [number, number] | null };
}

async function evaluationRows(path: string): Promise<EvaluationRow[]> {
  const { headline } = (await requiredJson(path)) as { headline?: Headline[] };
  if (!Array.isArray(headline))
    throw new UsageError(`${path} holds no results of a comparison; koala eval report writes results.json.`);
  return headline.map(({ pair, set, rate: { scoreInterval, ...rate } }) => ({
    ...rate,
    pair: pair.join(" against "),
    set,
    interval: scoreInterval,
  }));
}

async function requiredJson(path: string): Promise<{ [key: string]: unknown }> {
  const json = await optionalJson(path);
  if (json === null) throw new UsageError(`There is no file ${path}.`);
  return json;
}

async function optionalJson(path: string): Promise<{ [key: string]: unknown } | null> {
  const file = Bun.file(path);
  if (!(await file.exists())) return null;
  return (await file.json().catch((error: Error) => {
    throw new UsageError(`${path} is not JSON: ${error.message}.`);
  })) as { [key: string]: unknown };
}
