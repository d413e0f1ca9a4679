/** A tokenised data set on disk, read by every rank: a directory of four files.
 *    tokens.bin     ids, uint32
 *    weights.bin    one byte a token: place of its loss weight in dataset.json's `weights`
 *    documents.bin  length of each document, uint32
 *    labels.bin     KTO only: one byte for each pair of documents
 *    dataset.json   the rest: counts, hashes of the files and of what they were made from, report
 *  Always: complete or not there (written under another name, synced, renamed); never changed afterwards. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeSync,
} from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Segment } from "../text/segments.ts";
import { isObject, type JsonObject } from "../text/tokenizer_file.ts";
import { UsageError } from "../util/errors.ts";
import { hashFile } from "../text/fingerprint.ts";

export interface Dataset {
  readonly documents: number;
  readonly lengths: Uint32Array;
  /** Of everything that the tokens depend on. */
  readonly hash: string;
  /** Documents 2i and 2i + 1 stay together: chosen and rejected, or with labels an answer and the answer of another record to
   *  the same question. */
  readonly pairs: boolean;
  /** KTO: of each pair, 1 where document 2i is a good answer, else 0. */
  readonly labels: Uint8Array | null;
  readonly trainedTokens: number;
  readonly info: DatasetInfo;
  /** weights[i] is the loss weight of predicting ids[i]; position 0 is never predicted. */
  read(document: number): { ids: Int32Array; weights: Float32Array };
  close(): void;
}

export interface DatasetInfo {
  version: number;
  hash: string;
  pairs: boolean;
  documents: number;
  tokens: number;
  trainedTokens: number;
  /** Loss weights that occur, in the order of their codes. */
  weights: number[];
  /** SHA-256 of the binary files. */
  files: { [name: string]: string };
  /** What the data was made from: names and hashes of files, hashes of tokenizer and template, options. */
  inputs: JsonObject;
  report: JsonObject;
}

export const datasetVersion = 1;

const binaryFiles = ["tokens.bin", "weights.bin", "documents.bin"] as const;

export function openDataset(directory: string): Dataset {
  const info = readInfo(directory);
  const lengths = new Uint32Array(info.documents);
  const expected = {
    "tokens.bin": 4 * info.tokens,
    "weights.bin": info.tokens,
    "documents.bin": 4 * info.documents,
  };
  const labelled = info.files["labels.bin"] !== undefined;
  for (const [name, size] of Object.entries({
    ...expected,
    ...(labelled ? { "labels.bin": info.documents / 2 } : {}),
  })) {
    const path = join(directory, name);
    const bytes = existsSync(path) ? statSync(path).size : -1;
    if (bytes !== size)
      throw new UsageError(
        `${path} ${bytes < 0 ? "is missing" : `has ${bytes} bytes, expected ${size}`}. Delete the folder and prepare the data again.`,
      );
  }
  lengths.set(new Uint32Array(Uint8Array.from(readFileSync(join(directory, "documents.bin"))).buffer));
  const labels = labelled ? Uint8Array.from(readFileSync(join(directory, "labels.bin"))) : null;
  return new StoredDataset(directory, info, lengths, labels);
}

/** The description alone; null where there is no complete data set. */
export function datasetInfo(directory: string): DatasetInfo | null {
  return existsSync(join(directory, "dataset.json")) ? readInfo(directory) : null;
}

/** Reads everything and compares it with the hashes of when it was written. */
export async function verifyDataset(directory: string): Promise<void> {
  openDataset(directory).close();
  const { files } = readInfo(directory);
  for (const name of Object.keys(files))
    if ((await hashFile(join(directory, name))) !== files[name])
      throw new UsageError(
        `${join(directory, name)} is not what was written: its hash differs. Delete the folder and prepare the data again.`,
      );
}

function readInfo(directory: string): DatasetInfo {
  const path = join(directory, "dataset.json");
  if (!existsSync(path)) throw new UsageError(`${directory} holds no data set: dataset.json is missing.`);
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    value = null;
  }
  if (!isObject(value) || value.version !== datasetVersion)
    throw new UsageError(
      `${path} is not of version ${datasetVersion}. Delete the folder and prepare the data again.`,
    );
  return value as unknown as DatasetInfo;
}

class StoredDataset implements Dataset {
  readonly documents: number;
  readonly hash: string;
  readonly pairs: boolean;
  readonly trainedTokens: number;
  private readonly starts: Float64Array;
  private readonly palette: Float32Array;
  private readonly tokens: number;
  private readonly weights: number;

  constructor(
    private readonly directory: string,
    readonly info: DatasetInfo,
    readonly lengths: Uint32Array,
    readonly labels: Uint8Array | null,
  ) {
    ({
      documents: this.documents,
      hash: this.hash,
      pairs: this.pairs,
      trainedTokens: this.trainedTokens,
    } = info);
    this.starts = new Float64Array(lengths.length + 1);
    for (let i = 0; i < lengths.length; i++) this.starts[i + 1] = this.starts[i]! + lengths[i]!;
    if (this.starts.at(-1) !== info.tokens)
      throw new UsageError(
        `${directory}: the documents have ${this.starts.at(-1)} tokens together and the data set ${info.tokens}. Prepare the data again.`,
      );
    this.palette = Float32Array.from(info.weights);
    this.tokens = openSync(join(directory, "tokens.bin"), "r");
    this.weights = openSync(join(directory, "weights.bin"), "r");
  }

