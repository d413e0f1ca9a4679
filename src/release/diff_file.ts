/** A weight diff on disk: a folder with diff.json (what is where, with hashes), diff.bin (compressed planes) and the tuned
 *  model's other files as they are.
 *  Always: a header that passes describes diff.bin to the byte; no name in it leaves its folder; diff.json is written last,
 *  so a folder without it is not finished. */
import { open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { safetensorsDtypes } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";

export const headerFile = "diff.json";
export const blobFile = "diff.bin";
export const cardFile = "README.md";
export const formatVersion = 1;
/** Bytes of a tensor that are coded at a time, on both sides. */
export const chunkBytes = 8 << 20;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const fileName = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$/);
const count = z.int().min(0);
const dtype = z.enum(safetensorsDtypes as [string, ...string[]]);

const tensorSchema = z.strictObject({
  name: z.string(),
  dtype,
  shape: z.array(count),
  sha256,
  /** same: the base's bytes; delta: planes of differences (against zero where the base has no such element); raw: bytes. */
  method: z.enum(["same", "delta", "raw"]),
  /** null: the base has no such tensor. */
  base: z.strictObject({ dtype, shape: z.array(count), sha256 }).nullable(),
  /** Of diff.bin: where its chunks begin, and the compressed bytes of each plane of each chunk. */
  offset: count,
  chunks: z.array(z.array(count)),
});
export type DiffTensor = z.infer<typeof tensorSchema>;

const shardSchema = z.strictObject({
  file: fileName,
  sha256,
  bytes: count,
  /** Its length field and JSON header, base64: the file is written again byte for byte. */
  header: z.base64(),
  tensors: z.array(tensorSchema),
});
export type DiffShard = z.infer<typeof shardSchema>;

const headerSchema = z.strictObject({
  format: z.literal("koala-diff"),
  version: z.literal(formatVersion),
  koala: z.string(),
  /** Words for people: what was subtracted. */
  base: z.string(),
  licence: z.string().nullable(),
  blob: z.strictObject({ bytes: count, sha256 }),
  shards: z.array(shardSchema).min(1),
  /** The tuned model's other files, which lie beside. */
  files: z.array(z.strictObject({ name: fileName, bytes: count, sha256 })),
});
export type DiffHeader = z.infer<typeof headerSchema>;

/** diff.json ends with a hash of all that stands before, so that damage is told apart from a wrong base. */
export function encodeHeader(header: DiffHeader): string {
  const body = JSON.stringify(header);
  return `${body}\n${new Bun.CryptoHasher("sha256").update(body).digest("hex")}\n`;
}

/** Reads diff.json and checks it against diff.bin and the files beside. */
export async function readDiff(directory: string): Promise<DiffHeader> {
  const path = join(directory, headerFile);
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new UsageError(
      error.code === "ENOENT"
        ? `${directory} is no weight diff: it has no ${headerFile}. Make one with koala diff make.`
        : `${path} cannot be read: ${error.message}.`,
    );
  });
  const [body = "", sum = ""] = text.split("\n");
  if (new Bun.CryptoHasher("sha256").update(body).digest("hex") !== sum)
    throw damaged(path, "its checksum is wrong");
  const parsed = headerSchema.safeParse(JSON.parse(body));
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw damaged(path, `${issue.path.join(".") || "it"}: ${issue.message}`);
  }
  checkLayout(parsed.data, path);
  await checkSize(join(directory, blobFile), parsed.data.blob.bytes);
  for (const { name, bytes } of parsed.data.files) await checkSize(join(directory, name), bytes);
  return parsed.data;
}

function checkLayout(header: DiffHeader, path: string): void {
  let at = 0;
  const names = new Set<string>();
  for (const { name, offset, chunks } of header.shards.flatMap((shard) => shard.tensors)) {
    if (names.has(name)) throw damaged(path, `tensor ${name} stands in it twice`);
    names.add(name);
    if (offset !== at) throw damaged(path, `tensor ${name} is not where the one before it ends`);
    at += chunks.flat().reduce((sum, bytes) => sum + bytes, 0);
  }
  if (at !== header.blob.bytes) throw damaged(path, `its tensors end at byte ${at} of ${header.blob.bytes}`);
}

async function checkSize(path: string, bytes: number): Promise<void> {
  const found = await stat(path).catch(() => null);
  if (found === null) throw new UsageError(`${path} is missing from the diff. Fetch the diff again.`);
  if (found.size !== bytes)
    throw new UsageError(
      `${path} has ${found.size} bytes, but the diff says ${bytes}: it was ${found.size < bytes ? "cut short" : "changed"}. Fetch the diff again.`,
    );
}

/** Bytes [begin, begin + length) of a file, whole or a sentence. */
export class FileReader {
  #handles = new Map<string, Awaited<ReturnType<typeof open>>>();

  async read(path: string, begin: number, length: number): Promise<Uint8Array> {
    let handle = this.#handles.get(path);
    if (!handle) this.#handles.set(path, (handle = await open(path, "r")));
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const { bytesRead } = await handle.read(bytes, done, length - done, begin + done);
      if (bytesRead === 0) throw new UsageError(`${path} ends at byte ${begin + done}; more was expected.`);
      done += bytesRead;
    }
    return bytes;
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close();
    this.#handles.clear();
  }
}

const damaged = (path: string, what: string): UsageError =>
  new UsageError(`${path} is damaged: ${what}. Fetch the diff again.`);
