/** The safetensors format: eight bytes of header length, a JSON header that names every tensor, then their bytes.
 *  Always: a header that passes describes the file exactly. Every tensor lies inside it, none overlap, none leave a
 *  hole, and shape times element size is its byte count. Whatever else a file claims is refused with a sentence.
 *  Follows the reference implementation of huggingface/safetensors, whose files ours equal byte for byte. */
import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { UsageError } from "../util/errors.ts";

/** Bits of one element. In the order of the reference: wider types stand later and are laid first in a file. */
const elementBits = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type SafetensorsDtype = keyof typeof elementBits;
export const safetensorsDtypes = Object.keys(elementBits) as SafetensorsDtype[];

export interface TensorInfo {
  dtype: SafetensorsDtype;
  shape: readonly number[];
  /** Bytes of the file: [begin, end), counted from its start. */
  begin: number;
  end: number;
}

export interface SafetensorsHeader {
  tensors: Map<string, TensorInfo>;
  metadata: Record<string, string>;
}

/** The reference refuses longer headers, too: 100 MB name about a million tensors. */
export const headerBytesMax = 100_000_000;

/** Reads and checks the header of a file; no tensor data is touched. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  const handle = await open(path, "r").catch((error: NodeJS.ErrnoException) => {
    throw new UsageError(
      `Cannot open ${path}: ${error.code === "ENOENT" ? "there is no such file" : error.message}.`,
    );
  });
  try {
    const status = await handle.stat();
    if (!status.isFile()) throw damaged(path, "it is not a regular file");
    const prefix = await readFully(handle, Math.min(8, status.size), 0);
    const length = headerLength(prefix, status.size, path);
    return parseSafetensorsHeader(await readFully(handle, length, 8), status.size, path);
  } finally {
    await handle.close();
  }
}

/** Checks the header's length field against the file. `prefix`: the first eight bytes. */
export function headerLength(prefix: Uint8Array, fileSize: number, path: string): number {
  if (prefix.length < 8) throw damaged(path, `it ends after ${prefix.length} bytes, before its header`);
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(Math.max(0, fileSize - 8))) {
    throw damaged(path, `its header claims ${length} bytes, but only ${fileSize - 8} follow`);
  }
  if (length > BigInt(headerBytesMax))
    throw damaged(path, `its header claims ${length} bytes; ${headerBytesMax} is the limit`);
  if (length < 2n) throw damaged(path, `its header claims ${length} bytes; the shortest header has 2`);
  return Number(length);
}

/** Checks a whole header. `json`: its bytes without the length field; `fileSize`: bytes of the whole file. */
export function parseSafetensorsHeader(json: Uint8Array, fileSize: number, path: string): SafetensorsHeader {
  const header = parseObject(json, path);
  const dataStart = 8 + json.length;
  const tensors = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") metadata = parseMetadata(value, path);
    else tensors.set(name, parseTensor(name, value, dataStart, path));
  }
  checkLayout(tensors, dataStart, fileSize, path);
  return { tensors, metadata };
}

function parseObject(json: Uint8Array, path: string): Record<string, unknown> {
  if (json[0] !== 0x7b) throw damaged(path, "its header does not start with {");
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(json);
    header = JSON.parse(text);
  } catch (error) {
    throw damaged(
      path,
      `its header is not JSON (${shown(error instanceof Error ? error.message : String(error))})`,
    );
  }
  const repeated = repeatedKey(text);
  if (repeated !== null) throw damaged(path, `its header names ${shown(repeated)} twice`);
  return header as Record<string, unknown>; // text that starts with { and parses is an object
}

/** JSON.parse silently keeps the last of equal keys, so two readers could see different tensors. The text is valid JSON. */
function repeatedKey(text: string): string | null {
  const open: Set<string>[] = [];
  let last = "";
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      const start = i++;
      for (; text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++;
      last = text.slice(start, i + 1);
    } else if (c === 0x7b) open.push(new Set());
    else if (c === 0x7d) open.pop();
    else if (c === 0x3a) {
      const key = JSON.parse(last) as string;
      const keys = open[open.length - 1]!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return null;
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  const entries = isObject(value) ? Object.entries(value) : null;
  if (entries === null || entries.some(([, text]) => typeof text !== "string")) {
    throw damaged(path, "its __metadata__ is not a table of texts");
  }
  return Object.fromEntries(entries) as Record<string, string>;
}

function parseTensor(name: string, value: unknown, dataStart: number, path: string): TensorInfo {
  const wrong = (what: string) => damaged(path, `tensor ${shown(name)} ${what}`);
  if (!isObject(value)) throw wrong("is not described by an object");
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype))
    throw wrong(`has an unknown dtype ${shown(dtype)}; known are ${safetensorsDtypes.join(", ")}`);
  if (!isCounts(shape)) throw wrong(`has a shape that is not a list of whole numbers: ${shown(shape)}`);
  if (!isCounts(offsets) || offsets.length !== 2)
    throw wrong(`has data_offsets that are not two whole numbers: ${shown(offsets)}`);
  const [begin, end] = offsets as [number, number];
  const bytes = tensorBytes(dtype, shape);
  if (bytes === null) throw wrong(`has an impossible size: ${dtype} of shape ${shown(shape)}`);
  if (end - begin !== bytes)
    throw wrong(
      `has ${end - begin} bytes at [${begin}, ${end}), but ${dtype} of shape ${shown(shape)} takes ${bytes}`,
    );
  return { dtype, shape, begin: dataStart + begin, end: dataStart + end };
}

