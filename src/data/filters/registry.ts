/** All filters by name: what a recipe may write in a `[[filters]]` table, and the filter that comes of it.
 *  Always: unknown rules and unknown keys are errors that name the table. */
import { isAbsolute, join } from "node:path";
import { z } from "zod";
import { UsageError } from "../../util/errors.ts";
import { readQuestions } from "../question_sets.ts";
import { artefactOptions, Artefacts } from "./artefacts.ts";
import { Dedup, dedupOptions } from "./dedup.ts";
import { emptyTurnOptions, EmptyTurns } from "./empty_turns.ts";
import type { Filter } from "./filter.ts";
import { keywordOptions, Keywords } from "./keywords.ts";
import { Language, languageOptions } from "./language.ts";
import { Leakage, leakageOptions } from "./leakage.ts";
import { Length, lengthOptions } from "./length.ts";
import { Licence, licenceOptions } from "./licence.ts";
import { NearDedup, nearDedupOptions } from "./near_dedup.ts";
import { Pii, piiOptions } from "./pii.ts";
import { refusalOptions, Refusals } from "./refusals.ts";
import { roleOptions, Roles } from "./roles.ts";
import { Split, splitOptions } from "./split.ts";

/** One table of a recipe. */
export const filterSpec = z.discriminatedUnion("rule", [
  artefactOptions,
  dedupOptions,
  emptyTurnOptions,
  keywordOptions,
  languageOptions,
  leakageOptions,
  lengthOptions,
  licenceOptions,
  nearDedupOptions,
  piiOptions,
  refusalOptions,
  roleOptions,
  splitOptions,
]);

/** With every default filled in. */
export type FilterSpec = z.output<typeof filterSpec>;

export interface FilterContext {
  /** The recipe's seed. */
  seed: number;
  /** Folder that paths in the recipe are relative to. */
  directory: string;
  /** Tokens of a text, for `split` by tokens. */
  countTokens?: (text: string) => number;
}

/** Checks the tables of a recipe. */
export function parseFilters(tables: readonly unknown[]): FilterSpec[] {
  return tables.map((table, i) => {
    const result = filterSpec.safeParse(table);
    if (result.success) return result.data;
    const issues = result.error.issues.map(({ path, message }) => `${path.join(".") || "table"}: ${message}`);
    throw new UsageError(`[[filters]] ${i + 1}: ${issues.join("; ")}.`);
  });
}

/** The filters in the recipe's order. Throws a UsageError where one cannot be made. */
export async function buildFilters(specs: readonly FilterSpec[], context: FilterContext): Promise<Filter[]> {
  const filters: Filter[] = [];
  for (const spec of specs) filters.push(await buildFilter(spec, context));
  return filters;
}

async function buildFilter(spec: FilterSpec, context: FilterContext): Promise<Filter> {
  switch (spec.rule) {
    case "artefacts":
      return new Artefacts(spec);
    case "dedup":
      return new Dedup(spec);
    case "empty_turns":
      return new EmptyTurns(spec);
    case "keywords":
      return new Keywords(spec);
    case "language":
      return Language.create(spec);
    case "leakage":
      return buildLeakage(spec, context);
    case "length":
      return new Length(spec);
    case "licence":
      return new Licence(spec);
    case "near_dedup":
      return new NearDedup(spec, context.seed);
    case "pii":
      return new Pii(spec);
    case "refusals":
      return new Refusals(spec);
    case "roles":
      return new Roles(spec);
    case "split":
      return new Split(spec, counterOf(spec.unit, context));
    default:
      return spec satisfies never;
  }
}

async function buildLeakage(
  spec: FilterSpec & { rule: "leakage" },
  { directory }: FilterContext,
): Promise<Leakage> {
  const sets = await Promise.all(
    spec.questions.map(({ path, set, view }) =>
      readQuestions(
        isAbsolute(path) ? path : join(directory, path),
        set === undefined ? { view } : { set, view },
      ),
    ),
  );
  const questions = sets.flat();
  if (new Set(questions.map(({ id }) => id)).size < questions.length)
    throw new UsageError(
      "Two question files of the leakage filter have the same ids; give each its own set.",
    );
  return new Leakage(questions, spec);
}

function counterOf(unit: "tokens" | "characters", { countTokens }: FilterContext): (text: string) => number {
  if (unit === "characters") return (text) => text.length;
  if (countTokens) return countTokens;
  throw new UsageError(
    'The filter split counts tokens, and there is no tokenizer: name a model, or write unit = "characters".',
  );
}
