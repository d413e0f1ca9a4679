/** A curation recipe: which raw files become one model's training data, and how. TOML, checked field by field.
 *  Always: unknown keys are errors that say what was probably meant; a recipe that parses is complete: every default is here. */
import { z } from "zod";
import { closest } from "../util/closest.ts";
import { UsageError } from "../util/errors.ts";
import { parseFilters, type FilterSpec } from "./filters/registry.ts";
import { checkSourceOptions, sourceNamed, sourceNames } from "./sources/registry.ts";
import type { SourceOptions } from "./sources/source.ts";
import { wartNames, wartsOf, type Wart, type Warts } from "./warts.ts";

const option = z.union([z.string(), z.number(), z.boolean(), z.array(z.string())]);

const source = z.strictObject({
  /** The parser: one of `koala data sources`, or auto. */
  source: z.enum(["auto", ...sourceNames]).default("auto"),
  /** What the tables and ids call it; the parser's name by default. */
  name: z
    .string()
    .regex(/^[\w.-]+$/)
    .optional(),
  /** Below the folder of raw files; * and ** match names. */
  files: z.array(z.string().min(1)).min(1),
  /** Files that are not there are noted, not an error. */
  optional: z.boolean().default(false),
  /** Settings of the parser. */
  options: z.record(z.string(), option).default({}),
  licence: z.string().optional(),
  /** Most dialogues of the training part, drawn by the seed. */
  max: z.int().min(1).optional(),
  /** How often the training part goes into the mixture: 5 is five times, 0.5 a drawn half. */
  repeat: z.number().positive().max(1000).optional(),
  /** Share of the mixture's dialogues, relative to the other sources' weights. Instead of `repeat`. */
  weight: z.number().positive().optional(),
  /** Share of the dialogues that is kept for evaluation. */
  eval_share: z.number().min(0).lt(1).optional(),
});

const recipe = z.strictObject({
  /** Names the model in tables and folders. */
  name: z.string().regex(/^[\w.-]+$/),
  about: z.string().default(""),
  seed: z
    .int()
    .min(0)
    .max(2 ** 31 - 1)
    .default(0),
  /** koala: the original's records, faults included. */
  compat: z.enum(["none", "koala"]).default("none"),
  /** One or the other of the original's faults, on or off. */
  warts: z.partialRecord(z.enum(wartNames as [Wart, ...Wart[]]), z.boolean()).default({}),
  sources: z.array(source).min(1),
  filters: z.array(z.looseObject({ rule: z.string(), sources: z.array(z.string()).optional() })).default([]),
  mixture: z
    .strictObject({
      /** Dialogues of the training part where sources have weights; by default so many that none is repeated. */
      size: z.int().min(1).optional(),
      eval_share: z.number().min(0).lt(1).default(0),
    })
    .prefault({}),
  /** A training recipe without data and output; `koala train` knows its keys. */
  train: z.record(z.string(), z.unknown()),
});

type Parsed = z.output<typeof recipe>;

export interface SourceEntry extends Omit<Parsed["sources"][number], "name"> {
  name: string;
}

export interface FilterEntry {
  spec: FilterSpec;
  /** Only dialogues of these; null: all. */
  sources: readonly string[] | null;
}

export interface CurationRecipe extends Omit<Parsed, "sources" | "filters" | "warts"> {
  sources: SourceEntry[];
  filters: FilterEntry[];
  warts: Warts;
}

export async function readCurationRecipe(path: string): Promise<CurationRecipe> {
  return checkCurationRecipe(await readToml(path), path);
}

/** A TOML file as plain values. */
export async function readToml(path: string): Promise<Record<string, unknown>> {
  const file = Bun.file(path);
  if (!(await file.exists())) throw new UsageError(`There is no recipe ${path}.`);
  try {
    return Bun.TOML.parse(await file.text()) as Record<string, unknown>;
  } catch (error) {
    throw new UsageError(`${path} is not TOML: ${error instanceof Error ? error.message : String(error)}.`);
  }
}

