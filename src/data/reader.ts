/** Reads a training file record by record, compressed or not, and gives each record a verdict.
 *  Always: the file is streamed; every record comes out once, as ok, repaired or dropped, with file, line and reason. */
import { createReadStream } from "node:fs";
import { basename } from "node:path";
import { pipeline, type Readable } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { isObject, type JsonObject } from "../text/tokenizer_file.ts";
import { UsageError } from "../util/errors.ts";
import { detectFormat, formatNamed, type Format, type FormatOptions } from "./formats/format.ts";
import { RecordFault, type TrainingRecord } from "./record.ts";
import {
  ArraySplitter,
  LineSplitter,
  SplitFault,
  TextSplitter,
  type RawRecord,
  type Splitter,
} from "./splitters.ts";

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
  let waiting: Decoded[] = [];
  let count = 0;
  for await (const batch of rawRecords(path, options)) {
    for (const raw of batch) {
      count++;
      waiting.push(decode(raw, path));
    }
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

interface Decoded {
  line: number;
  value: JsonObject | null;
  reason: string;
}

const isTextFile = (path: string): boolean => /\.txt(\.gz|\.zst)?$/i.test(path);

function detected(waiting: readonly Decoded[], file: string, options: FormatOptions): Format {
  const values = waiting.slice(0, recordsToDetect).flatMap(({ value }) => (value ? [value] : []));
  if (values.length === 0 && waiting[0])
    throw new UsageError(
      `${file} line ${waiting[0].line}: ${waiting[0].reason}; none of the first ${waiting.length} records can be read.`,
    );
  return detectFormat(values, file, options);
}

function decode({ line, bytes }: RawRecord, path: string): Decoded {
  let text: string;
  try {
    // The decoder also takes a byte order mark off.
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return { line, value: null, reason: "the bytes are not UTF-8" };
  }
  if (isTextFile(path)) return { line, value: { text }, reason: "" };
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return { line, value, reason: "" };
    return { line, value: null, reason: "the line is no JSON object" };
  } catch (error) {
    return { line, value: null, reason: `malformed JSON (${(error as Error).message})` };
  }
}

function parse(decoded: Decoded, file: string, format: Format, options: FormatOptions): ReadRecord {
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

async function* rawRecords(path: string, { onBytes }: ReadOptions): AsyncGenerator<RawRecord[]> {
  let splitter: Splitter | null = isTextFile(path) ? new TextSplitter() : null;
  try {
    for await (const chunk of openStream(path, onBytes) as AsyncIterable<Uint8Array>) {
      const start = splitter ? -1 : chunk.findIndex((byte) => byte > 0x20 && !isByteOrderMark(byte));
      if (!splitter && start < 0) continue; // nothing but blanks so far
      splitter ??= chunk[start] === 0x5b ? new ArraySplitter() : new LineSplitter();
      yield splitter.push(chunk);
    }
    if (splitter) yield splitter.finish();
  } catch (error) {
    if (error instanceof SplitFault)
      throw new UsageError(`${basename(path)} line ${error.line}: ${error.reason}.`);
    if (error instanceof Error && "code" in error) throw unreadable(path, error);
    throw error;
  }
}

const isByteOrderMark = (byte: number): boolean => byte === 0xef || byte === 0xbb || byte === 0xbf;

function openStream(path: string, onBytes: ReadOptions["onBytes"]): Readable {
  const file = createReadStream(path, { highWaterMark: 2 ** 18 });
  let bytesRead = 0;
  if (onBytes) file.on("data", (chunk) => onBytes((bytesRead += chunk.length)));
  const decompress = path.endsWith(".gz")
    ? createGunzip()
    : path.endsWith(".zst")
      ? createZstdDecompress()
      : null;
  // Errors of either stream reach whoever iterates over the last one.
  return decompress ? pipeline(file, decompress, () => {}) : file;
}

function unreadable(path: string, error: Error & { code?: unknown }): Error {
  if (error.code === "ENOENT") return new UsageError(`There is no file ${path}.`);
  if (error.code === "EISDIR") return new UsageError(`${path} is a folder; name the data file in it.`);
  return new UsageError(`${path} cannot be read: ${error.message} (${String(error.code)}).`);
}
