/** Rewrites a checkpoint in another element type and shard size, tensor by tensor: memory stays at a few chunks.
 *  Always: the target directory is complete or its index is absent; the source is only read. */
import { copyFile, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16 } from "../tensor/convert.ts";
import { UsageError } from "../util/errors.ts";
import { readConfigObject } from "./config.ts";
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from "./checkpoint.ts";
import { tensorBytes, type TensorToWrite, writeSafetensors } from "./safetensors.ts";

export type StoredType = "F32" | "BF16";

export interface ConvertOptions {
  dtype: StoredType;
  shardBytesMax: number;
  onProgress?: (done: number, total: number) => void;
}

/** Files beside the weights that make a model directory whole. */
const companions =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json$|^tokenizer\.model$|\.jinja$|^LICENSE|^README\.md$/;
const chunkBytes = 8 << 20;

/** Returns the bytes written. Throws UsageError for an unreadable source or a target that is not empty. */
export async function convertCheckpoint(
  source: string,
  target: string,
  options: ConvertOptions,
): Promise<number> {
  const checkpoint = await openCheckpoint(source);
  // Before anything is written: a copy of weights without their config would be of no use.
  const config = await readConfigObject(source);
  await mkdir(target, { recursive: true });
  if ((await readdir(target)).length > 0) throw new UsageError(`${target} is not empty; name a new folder.`);
  const shards = planShards(checkpoint, options);
  const total = shards.flat().reduce((sum, [, tensor]) => sum + tensor.end - tensor.begin, 0);
  let done = 0;
  const onRead = (bytes: number) => options.onProgress?.((done += bytes), total);
  let written = 0;
  const placement: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const name = shards.length === 1 ? "model.safetensors" : shardName(i, shards.length);
    const tensors = shard.map(([key, tensor]) => converted(key, tensor, options.dtype, onRead));
    written += await writeSafetensors(join(target, name), tensors, { format: "pt" });
    for (const [key] of shard) placement[key] = name;
  }
  await copyCompanions(source, target);
  const type = options.dtype === "F32" ? "float32" : "bfloat16";
  config["dtype" in config ? "dtype" : "torch_dtype"] = type;
  await Bun.write(join(target, "config.json"), JSON.stringify(config, null, 2));
  if (shards.length > 1) {
    const index = { metadata: { total_size: written }, weight_map: placement };
    await Bun.write(join(target, "model.safetensors.index.json"), JSON.stringify(index, null, 2));
  }
  return written;
}

const shardName = (i: number, count: number): string =>
  `model-${String(i + 1).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.safetensors`;

/** Tensors in their order, cut where a shard would grow past the limit. */
function planShards(
  checkpoint: Checkpoint,
  { dtype, shardBytesMax }: ConvertOptions,
): [string, CheckpointTensor][][] {
  const shards: [string, CheckpointTensor][][] = [];
  let room = 0;
  for (const [name, tensor] of checkpoint.tensors) {
    const bytes = tensorBytes(isFloat(tensor) ? dtype : tensor.dtype, tensor.shape) ?? 0;
    if (shards.length === 0 || bytes > room) {
      shards.push([]);
      room = shardBytesMax;
    }
    (shards.at(-1) as [string, CheckpointTensor][]).push([name, tensor]);
    room -= bytes;
  }
  return shards;
}

const isFloat = (tensor: CheckpointTensor): boolean => ["F64", "F32", "BF16", "F16"].includes(tensor.dtype);

function converted(
  name: string,
  tensor: CheckpointTensor,
  dtype: StoredType,
  onRead: (bytes: number) => void,
): TensorToWrite {
  const keep = !isFloat(tensor) || tensor.dtype === dtype;
  async function* pieces(): AsyncGenerator<Uint8Array> {
    const file = Bun.file(tensor.file);
    for (let at = tensor.begin; at < tensor.end; at += chunkBytes) {
      const bytes = new Uint8Array(await file.slice(at, Math.min(at + chunkBytes, tensor.end)).arrayBuffer());
      onRead(bytes.length);
      yield keep ? bytes : encode(decode(bytes, tensor.dtype), dtype);
    }
  }
  return { name, dtype: keep ? tensor.dtype : dtype, shape: tensor.shape, data: pieces };
}

function decode(bytes: Uint8Array, dtype: CheckpointTensor["dtype"]): Float32Array {
  switch (dtype) {
    case "F64":
      return Float32Array.from(new Float64Array(bytes.buffer));
    case "BF16":
      return bfloat16ToFloat32(new Uint16Array(bytes.buffer));
    case "F16":
      return float16ToFloat32(new Uint16Array(bytes.buffer));
    default:
      return new Float32Array(bytes.buffer);
  }
}

function encode(values: Float32Array, dtype: StoredType): Uint8Array {
  const array = dtype === "F32" ? values : float32ToBfloat16(values);
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Copies what makes a model directory whole beside its weights; config.json with the new element type. */
export async function copyCompanions(source: string, target: string): Promise<void> {
  for (const name of await readdir(source)) {
    if (companions.test(name) && name !== "config.json")
      await copyFile(join(source, name), join(target, name));
  }
}
