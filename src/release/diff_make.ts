/** Makes a weight diff: tuned minus base, tensor by tensor and bit for bit, with the hashes of both.
 *  Always: memory stays at a few chunks whatever the model's size; the folder is complete or has no diff.json. */
import { copyFile, mkdir, open, readdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from "../model/checkpoint.ts";
import type { SafetensorsDtype } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";
import { version } from "../util/version.ts";
import { convertFloats, deltaWidth, encodeDelta } from "./delta.ts";
import {
  blobFile,
  cardFile,
  chunkBytes,
  type DiffHeader,
  type DiffShard,
  type DiffTensor,
  encodeHeader,
  FileReader,
  formatVersion,
  headerFile,
} from "./diff_file.ts";
import { commonBytes, elementBytes, tensorsOf } from "./tensor_places.ts";

export interface MakeOptions {
  base: string;
  tuned: string;
  out: string;
  /** What the base is called in the header (default: its folder's name). */
  baseName?: string;
  licence?: string | null;
  onProgress?: (done: number, total: number) => void;
}

export interface MakeResult {
  header: DiffHeader;
  tunedBytes: number;
  diffBytes: number;
}

export async function makeDiff(options: MakeOptions): Promise<MakeResult> {
  const [base, tuned] = [await openCheckpoint(options.base), await openCheckpoint(options.tuned)];
  checkRelated(base, tuned);
  await mkdir(options.out, { recursive: true });
  if ((await readdir(options.out)).length > 0)
    throw new UsageError(`${options.out} is not empty; name a new folder for the diff.`);
  const blob = new BlobWriter(await open(join(options.out, blobFile), "wx+"));
  const reader = new FileReader();
  try {
    let done = 0;
    const count = (bytes: number): void => options.onProgress?.((done += bytes), tuned.weightBytes);
    const shards: DiffShard[] = [];
    for (const file of tuned.files) shards.push(await makeShard(file, { base, tuned, reader, blob, count }));
    const header: DiffHeader = {
      format: "koala-diff",
      version: formatVersion,
      koala: version,
      base: options.baseName ?? basename(options.base),
      licence: options.licence ?? null,
      blob: await blob.finish(),
      shards,
      files: await copyOtherFiles(options.tuned, options.out, tuned),
    };
    await Bun.write(join(options.out, headerFile), encodeHeader(header));
    return { header, tunedBytes: tuned.weightBytes, diffBytes: header.blob.bytes };
  } catch (error) {
    await blob.abandon();
    await rm(join(options.out, blobFile), { force: true });
    throw error;
  } finally {
    await reader.close();
  }
}

/** A base that shares no tensor with the tuned model would give a diff as large as the model: that is a mistake. */
function checkRelated(base: Checkpoint, tuned: Checkpoint): void {
  const shared = [...tuned.tensors].filter(
    ([name, tensor]) => commonBytes(tensor, base.tensors.get(name)) > 0,
  );
  if (shared.length > 0) return;
  const [name, tensor] = [...tuned.tensors][0]!;
  const other = base.tensors.get(name);
  throw new UsageError(
    `${base.directory} is not the base of ${tuned.directory}: no tensor has a counterpart (${name} is ${tensor.shape.join("x")} here and ${other ? other.shape.join("x") : "missing"} there).`,
  );
}

interface Work {
  base: Checkpoint;
  tuned: Checkpoint;
  reader: FileReader;
  blob: BlobWriter;
  count: (bytes: number) => void;
}

async function makeShard(file: string, work: Work): Promise<DiffShard> {
  const places = tensorsOf(work.tuned, file);
  const bytes = Bun.file(file).size;
  const header = await work.reader.read(file, 0, places[0]?.[1].begin ?? bytes);
  const hasher = new Bun.CryptoHasher("sha256").update(header);
  const tensors: DiffTensor[] = [];
  for (const [name, tensor] of places) tensors.push(await makeTensor(name, tensor, work, hasher));
  return {
    file: basename(file),
    sha256: hasher.digest("hex"),
    bytes,
    header: Buffer.from(header).toString("base64"),
    tensors,
  };
}

async function makeTensor(
  name: string,
  tensor: CheckpointTensor,
  { base, reader, blob, count }: Work,
  ofShard: Bun.CryptoHasher,
): Promise<DiffTensor> {
  const from = base.tensors.get(name);
  const hashes = { tuned: new Bun.CryptoHasher("sha256"), base: new Bun.CryptoHasher("sha256") };
  const offset = blob.bytes;
  const width = deltaWidth(tensor.dtype);
  const chunks: number[][] = [];
  let same = from !== undefined && from.dtype === tensor.dtype && sameShape(from, tensor);
  for (let at = tensor.begin; at < tensor.end; at += chunkBytes) {
    const bytes = await reader.read(tensor.file, at, Math.min(chunkBytes, tensor.end - at));
    hashes.tuned.update(bytes);
    ofShard.update(bytes);
    const counterpart = await baseChunk(reader, tensor, from, at - tensor.begin, bytes.length);
    same &&= counterpart !== null && Buffer.compare(bytes, counterpart) === 0;
    const planes = width === 0 ? [bytes] : encodeDelta(width, bytes, counterpart);
    chunks.push(await blob.add(planes));
    count(bytes.length);
  }
  if (same) await blob.truncate(offset);
  if (from) await hashAll(reader, from, hashes.base);
  return {
    name,
    dtype: tensor.dtype,
    shape: [...tensor.shape],
    sha256: hashes.tuned.digest("hex"),
    method: same ? "same" : width === 0 ? "raw" : "delta",
    base: from ? { dtype: from.dtype, shape: [...from.shape], sha256: hashes.base.digest("hex") } : null,
    offset,
    chunks: same ? [] : chunks,
  };
}

const sameShape = (a: CheckpointTensor, b: CheckpointTensor): boolean => a.shape.join() === b.shape.join();

/** The base's elements at a place of the tuned tensor, in its type, filled with zeros past the base's end; null: none at all. */
export async function baseChunk(
  reader: FileReader,
  tensor: { dtype: SafetensorsDtype; shape: readonly number[] },
  from: CheckpointTensor | undefined,
  at: number,
  length: number,
): Promise<Uint8Array | null> {
  const common = commonBytes(tensor, from);
  if (from === undefined || at >= common) return null;
  const take = Math.min(length, common - at);
  const scale = elementBytes(from.dtype) / elementBytes(tensor.dtype);
  const raw = await reader.read(from.file, from.begin + at * scale, take * scale);
  const bytes = convertFloats(raw, from.dtype, tensor.dtype);
  if (bytes === null || bytes.length === length) return bytes;
  const filled = new Uint8Array(length);
  filled.set(bytes);
  return filled;
}

export async function hashAll(
  reader: FileReader,
  tensor: CheckpointTensor,
  hasher: Bun.CryptoHasher,
  onBytes: (bytes: number) => void = () => {},
): Promise<void> {
  for (let at = tensor.begin; at < tensor.end; at += chunkBytes) {
    const bytes = await reader.read(tensor.file, at, Math.min(chunkBytes, tensor.end - at));
    hasher.update(bytes);
    onBytes(bytes.length);
  }
}

/** What else makes the model: all plain files beside the weights, and none of the run's own logs or folders. The model card
 *  goes along without a hash: the diff may get one of its own. */
async function copyOtherFiles(source: string, out: string, tuned: Checkpoint): Promise<DiffHeader["files"]> {
  const weights = new Set(tuned.files.map((file) => basename(file)));
  const files: DiffHeader["files"] = [];
  for (const entry of (await readdir(source, { withFileTypes: true })).sort((a, b) =>
    a.name < b.name ? -1 : 1,
  )) {
    const { name } = entry;
    if (
      !entry.isFile() ||
      weights.has(name) ||
      !/^[A-Za-z0-9_][\w.-]*\.(json|jinja|model|txt|md)$|^LICENSE$/.test(name)
    )
      continue;
    if (name === headerFile)
      throw new UsageError(`${source} is itself a weight diff; name a whole model as --tuned.`);
    await copyFile(join(source, name), join(out, name));
    if (name === cardFile) continue;
    const bytes = await Bun.file(join(out, name)).bytes();
    files.push({
      name,
      bytes: bytes.length,
      sha256: new Bun.CryptoHasher("sha256").update(bytes).digest("hex"),
    });
  }
  return files;
}

/** diff.bin as it grows; compression runs beside the next chunk's arithmetic. */
class BlobWriter {
  bytes = 0;
  constructor(private readonly handle: Awaited<ReturnType<typeof open>>) {}

  /** Appends planes, each compressed; returns their sizes. */
  async add(planes: readonly Uint8Array[]): Promise<number[]> {
    const packed = await Promise.all(planes.map((plane) => Bun.zstdCompress(plane, { level: 3 })));
    for (const bytes of packed) {
      for (let done = 0; done < bytes.length;)
        done += (await this.handle.write(bytes, done, bytes.length - done, this.bytes + done)).bytesWritten;
      this.bytes += bytes.length;
    }
    return packed.map((bytes) => bytes.length);
  }

  async truncate(bytes: number): Promise<void> {
    await this.handle.truncate(bytes);
    this.bytes = bytes;
  }

  async finish(): Promise<DiffHeader["blob"]> {
    const hasher = new Bun.CryptoHasher("sha256");
    const buffer = new Uint8Array(chunkBytes);
    const { fd } = this.handle;
    const { fstatSync, readSync } = await import("node:fs");
    const size = fstatSync(fd).size;
    await this.handle.sync();
    for (let at = 0; at < size;) {
      const read = readSync(fd, buffer, 0, Math.min(buffer.length, size - at), at);
      hasher.update(buffer.subarray(0, read));
      at += read;
    }
    await this.handle.close();
    return { bytes: this.bytes, sha256: hasher.digest("hex") };
  }

  async abandon(): Promise<void> {
    await this.handle.close().catch(() => {}); // closed already where finish failed late
  }
}
