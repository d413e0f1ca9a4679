/** The formats of training files, and which of them a file is in, told from its first records. */
import { UsageError } from "../../util/errors.ts";
import type { JsonObject } from "../../text/tokenizer_file.ts";
import type { Parsed } from "../record.ts";
import { alpacaFormat } from "./alpaca.ts";
import { dialogueFormat } from "./dialogue.ts";
import { fieldsFormat } from "./fields.ts";
import { labelledFormat } from "./labelled.ts";
import { messagesFormat } from "./messages.ts";
import { openaiDpoFormat } from "./openai_dpo.ts";
import { preferenceFormat } from "./preference.ts";
import { sharegptFormat } from "./sharegpt.ts";
import { textFormat } from "./text.ts";

/** Only EasyLM's fields need any of these. */
export interface FormatOptions {
  /** The specification for records that bring none. */
  fields?: string;
  /** In front of the first field, if that is text (default: Koala's `BEGINNING OF CONVERSATION: `). */
  prependText?: string;
  /** Between subfields (default: one space). */
  subfieldSeparator?: string;
}

export interface Format {
  readonly name: string;
  /** What a record needs, for messages. */
  readonly keys: string;
  matches(record: JsonObject, options: FormatOptions): boolean;
  /** Throws a RecordFault for a record that must be dropped. */
  parse(record: JsonObject, options: FormatOptions): Parsed;
}

/** In the order in which they are tried: a record with more specific keys first. */
export const formats: readonly Format[] = [
  dialogueFormat,
  fieldsFormat,
  openaiDpoFormat,
  preferenceFormat,
  labelledFormat,
  messagesFormat,
  sharegptFormat,
  alpacaFormat,
  textFormat,
];

export const formatNames: readonly string[] = formats.map((format) => format.name);

export function formatNamed(name: string): Format {
  const format = formats.find((candidate) => candidate.name === name);
  if (format) return format;
  throw new UsageError(`There is no data format ${name}; known are ${formatNames.join(", ")}.`);
}

/** The format that most of these records have; ties go to the first in the list. */
export function detectFormat(
  records: readonly JsonObject[],
  file: string,
  options: FormatOptions = {},
): Format {
  let best: Format | null = null;
  let bestCount = 0;
  for (const format of formats) {
    const count = records.filter((record) => format.matches(record, options)).length;
    if (count > bestCount) [best, bestCount] = [format, count];
  }
  if (best) return best;
  const keys = records[0]
    ? `The first record has the keys ${Object.keys(records[0]).join(", ")}`
    : "No line holds a JSON object";
  const known = formats.map(({ name, keys: needed }) => `${name} (${needed})`).join("; ");
  throw new UsageError(`${file} is in no known format. ${keys}; known formats are ${known}.`);
}
