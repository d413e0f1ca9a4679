/** Undoes a weight diff: base plus difference gives the tuned model's files, byte for byte.
 *  Always: the base is checked tensor by tensor before anything is written; every tensor is compared with its hash; the
 *  folder appears under its name only when all of it was right. */
import { copyFile, type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { zstdDecompress } from "node:zlib";
import { type Checkpoint, openCheckpoint } from "../model/checkpoint.ts";
import type { SafetensorsDtype } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";
import { decodeDelta, deltaWidth } from "./delta.ts";
import {
  blobFile,
  cardFile,
  chunkBytes,
  type DiffHeader,
  type DiffShard,
  type DiffTensor,
  FileReader,
  readDiff,
} from "./diff_file.ts";
import { baseChunk, hashAll } from "./diff_make.ts";
import { elementBytes } from "./tensor_places.ts";

export interface ApplyOptions {
  base: string;
  diff: string;
  onProgress?: (stage: "checking the base" | "applying", done: number, total: number) => void;
}

/** Writes the tuned model to `out`, a folder that is not there yet. Returns the bytes of its weights. */
export async function applyDiff(options: ApplyOptions & { out: string }): Promise<number> {
  if (await stat(options.out).catch(() => null))
    throw new UsageError(`${options.out} is there already; name a new folder for the model.`);
  const partial = join(
    dirname(options.out),
    `.${basename(options.out)}.${crypto.randomUUID().slice(0, 8)}.partial`,
  );
  try {
    const bytes = await restore(options, async (header) => {
      await mkdir(partial, { recursive: true });
      const names = [...header.files.map(({ name }) => name), cardFile];
      for (const name of names)
        if (name !== cardFile || (await Bun.file(join(options.diff, name)).exists()))
          await copyFile(join(options.diff, name), join(partial, name));
      return (file) => open(join(partial, file), "wx");
    });
    await rename(partial, options.out);
    return bytes;
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
}

/** The same without writing: throws where the base, the diff or what comes out is not what it should be. */
export async function verifyDiff(options: ApplyOptions): Promise<{ header: DiffHeader; bytes: number }> {
  let seen: DiffHeader | null = null;
  const bytes = await restore(options, async (header) => {
    seen = header;
    return async () => null;
  });
  return { header: seen!, bytes };
}

/** null: only checked. */
type Target = FileHandle | null;

async function restore(
  { base: baseFolder, diff, onProgress = () => {} }: ApplyOptions,
  begin: (header: DiffHeader) => Promise<(file: string) => Promise<Target>>,
): Promise<number> {
  const header = await readDiff(diff);
  const base = await openCheckpoint(baseFolder);
  const reader = new FileReader();
  try {
    await checkFiles(header, diff, reader);
    await checkBase(header, base, reader, (done, total) => onProgress("checking the base", done, total));
    const openShard = await begin(header);
    const total = header.shards.reduce((sum, { bytes }) => sum + bytes, 0);
    let done = 0;
    for (const shard of header.shards)
      await restoreShard(shard, await openShard(shard.file), {
        base,
        blob: join(diff, blobFile),
        reader,
        count: (bytes) => onProgress("applying", (done += bytes), total),
      });
    return total;
  } finally {
    await reader.close();
  }
}

/** The tokenizer and the other small files, against their hashes. */
async function checkFiles(header: DiffHeader, diff: string, reader: FileReader): Promise<void> {
  for (const { name, bytes, sha256 } of header.files) {
    const path = join(diff, name);
    const found = new Bun.CryptoHasher("sha256").update(await reader.read(path, 0, bytes)).digest("hex");
    if (found !== sha256)
      throw new UsageError(`${path} was changed after the diff was made. Fetch the diff again.`);
  }
}

async function checkBase(
  header: DiffHeader,
  base: Checkpoint,
  reader: FileReader,
  onProgress: (done: number, total: number) => void,
): Promise<void> {
  const needed = header.shards.flatMap(({ tensors }) => tensors).filter((tensor) => tensor.base !== null);
  const wrong = (what: string): UsageError =>
    new UsageError(
      `${base.directory} is not the base that this diff was made from (${header.base}): ${what}. Nothing was written.`,
    );
  let total = 0;
  for (const { name, base: expected } of needed) {
    const found = base.tensors.get(name);
    if (!found) throw wrong(`it has no tensor ${name}`);
    const [is, was] = [describe(found), describe(expected!)];
    if (is !== was) throw wrong(`tensor ${name} is ${is}, not ${was}`);
    total += found.end - found.begin;
  }
  let done = 0;
  for (const { name, base: expected } of needed) {
    const hasher = new Bun.CryptoHasher("sha256");
    await hashAll(reader, base.tensors.get(name)!, hasher, (bytes) => onProgress((done += bytes), total));
    if (hasher.digest("hex") !== expected!.sha256) throw wrong(`tensor ${name} has other weights`);
  }
}

const describe = ({ dtype, shape }: { dtype: string; shape: readonly number[] }): string =>
  `${dtype} ${shape.join("x")}`;

interface Work {
  base: Checkpoint;
  blob: string;
  reader: FileReader;
  count: (bytes: number) => void;
}

async function restoreShard(shard: DiffShard, target: Target, work: Work): Promise<void> {
  const ofFile = new Bun.CryptoHasher("sha256");
  const put = async (bytes: Uint8Array): Promise<void> => {
    ofFile.update(bytes);
    for (let done = 0; target !== null && done < bytes.length;)
      done += (await target.write(bytes, done)).bytesWritten;
    work.count(bytes.length);
  };
  try {
    await put(Buffer.from(shard.header, "base64"));
    for (const tensor of shard.tensors) await restoreTensor(tensor, work, put);
    if (ofFile.digest("hex") !== shard.sha256)
      throw new UsageError(
        `${shard.file} came out with another hash than the diff names: its header was changed.`,
      );
    await target?.sync();
  } finally {
    await target?.close();
  }
}

async function restoreTensor(
  tensor: DiffTensor,
  { base, blob, reader }: Work,
  put: (bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const damaged = (): UsageError =>
    new UsageError(
      `The diff is damaged: tensor ${tensor.name} in ${blob} does not come out right. Fetch the diff again.`,
    );
  const hasher = new Bun.CryptoHasher("sha256");
  const length =
    tensor.shape.reduce((product, size) => product * size, 1) *
    elementBytes(tensor.dtype as SafetensorsDtype);
  let place = tensor.offset;
  for (let at = 0, i = 0; at < length; at += chunkBytes, i++) {
    const bytes = Math.min(chunkBytes, length - at);
    const from = base.tensors.get(tensor.name);
    const shape = { dtype: tensor.dtype as SafetensorsDtype, shape: tensor.shape };
    const counterpart = tensor.method === "raw" ? null : await baseChunk(reader, shape, from, at, bytes);
    let restored = counterpart;
    if (tensor.method !== "same") {
      const sizes = tensor.chunks[i] ?? [];
      const width = tensor.method === "raw" ? 1 : deltaWidth(shape.dtype);
      if (width === 0 || sizes.length !== width) throw damaged();
      const planes = await readPlanes(reader, blob, place, sizes, bytes / width).catch(() => null);
      if (planes === null) throw damaged();
      place += sizes.reduce((sum, size) => sum + size, 0);
      restored = width === 1 ? planes[0]! : decodeDelta(width, planes, counterpart);
    }
    if (restored === null || restored.length !== bytes) throw damaged();
    hasher.update(restored);
    await put(restored);
  }
  if (hasher.digest("hex") !== tensor.sha256) throw damaged();
}

/** Exactly `count` bytes each, however little the file says they were: a bomb is refused. */
async function readPlanes(
  reader: FileReader,
  blob: string,
  offset: number,
  sizes: readonly number[],
  count: number,
): Promise<Uint8Array[]> {
  const packed: Uint8Array[] = [];
  for (const size of sizes) {
    packed.push(await reader.read(blob, offset, size));
    offset += size;
  }
  const decompress = promisify(zstdDecompress);
  const done = await Promise.all(
    packed.map((bytes) => decompress(bytes, { maxOutputLength: Math.max(1, count) })),
  );
  if (done.some((plane) => plane.length !== count)) throw new Error("a plane has another length");
  return done;
}
