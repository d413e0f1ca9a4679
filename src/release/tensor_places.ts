/** Where tensors lie and which of their bytes have counterparts in another checkpoint. */
import type { Checkpoint, CheckpointTensor } from "../model/checkpoint.ts";
import { type SafetensorsDtype, tensorBytes } from "../model/safetensors.ts";
import { deltaWidth } from "./delta.ts";

/** The tensors of one file, in the order of their bytes. */
export function tensorsOf(checkpoint: Checkpoint, file: string): [string, CheckpointTensor][] {
  return [...checkpoint.tensors]
    .filter(([, tensor]) => tensor.file === file)
    .sort(([, a], [, b]) => a.begin - b.begin);
}

/** Bytes of one element of a type of whole bytes. */
export const elementBytes = (dtype: SafetensorsDtype): number => tensorBytes(dtype, [8])! / 8;

/** Leading bytes of `tensor` that the base has, too: all, none, or the common rows where a vocabulary was resized. */
export function commonBytes(
  tensor: { dtype: SafetensorsDtype; shape: readonly number[] },
  base: { dtype: SafetensorsDtype; shape: readonly number[] } | undefined,
): number {
  if (base === undefined || base.shape.length !== tensor.shape.length) return 0;
  const floats = deltaWidth(tensor.dtype) > 0 && deltaWidth(base.dtype) > 0;
  if (!floats && base.dtype !== tensor.dtype) return 0;
  if (base.shape.slice(1).join() !== tensor.shape.slice(1).join()) return 0;
  const rows = Math.min(base.shape[0] ?? 1, tensor.shape[0] ?? 1);
  const row = tensor.shape.slice(1).reduce((product, size) => product * size, 1);
  return rows * row * elementBytes(tensor.dtype);
}
