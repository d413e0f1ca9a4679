/** The raw records of a file as JSON objects: JSON lines, an array, an object of arrays, parquet or text, compressed or not.
 *  Always: the file is streamed and what is held has a limit; whatever ends it too early comes after all that stood before. */
import { basename } from "node:path";
import { isObject, type JsonObject } from "../text/tokenizer_file.ts";
import { UsageError } from "../util/errors.ts";
import { fileBytes } from "./decompress.ts";
import { parquetRows } from "./parquet.ts";
import {
  ArraySplitter,
  LineSplitter,
  recordBytesMax,
  SplitFault,
  TextSplitter,
  type RawRecord,
  type Splitter,
} from "./splitters.ts";

export interface RawValue {
  /** Where it begins, from 1; in parquet the row. */
  line: number;
  /** Null with a reason where it cannot be read. */
  value: JsonObject | null;
  reason: string;
  /** Key of the array it lies in, such as `train`. */
  section: string | null;
  /** Of what cannot be read, the beginning. */
  excerpt: string;
}

export interface RawOptions {
  /** Called with the bytes of the file itself, before decompression. */
  onBytes?: ((bytesRead: number) => void) | undefined;
  /** Longer records are skipped and told. */
  recordBytesMax?: number | undefined;
  /** Records that are lists come as `{list: [...]}` instead of a fault. */
  lists?: boolean;
}

/** The file ends too early or breaks off; all that stood before was given. */
export class BrokenFile extends UsageError {
  constructor(
    path: string,
    readonly line: number,
    readonly reason: string,
  ) {
    super(`${basename(path)} line ${line}: ${reason}.`);
  }
}

/** In batches. Throws a UsageError where there is no such file, and a BrokenFile at the end of a truncated one. */
export async function* rawValues(path: string, options: RawOptions = {}): AsyncGenerator<RawValue[]> {
  try {
    if (/\.parquet$/i.test(path)) yield* parquetValues(path, options);
    else
      for await (const records of rawRecords(path, options))
        yield records.map((raw) => decode(raw, path, options));
  } catch (error) {
    if (error instanceof Error && "code" in error) throw unreadable(path, error);
    throw error;
  }
}

async function* parquetValues(path: string, { onBytes }: RawOptions): AsyncGenerator<RawValue[]> {
  for await (const batch of parquetRows(path, onBytes))
    yield batch.map((row) => {
      if ("value" in row) return { line: row.row, value: row.value, reason: "", section: null, excerpt: "" };
      const reason = row.rows > 1 ? `${row.fault}, and with it ${row.rows} rows` : row.fault;
      return { line: row.row, value: null, reason, section: null, excerpt: "" };
    });
}

async function* rawRecords(path: string, options: RawOptions): AsyncGenerator<RawRecord[]> {
  let splitter: Splitter | null = null;
  let head: Uint8Array[] = [];
  let headBytes = 0;
  const begin = (): RawRecord[] => {
    const bytes = Buffer.concat(head);
    head = [];
    splitter = chooseSplitter(bytes, path, options.recordBytesMax ?? recordBytesMax);
    return splitter.push(bytes);
  };
  try {
    for await (const chunk of fileBytes(path, options.onBytes)) {
      if (splitter) {
        yield (splitter as Splitter).push(chunk);
        continue;
      }
      head.push(chunk.slice());
      headBytes += chunk.length;
      if (headBytes >= headBytesMax) yield begin();
    }
  } catch (error) {
    if (!(error instanceof Error && "code" in error) || isFileSystemError(error)) throw error;
    if (!splitter) yield begin();
    throw new BrokenFile(path, (splitter as unknown as Splitter).openLine, brokenStream(error));
  }
  if (!splitter) yield begin();
  try {
    yield (splitter as unknown as Splitter).finish();
  } catch (error) {
    if (error instanceof SplitFault) throw new BrokenFile(path, error.line, error.reason);
    throw error;
  }
}

const headBytesMax = 2 ** 20;

const isTextFile = (path: string): boolean => /\.txt(\.gz|\.zst)?$/i.test(path);

/** By what the file begins with: an array; an object of arrays, as Koala's pipeline reads; else one record a line, which may
 *  be a list itself, as in WebGPT's comparisons. */
function chooseSplitter(head: Buffer, path: string, bytesMax: number): Splitter {
  if (isTextFile(path)) return new TextSplitter(bytesMax);
  const start = head.findIndex((byte) => byte > 0x20 && !isByteOrderMark(byte));
  if (start >= 0 && head[start] === 0x5b && !isLineOfLists(head.subarray(start), path))
    return new ArraySplitter({ bytesMax });
  const opening = /^\{\s*"(train|eval|test|valid|validation|dev|data)"\s*:\s*\[\s*(\{|\]\s*,\s*")/;
  if (start >= 0 && opening.test(head.subarray(start, start + 1000).toString("latin1")))
    return new ArraySplitter({ sections: true, bytesMax });
  return new LineSplitter(bytesMax);
}

/** The first line is a whole array, and another record stands behind it, or it is the only comparison of a .jsonl file. */
function isLineOfLists(head: Buffer, path: string): boolean {
  const end = head.indexOf(10);
  const line = end < 0 ? head : head.subarray(0, end);
  let list: unknown;
  try {
    list = JSON.parse(line.toString());
  } catch {
    return false;
  }
  if (!Array.isArray(list)) return false;
  const more = end >= 0 && head.subarray(end).some((byte) => byte > 0x20);
  return more || (/\.jsonl(\.gz|\.zst)?$/i.test(path) && list.length === 2 && list.every(hasScore));
}

const hasScore = (value: unknown): boolean => typeof value === "object" && value !== null && "score" in value;

const isByteOrderMark = (byte: number): boolean => byte === 0xef || byte === 0xbb || byte === 0xbf;

function decode(raw: RawRecord, path: string, { lists = false }: RawOptions): RawValue {
  const { line, bytes, section = null } = raw;
  const fault = (reason: string): RawValue => {
    const excerpt = Buffer.from(bytes.subarray(0, 1000)).toString().slice(0, 200);
    return { line, value: null, reason, section, excerpt };
  };
  if (raw.fault) return fault(raw.fault);
  let text: string;
  try {
    // The decoder also takes a byte order mark off.
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return fault("the bytes are not UTF-8");
  }
  if (isTextFile(path)) return { line, value: { text }, reason: "", section, excerpt: "" };
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return { line, value, reason: "", section, excerpt: "" };
    if (lists && Array.isArray(value))
      return { line, value: { list: value } as JsonObject, reason: "", section, excerpt: "" };
    return fault("the line is no JSON object");
  } catch (error) {
    return fault(`malformed JSON (${(error as Error).message})`);
  }
}

const isFileSystemError = (error: Error): boolean =>
  /^E[A-Z]+$/.test(String((error as Error & { code?: unknown }).code));

function brokenStream(error: Error & { code?: unknown }): string {
  const truncated = /BUF_ERROR|unexpected end|srcSize_wrong/i.test(`${String(error.code)} ${error.message}`);
  return truncated
    ? "the compressed data is truncated"
    : `the compressed data cannot be read further (${error.message})`;
}

function unreadable(path: string, error: Error & { code?: unknown }): Error {
  if (error.code === "ENOENT") return new UsageError(`There is no file ${path}.`);
  if (error.code === "EISDIR") return new UsageError(`${path} is a folder; name the data file in it.`);
  return new UsageError(`${path} cannot be read: ${error.message} (${String(error.code)}).`);
}