  read(document: number): { ids: Int32Array; weights: Float32Array } {
    const start = this.starts[document];
    const length = this.lengths[document];
    if (start === undefined || length === undefined)
      throw new RangeError(`document ${document} of ${this.documents} was asked for`);
    const ids = new Int32Array(length);
    const codes = new Uint8Array(length);
    this.fill(this.tokens, new Uint8Array(ids.buffer), 4 * start);
    this.fill(this.weights, codes, start);
    return { ids, weights: Float32Array.from(codes, (code) => this.palette[code]!) };
  }

  private fill(file: number, bytes: Uint8Array, from: number): void {
    const count = readSync(file, bytes, 0, bytes.length, from);
    if (count !== bytes.length)
      throw new UsageError(`${this.directory} was cut short while it was read: prepare the data again.`);
  }

  close(): void {
    closeSync(this.tokens);
    closeSync(this.weights);
  }
}

/** Writes a data set to `<directory>.partial-<unique>` and renames it when it is complete. */
export class DatasetWriter {
  private readonly temporary: string;
  private readonly out = new Map<string, HashedFile>();
  private readonly codes = new Map<number, number>();
  private documents = 0;
  private tokens = 0;
  private trainedTokens = 0;

  private constructor(private readonly directory: string) {
    this.temporary = `${directory}.partial-${process.pid}-${crypto.randomUUID().slice(0, 8)}`;
  }

  static async create(directory: string): Promise<DatasetWriter> {
    await removeAbandoned(directory);
    const writer = new DatasetWriter(directory);
    await mkdir(writer.temporary, { recursive: true });
    for (const name of binaryFiles) writer.out.set(name, new HashedFile(join(writer.temporary, name)));
    return writer;
  }

  /** KTO: whether the answer of the next pair of documents is good; all pairs have a label, or none. */
  addLabel(good: boolean): void {
    const file = this.out.get("labels.bin") ?? new HashedFile(join(this.temporary, "labels.bin"));
    this.out.set("labels.bin", file);
    file.write(Uint8Array.of(good ? 1 : 0));
  }

  add(segments: readonly Segment[]): void {
    let length = 0;
    for (const { ids, loss } of segments) {
      this.out.get("tokens.bin")!.write(new Uint8Array(Uint32Array.from(ids).buffer));
      this.out.get("weights.bin")!.write(new Uint8Array(ids.length).fill(this.codeOf(loss)));
      length += ids.length;
      if (loss > 0) this.trainedTokens += ids.length;
    }
    this.out.get("documents.bin")!.write(new Uint8Array(Uint32Array.of(length).buffer));
    this.documents++;
    this.tokens += length;
  }

  private codeOf(loss: number): number {
    const known = this.codes.get(loss);
    if (known !== undefined) return known;
    if (this.codes.size === 256)
      throw new UsageError("The data uses more than 256 different loss weights; round them to fewer.");
    this.codes.set(loss, this.codes.size);
    return this.codes.size - 1;
  }

  async finish(info: Pick<DatasetInfo, "hash" | "pairs" | "inputs" | "report">): Promise<void> {
    const files = Object.fromEntries([...this.out].map(([name, file]) => [name, file.finish()]));
    const { documents, tokens, trainedTokens } = this;
    const whole: DatasetInfo = {
      version: datasetVersion,
      ...info,
      documents,
      tokens,
      trainedTokens,
      weights: [...this.codes.keys()],
      files,
    };
    const description = new HashedFile(join(this.temporary, "dataset.json"));
    description.write(Buffer.from(`${JSON.stringify(whole, null, 2)}\n`));
    description.finish();
    syncDirectory(this.temporary);
    await rename(this.temporary, this.directory).catch((error: NodeJS.ErrnoException) => {
      // Another process made the same data set first; its files are the same.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
      return rm(this.temporary, { recursive: true, force: true });
    });
    syncDirectory(dirname(this.directory));
  }

  async abandon(): Promise<void> {
    for (const file of this.out.values()) file.close();
    await rm(this.temporary, { recursive: true, force: true });
  }
}

const dayMs = 24 * 60 * 60 * 1000;

/** What a killed process left behind: partial folders of this data set to which nobody has written for a day. */
async function removeAbandoned(directory: string): Promise<void> {
  for (const name of await readdir(dirname(directory))) {
    if (!name.startsWith(`${basename(directory)}.partial-`)) continue;
    const path = join(dirname(directory), name);
    const { mtimeMs } = await stat(join(path, "tokens.bin")).catch(() => ({ mtimeMs: Date.now() }));
    if (Date.now() - mtimeMs > dayMs) await rm(path, { recursive: true, force: true });
  }
}

function syncDirectory(path: string): void {
  const handle = openSync(path, "r");
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/** A file that is hashed while it is written, a MiB at a time. */
class HashedFile {
  private handle: number | null;
  private readonly hasher = new Bun.CryptoHasher("sha256");
  private readonly buffer = new Uint8Array(2 ** 20);
  private used = 0;

  constructor(path: string) {
    this.handle = openSync(path, "wx");
  }

  write(bytes: Uint8Array): void {
    for (let from = 0; from < bytes.length;) {
      const part = bytes.subarray(from, from + this.buffer.length - this.used);
      this.buffer.set(part, this.used);
      this.used += part.length;
      from += part.length;
      if (this.used === this.buffer.length) this.flush();
    }
  }

  private flush(): void {
    const bytes = this.buffer.subarray(0, this.used);
    this.hasher.update(bytes);
    for (let from = 0; from < bytes.length;) from += writeSync(this.handle!, bytes, from);
    this.used = 0;
  }

  /** The hash; everything lies on the disk. */
  finish(): string {
    this.flush();
    fsyncSync(this.handle!);
    this.close();
    return this.hasher.digest("hex");
  }

  close(): void {
    if (this.handle !== null) closeSync(this.handle);
    this.handle = null;
  }
}
