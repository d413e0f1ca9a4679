/** Reads a training file record by record, compressed or not, and gives each record a verdict.
 *  Always: the file is streamed; every record comes out once, as ok, repaired or dropped, with file, line and reason. */
import { basename } from "node:path";
import { UsageError } from "../util/errors.ts";
import { detectFormat, formatNamed, type Format, type FormatOptions } from "./formats/format.ts";
import { rawValues, type RawValue } from "./raw_values.ts";
import { RecordFault, type TrainingRecord } from "./record.ts";

export interface ReadOptions extends FormatOptions {
  /** A format's name; "auto" (default) looks at the first records. */
  format?: string;
  /** Called with the bytes of the file itself, before decompression. */
  onBytes?: (bytesRead: number) => void;
}

export type ReadRecord = { file: string; line: number } & (
  | { verdict: "ok"; record: TrainingRecord }
  | { verdict: "repaired"; record: TrainingRecord; reason: string }
  | { verdict: "dropped"; reason: string }
);

/** The records of one file, in order. Throws a UsageError where the file as a whole cannot be read. */
export async function* readRecords(path: string, options: ReadOptions = {}): AsyncGenerator<ReadRecord> {
  const file = basename(path);
  let format = options.format && options.format !== "auto" ? formatNamed(options.format) : null;
  let waiting: RawValue[] = [];
  let count = 0;
  for await (const batch of rawValues(path, { onBytes: options.onBytes })) {
    count += batch.length;
    waiting = waiting.length === 0 ? batch : waiting.concat(batch);
    if (!format && waiting.length < recordsToDetect) continue;
    format ??= detected(waiting, file, options);
    for (const decoded of waiting) yield parse(decoded, file, format, options);
    waiting = [];
  }
  if (count === 0) throw new UsageError(`${file} is empty: it holds no records.`);
  format ??= detected(waiting, file, options);
  for (const decoded of waiting) yield parse(decoded, file, format, options);
}

const recordsToDetect = 20;

function detected(waiting: readonly RawValue[], file: string, options: FormatOptions): Format {
  const values = waiting.slice(0, recordsToDetect).flatMap(({ value }) => (value ? [value] : []));
  if (values.length === 0 && waiting[0])
    throw new UsageError(
      `${file} line ${waiting[0].line}: ${waiting[0].reason}; none of the first ${waiting.length} records can be read.`,
    );
  return detectFormat(values, file, options);
}

function parse(decoded: RawValue, file: string, format: Format, options: FormatOptions): ReadRecord {
  const { line, value, reason } = decoded;
  if (value === null) return { file, line, verdict: "dropped", reason };
  try {
    const { record, repairs } = format.parse(value, options);
    if (repairs.length === 0) return { file, line, verdict: "ok", record };
    return { file, line, verdict: "repaired", record, reason: repairs.join("; ") };
  } catch (error) {
    if (error instanceof RecordFault) return { file, line, verdict: "dropped", reason: error.message };
    throw error;
  }
}
