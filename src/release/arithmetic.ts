/** Weight deltas of 2023, which are tuned minus base as rounded floats: FastChat's (float16), Alpaca's (float32, one row
 *  more for its pad token) and EasyLM's (a stream). What comes out is what those programs gave, and no more exact: it can
 *  carry no hash of the original.
 *  Sources: FastChat/fastchat/model/apply_delta.py, stanford_alpaca/weight_diff.py, EasyLM/scripts/diff_checkpoint.py. */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { type CheckpointTensor, openCheckpoint } from "../model/checkpoint.ts";
import { readConfig } from "../model/config.ts";
import { copyCompanions } from "../model/convert_checkpoint.ts";
import type { SafetensorsDtype } from "../model/safetensors.ts";
import { type TensorToWrite, writeSafetensors } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";
import { convertFloats, floatsOf } from "./delta.ts";
import { easylmTensors } from "./easylm_file.ts";
import { bytesOf, torchFolderTensors } from "./import.ts";
import { easylmRules, type ImportedTensor, importTensors } from "./layouts.ts";

export const deltaKinds = ["fastchat", "alpaca", "easylm"] as const;
export type DeltaKind = (typeof deltaKinds)[number];

/** Type of what each program writes. */
const written: Record<DeltaKind, SafetensorsDtype> = { fastchat: "F16", alpaca: "F32", easylm: "BF16" };

export interface ArithmeticOptions {
  kind: DeltaKind;
  base: string;
  /** Folder of the delta; of EasyLM, the streamed file. */
  delta: string;
  out: string;
  onProgress?: (done: number, total: number) => void;
}

/** Returns the bytes of the weights. */
export async function applyArithmeticDelta(options: ArithmeticOptions): Promise<number> {
  const { kind, base: baseFolder, delta, out } = options;
  const base = await openCheckpoint(baseFolder);
  const deltas = await openDelta(options);
  for (const { name, shape } of deltas) checkFits(name, shape, base.tensors.get(name), kind, baseFolder);
  await mkdir(out, { recursive: true });
  if ((await readdir(out)).length > 0) throw new UsageError(`${out} is not empty; name a new folder.`);
  let done = 0;
  const tensors = deltas.map((tensor): TensorToWrite => ({
    name: tensor.name,
    dtype: written[kind],
    shape: tensor.shape,
    data: async function* () {
      yield await sum(tensor, base.tensors.get(tensor.name)!, kind);
      options.onProgress?.(++done, deltas.length);
    },
  }));
  const companions = kind === "easylm" ? baseFolder : delta;
  await copyCompanions(companions, out);
  const config = (await Bun.file(join(companions, "config.json")).json()) as Record<string, unknown>;
  config["dtype" in config ? "dtype" : "torch_dtype"] = { F16: "float16", F32: "float32", BF16: "bfloat16" }[
    written[kind] as "F16" | "F32" | "BF16"
  ];
  await Bun.write(join(out, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  return writeSafetensors(join(out, "model.safetensors"), tensors, { format: "pt" });
}

async function openDelta({ kind, base, delta }: ArithmeticOptions): Promise<ImportedTensor[]> {
  if (kind === "easylm") {
    const { headCount: heads, keyValueHeadCount: keyValueHeads } = await readConfig(base);
    return importTensors([await easylmTensors(delta)], easylmRules, { heads, keyValueHeads });
  }
  const names = await readdir(delta).catch(() => {
    throw new UsageError(`There is no folder ${delta}.`);
  });
  const tensors = names.some((name) => name.endsWith(".safetensors"))
    ? (await openCheckpoint(delta)).tensors
    : await torchFolderTensors(delta);
  return [...tensors].map(([name, tensor]) => ({
    name,
    dtype: tensor.dtype,
    shape: [...tensor.shape],
    data: () => bytesOf(tensor),
  }));
}

function checkFits(
  name: string,
  shape: readonly number[],
  base: CheckpointTensor | undefined,
  kind: DeltaKind,
  folder: string,
): void {
  const grown = kind === "alpaca" && base && base.shape.length === 2 && shape[0] === base.shape[0]! + 1;
  if (base && (grown || shape.join() === base.shape.join())) return;
  throw new UsageError(
    `${folder} is not the base of this delta: tensor ${name} is ${base ? base.shape.join("x") : "missing"} there and ${shape.join("x")} in the delta.`,
  );
}

/** base + delta as the program computes it. A float32 sum rounded to a 16-bit type is the correctly rounded sum. */
async function sum(delta: ImportedTensor, base: CheckpointTensor, kind: DeltaKind): Promise<Uint8Array> {
  const type = written[kind];
  const working = kind === "fastchat" ? "F16" : "F32";
  const read = (bytes: Uint8Array, dtype: SafetensorsDtype): Float32Array => {
    const converted = convertFloats(bytes, dtype, working);
    if (converted === null) throw new UsageError(`Tensor ${delta.name} is ${dtype}, which is no float.`);
    return floatsOf(converted, working)!.slice();
  };
  const values = read(await delta.data(), delta.dtype);
  const from = read(await bytesOf(base), base.dtype);
  for (let i = 0; i < from.length; i++) values[i] = values[i]! + from[i]!;
  if (values.length > from.length) addMeanRow(values, from, base.shape[0]!);
  return convertFloats(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), "F32", type)!;
}

/** Alpaca gives its pad token the mean of the base's rows before it adds the delta. */
function addMeanRow(values: Float32Array, base: Float32Array, rows: number): void {
  const columns = base.length / rows;
  for (let column = 0; column < columns; column++) {
    let total = 0;
    for (let row = 0; row < rows; row++) total += base[row * columns + column]!;
    values[base.length + column] = values[base.length + column]! + Math.fround(total / rows);
  }
}
