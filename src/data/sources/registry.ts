/** All sources, and which of them a file is, told from its first records. */
import type { JsonObject } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";
import { alpacaSource } from "./alpaca.ts";
import { hc3Source } from "./hc3.ts";
import { hhSource } from "./hh.ts";
import { identitySource } from "./identity.ts";
import { messagesSource } from "./messages.ts";
import { oigSource } from "./oig.ts";
import { pairsSource } from "./pairs.ts";
import { sharegptSource } from "./sharegpt.ts";
import type { Source, SourceOptions } from "./source.ts";
import { summarizationSource } from "./summarization.ts";
import { ultrachatSource } from "./ultrachat.ts";
import { webgptSource } from "./webgpt.ts";

/** In the order in which they are tried: a record with more specific keys first. */
export const sources: readonly Source[] = [
  hc3Source,
  webgptSource,
  summarizationSource,
  hhSource,
  pairsSource,
  oigSource,
  identitySource,
  ultrachatSource,
  messagesSource,
  sharegptSource,
  alpacaSource,
];

export const sourceNames: readonly string[] = sources.map((source) => source.name);

export function sourceNamed(name: string): Source {
  const source = sources.find((candidate) => candidate.name === name);
  if (source) return source;
  throw new UsageError(`There is no source ${name}; known are ${sourceNames.join(", ")}.`);
}

/** The source that most of these records look like; ties go to the first in the list. */
export function detectSource(records: readonly JsonObject[], file: string): Source {
  let best: Source | null = null;
  let bestCount = 0;
  for (const source of sources) {
    const count = records.filter((record) => source.matches(record)).length;
    if (count > bestCount) [best, bestCount] = [source, count];
  }
  if (best) return best;
  const keys = records[0]
    ? `The first record has the keys ${Object.keys(records[0]).slice(0, 20).join(", ")}`
    : "No record is a JSON object";
  const known = sources.map(({ name, keys: needed }) => `${name} (${needed})`).join("; ");
  throw new UsageError(`${file} looks like no known source. ${keys}; known are ${known}.`);
}

/** Refuses settings that the source does not have, or of the wrong kind. */
export function checkSourceOptions(source: Source, options: SourceOptions): void {
  for (const [name, value] of Object.entries(options)) {
    const option = Object.hasOwn(source.options ?? {}, name) ? source.options![name]! : null;
    if (option === null) {
      const known = Object.keys(source.options ?? {});
      const hint = known.length > 0 ? `it has ${known.join(", ")}` : "it has none";
      throw new UsageError(`The source ${source.name} has no setting ${name}; ${hint}.`);
    }
    const fits = typeof value === option.type && (option.choices?.includes(value as string) ?? true);
    const wanted = option.choices ? option.choices.map((choice) => `"${choice}"`).join(" or ") : option.type;
    if (value !== undefined && !fits)
      throw new UsageError(
        `The setting ${name} of the source ${source.name} must be ${wanted}, not ${JSON.stringify(value)}.`,
      );
  }
}

export interface SourceRow {
  name: string;
  about: string;
  keys: string;
  licence: string | null;
}

/** For tables and help. */
export function sourceTable(): SourceRow[] {
  return sources.map(({ name, about, keys, licence }) => ({ name, about, keys, licence }));
}