/** Sorted by place, tensors must follow each other from the header's end to the file's end. */
function checkLayout(
  tensors: Map<string, TensorInfo>,
  dataStart: number,
  fileSize: number,
  path: string,
): void {
  const byPlace = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let position = dataStart;
  for (const [name, { begin, end }] of byPlace) {
    if (begin !== position) {
      const fault =
        begin < position
          ? "overlaps the tensor before it"
          : `leaves a hole of ${begin - position} bytes before it`;
      throw damaged(path, `tensor ${shown(name)} ${fault}`);
    }
    if (end > fileSize)
      throw damaged(path, `tensor ${shown(name)} ends at byte ${end}, but the file has ${fileSize}`);
    position = end;
  }
  if (position !== fileSize)
    throw damaged(path, `its tensors end at byte ${position}, but the file has ${fileSize}`);
}

/** Bytes of a tensor; null where they are no whole number or beyond what a number counts exactly. */
export function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[]): number | null {
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (!Number.isSafeInteger(elements)) return null;
  }
  const bits = elements * elementBits[dtype];
  return Number.isSafeInteger(bits) && bits % 8 === 0 ? bits / 8 : null;
}

export interface TensorToWrite {
  name: string;
  dtype: SafetensorsDtype;
  shape: readonly number[];
  /** Its bytes, little-endian and row by row, whole or as pieces that are made when their turn comes. */
  data: Uint8Array | (() => AsyncIterable<Uint8Array> | Iterable<Uint8Array>);
}

/** Writes a file that appears under its name only when it is complete and on disk. Wide elements are laid first, so
 *  that every tensor starts aligned, then names in byte order, as the reference does. Returns the bytes written;
 *  `onBytes` sees them in the file's order. */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Record<string, string> = {},
  onBytes: (bytes: Uint8Array) => void = () => {},
): Promise<number> {
  const ordered = [...tensors].sort(
    (a, b) => rank(b.dtype) - rank(a.dtype) || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)),
  );
  const header = encodeHeader(ordered, metadata, path);
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const handle = await open(temporary, "wx");
  try {
    await writeFully(handle, header);
    onBytes(header);
    let bytes = header.length;
    for (const tensor of ordered) bytes += await writeTensor(handle, tensor, path, onBytes);
    await handle.sync();
    await handle.close();
    await rename(temporary, path);
    await syncDirectory(dirname(path));
    return bytes;
  } catch (error) {
    await handle.close().catch(() => {}); // already closed where rename failed
    await rm(temporary, { force: true });
    throw error;
  }
}

function encodeHeader(
  tensors: readonly TensorToWrite[],
  metadata: Record<string, string>,
  path: string,
): Uint8Array {
  const entries: [string, unknown][] = Object.keys(metadata).length > 0 ? [["__metadata__", metadata]] : [];
  let position = 0;
  for (const { name, dtype, shape } of tensors) {
    const bytes = tensorBytes(dtype, shape);
    if (bytes === null)
      throw new UsageError(
        `Cannot write ${path}: tensor ${shown(name)} has an impossible size, ${dtype} of shape ${shown(shape)}.`,
      );
    entries.push([name, { dtype, shape, data_offsets: [position, (position += bytes)] }]);
  }
  // Built by hand: an object would move names that look like numbers to the front.
  const json = Buffer.from(
    `{${entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(",")}}`,
  );
  if (new Set(entries.map(([name]) => name)).size !== entries.length)
    throw new UsageError(`Cannot write ${path}: two tensors have the same name.`);
  const length = Math.ceil(json.length / 8) * 8;
  const header = Buffer.alloc(8 + length, " ");
  header.writeBigUInt64LE(BigInt(length), 0);
  json.copy(header, 8);
  return header;
}

async function writeTensor(
  handle: FileHandle,
  tensor: TensorToWrite,
  path: string,
  onBytes: (bytes: Uint8Array) => void,
): Promise<number> {
  const expected = tensorBytes(tensor.dtype, tensor.shape);
  const pieces = tensor.data instanceof Uint8Array ? [tensor.data] : tensor.data();
  let bytes = 0;
  for await (const piece of pieces) {
    await writeFully(handle, piece);
    onBytes(piece);
    bytes += piece.length;
  }
  if (bytes !== expected)
    throw new Error(`${path}: tensor ${tensor.name} announced ${expected} bytes and gave ${bytes}`);
  return bytes;
}

async function writeFully(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    // One write call takes at most 2 GiB.
    done += (await handle.write(bytes, done, Math.min(bytes.length - done, 1 << 28))).bytesWritten;
  }
}

async function readFully(handle: FileHandle, length: number, position: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) break; // cut short while we read: the parser refuses what is missing
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

/** Makes a rename durable. */
async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  await handle.sync().finally(() => handle.close());
}

const rank = (dtype: SafetensorsDtype): number => safetensorsDtypes.indexOf(dtype);
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isDtype = (value: unknown): value is SafetensorsDtype =>
  typeof value === "string" && Object.hasOwn(elementBits, value);
const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);

/** Values from a file, made fit for a message: one line, at most 100 characters. */
function shown(value: unknown): string {
  const text = (JSON.stringify(value) ?? "nothing").replace(/[\u007f-\u009f\u2028\u2029\u202a-\u202e]/g, "?");
  return text.length <= 100 ? text : `${text.slice(0, 97)}...`;
}

const damaged = (path: string, what: string): UsageError =>
  new UsageError(`${path} is not a sound safetensors file: ${what}. Fetch or write it again.`);