/** The recipe in `value`, checked and completed, with the warts turned into settings of sources and filters. */
export function checkCurationRecipe(value: unknown, path: string): CurationRecipe {
  const parsed = checkTable(recipe, value, path);
  const warts = wartsOf(parsed.compat, parsed.warts as Partial<Record<Wart, boolean>>);
  const sources = parsed.sources.map((entry) => sourceEntry(entry, warts));
  refuseDoubles(sources, path);
  const names = new Set(sources.map(({ name }) => name));
  const filters = parsed.filters.map(({ sources: only, ...table }, i): FilterEntry => {
    const stranger = only?.find((name) => !names.has(name));
    if (stranger !== undefined)
      throw new UsageError(
        `${path}: [[filters]] ${i + 1} names the source ${stranger}; there are ${[...names].join(", ")}.`,
      );
    if (table.rule === "keywords" && warts.keyword_substring) table = { match: "substring", ...table };
    return { spec: filterOf(table, path, i), sources: only ?? null };
  });
  const weighted = sources.filter(({ weight }) => weight !== undefined);
  if (weighted.length > 0 && weighted.length < sources.length)
    throw new UsageError(
      `${path}: ${weighted[0]!.name} has a weight and another source has none; give all of them one, or none.`,
    );
  return { ...parsed, sources, filters, warts };
}

function sourceEntry(entry: Parsed["sources"][number], warts: Warts): SourceEntry {
  const asked = sourceWarts.filter(({ wart, source: name }) => warts[wart] && name === entry.source);
  const options = { ...Object.assign({}, ...asked.map(({ option }) => option)), ...entry.options };
  if (entry.source !== "auto") checkSourceOptions(sourceNamed(entry.source), options);
  else if (entry.name === undefined)
    throw new UsageError('A source that is "auto" needs a name, for tables and ids.');
  return { ...entry, options, name: entry.name ?? entry.source };
}

/** Warts that are settings of a parser; what the recipe says itself goes before. */
const sourceWarts: readonly { wart: Wart; source: string; option: SourceOptions }[] = [
  { wart: "alpaca_space", source: "alpaca", option: { joiner: " " } },
  { wart: "hh_split_anywhere", source: "hh", option: { split: "anywhere" } },
  { wart: "hh_echo", source: "hh", option: { echo: true } },
  { wart: "webgpt_spaces", source: "webgpt", option: { compat: true } },
  { wart: "summary_phrases", source: "summarization", option: { phrases: "koala" } },
  { wart: "oig_no_background", source: "oig", option: { leading: "drop" } },
];

function refuseDoubles(sources: readonly SourceEntry[], path: string): void {
  const seen = new Set<string>();
  for (const { name, weight, repeat } of sources) {
    if (seen.has(name))
      throw new UsageError(`${path}: two sources are called ${name}; give one another name.`);
    if (weight !== undefined && repeat !== undefined)
      throw new UsageError(`${path}: the source ${name} has a weight and a repeat; they exclude each other.`);
    seen.add(name);
  }
}

function filterOf(table: Record<string, unknown>, path: string, index: number): FilterSpec {
  try {
    return parseFilters([table])[0]!;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError(`${path}: ${error.message.replace("[[filters]] 1", `[[filters]] ${index + 1}`)}`);
  }
}

/** Checks a table of a recipe; all faults in one sentence, each with its key. */
export function checkTable<T>(schema: z.ZodType<T>, value: unknown, path: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const faults = result.error.issues.map((issue) => {
    const key = issue.path.map((part) => (typeof part === "number" ? part + 1 : String(part))).join(" ");
    const said = issue.message.endsWith("received undefined") ? "is missing" : issue.message;
    const text = issue.code === "unrecognized_keys" ? unknownKeys(schema, issue) : said;
    return key === "" ? text : `${key}: ${text}`;
  });
  throw new UsageError(`${path} is not a recipe of this kind: ${faults.join("; ")}.`);
}

function unknownKeys(schema: z.ZodType, { keys, path }: { keys: string[]; path: PropertyKey[] }): string {
  const known = keysAt(schema, path);
  return keys
    .map((key) => {
      const meant = closest(key, known);
      const hint = meant === null ? `known are ${known.join(", ")}` : `did you mean ${meant}?`;
      return `there is no key ${key}; ${hint}`;
    })
    .join("; ");
}

/** Keys of the object that stands at `path` of a schema. */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  // any: zod's inner types differ by kind, and only these fields of them are read
  let at = schema as any;
  const unwrap = (): void => {
    while (at?.def?.innerType) at = at.def.innerType;
  };
  for (const part of path) {
    unwrap();
    at = typeof part === "number" ? at?.def?.element : at?.def?.shape?.[part];
  }
  unwrap();
  return Object.keys(at?.def?.shape ?? {});
}
