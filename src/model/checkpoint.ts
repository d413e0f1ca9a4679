/** A directory in Hugging Face layout whose weights lie in safetensors files: one, or several with an index.
 *  Always: every tensor's place has been checked against its file, and every file lies in the directory.
 *  No weights are read here: the reader maps the files and takes [begin, end). */
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { readSafetensorsHeader, type SafetensorsDtype } from "./safetensors.ts";

export interface CheckpointTensor {
  /** Path of the file that holds it. */
  file: string;
  dtype: SafetensorsDtype;
  /** Row-major. */
  shape: readonly number[];
  /** Bytes of the file: [begin, end). */
  begin: number;
  end: number;
  /** Of a rank's share: `shape[1]` columns from `first` of the `of` that lie in [begin, end). Absent: all. */
  columns?: { first: number; of: number };
}

export interface Checkpoint {
  directory: string;
  /** Paths of the weight files, in order of their names. */
  files: string[];
  tensors: Map<string, CheckpointTensor>;
  /** Of the first file ("format": "pt" in most). */
  metadata: Record<string, string>;
  /** Bytes of all tensors. */
  weightBytes: number;
}

export const singleFile = "model.safetensors";
export const indexFile = "model.safetensors.index.json";
/** 64 MB of index name about half a million tensors; larger ones are no index. */
const indexBytesMax = 64 << 20;

/** Finds every tensor of a model directory. The single file wins where both kinds are present, as in transformers. */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  const names = await listDirectory(directory);
  if (names.includes(singleFile)) return readShards(directory, [singleFile], null);
  if (!names.includes(indexFile)) throw noWeights(directory, names);
  const placement = await readIndex(join(directory, indexFile));
  const shards = [...new Set(placement.values())].sort();
  const missing = shards.filter((shard) => !names.includes(shard));
  if (missing.length > 0) {
    const listed = missing.slice(0, 3).join(", ") + (missing.length > 3 ? ", ..." : "");
    throw new UsageError(
      `${directory} lacks ${missing.length} of the ${shards.length} weight files that its index names: ${listed}. Fetch them again.`,
    );
  }
  return readShards(directory, shards, placement);
}

/** Reads the headers. `placement`: the index's file of each tensor; null: one file without an index. */
async function readShards(
  directory: string,
  shards: string[],
  placement: Map<string, string> | null,
): Promise<Checkpoint> {
  const tensors: Checkpoint["tensors"] = new Map();
  let metadata: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const file = join(directory, shard);
    const header = await readSafetensorsHeader(file);
    if (i === 0) metadata = header.metadata;
    for (const [name, tensor] of header.tensors) {
      const elsewhere = placement?.get(name) ?? shard;
      if (elsewhere !== shard || tensors.has(name)) {
        const other = basename(tensors.get(name)?.file ?? elsewhere);
        throw new UsageError(
          `Tensor ${name} of ${directory} is in ${shard} and, by the index or in fact, in ${other}. Fetch the model again.`,
        );
      }
      tensors.set(name, { file, ...tensor });
    }
  }
  for (const [name, shard] of placement ?? []) {
    if (tensors.has(name)) continue;
    throw new UsageError(
      `${join(directory, shard)} lacks tensor ${name}, which the index places there. Fetch the model again.`,
    );
  }
  let weightBytes = 0;
  for (const { begin, end } of tensors.values()) weightBytes += end - begin;
  return { directory, files: shards.map((shard) => join(directory, shard)), tensors, metadata, weightBytes };
}

/** `weight_map` of an index: tensor name to file name, a plain name in the same directory. */
export async function readIndex(path: string): Promise<Map<string, string>> {
  const wrong = (what: string) => new UsageError(`${path} is not a weight index: ${what}. Fetch it again.`);
  if ((await stat(path)).size > indexBytesMax) throw wrong(`it is larger than ${indexBytesMax >> 20} MB`);
  let index: unknown;
  try {
    index = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw wrong(`it is not JSON (${error instanceof Error ? error.message : error})`);
  }
  const map = typeof index === "object" && index !== null && "weight_map" in index ? index.weight_map : null;
  if (typeof map !== "object" || map === null || Array.isArray(map)) throw wrong("it has no weight_map");
  const placement = new Map<string, string>();
  for (const [name, shard] of Object.entries(map) as [string, unknown][]) {
    if (typeof shard !== "string" || !isShardName(shard)) {
      throw wrong(
        `tensor ${name} is placed in ${JSON.stringify(shard)}, which is not the name of a safetensors file beside it`,
      );
    }
    placement.set(name, shard);
  }
  if (placement.size === 0) throw wrong("its weight_map is empty");
  return placement;
}

/** A plain file name: an index must not point out of its directory. */
const isShardName = (name: string): boolean =>
  /^[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors$/.test(name) && name.length <= 255;

async function listDirectory(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT")
      throw new UsageError(
        `There is no directory ${directory}. Name a folder in Hugging Face layout, or a model of the hub as org/model.`,
      );
    if (code === "ENOTDIR")
      throw new UsageError(
        `${directory} is a file. Name the folder that holds config.json and ${singleFile}.`,
      );
    throw new UsageError(`Cannot read ${directory}: ${message}.`);
  }
}

/** What else people have in a model folder, and the way from there. */
const otherWeights: { pattern: RegExp; advice: string }[] = [
  {
    pattern: /^diff\.(json|bin)$/,
    advice:
      "It is a weight diff, not a model: koala diff apply --base ... --diff ... --out ... gives the model.",
  },
  {
    pattern: /^adapter_model\.safetensors$/,
    advice: "It is an adapter: name the folder of its base model, or merge the two.",
  },
  {
    pattern: /\.safetensors$/,
    advice: `Its weights have an unusual name: rename a single file to ${singleFile}, or add ${indexFile} for several.`,
  },
  { pattern: /\.gguf$/, advice: "Take the safetensors repository that the GGUF file was made from." },
  {
    pattern: /\.(bin|pt|pth|ckpt)$/,
    advice:
      "Pickled weights can run code when they are read, so Koala never does: take a revision with safetensors, or save the model again with transformers' save_pretrained.",
  },
  {
    pattern: /\.(h5|msgpack|onnx)$/,
    advice: "Save the model again with transformers' save_pretrained, which writes safetensors.",
  },
];

function noWeights(directory: string, names: string[]): UsageError {
  for (const { pattern, advice } of otherWeights) {
    const found = names.filter((name) => pattern.test(name));
    if (found.length === 0) continue;
    const listed = found.slice(0, 3).join(", ") + (found.length > 3 ? `, and ${found.length - 3} more` : "");
    return new UsageError(
      `${directory} holds ${listed}, but neither ${singleFile} nor ${indexFile}. ${advice}`,
    );
  }
  return new UsageError(
    `${directory} holds neither ${singleFile} nor ${indexFile}. Name a folder in Hugging Face layout.`,
  );
}
