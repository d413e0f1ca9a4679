/** A linear layer with its backward: y = x W^T + b, dx = dy W, dW += dy^T x, db += sum dy, and LoRA adapters beside it.
 *  Always: W lies row-major in a flat block and is packed into shared scratch right before each product, so that no
 *  second copy of the weights stays in memory. */
import { type DType, PackedMatrix, Tensor } from "../tensor/tensor.ts";
import type { TrainOps } from "./ops.ts";
import type { Adapters } from "./adapters.ts";
import { type BlockState, groupView } from "./flat_state.ts";
import type { Allocator } from "./memory.ts";
import type { RandomPlace } from "./random_place.ts";

/** Scratch that matrices are packed into: one for W, one for its transpose (the head needs both at once). */
export interface PackScratch {
  plain: PackedMatrix;
  transposed: PackedMatrix;
}

/** Enough for each of `shapes` [N, K]. */
export function allocatePackScratch(
  memory: Allocator,
  shapes: readonly (readonly [number, number])[],
  compute: DType,
): PackScratch {
  const largest = (pairs: (readonly [number, number])[]): PackedMatrix => {
    const bytes = ([N, K]: readonly [number, number]) => memory.device.packBytes(N, K, compute);
    const [N, K] = pairs.reduce((best, pair) => (bytes(pair) > bytes(best) ? pair : best));
    return memory.packed(N, K, compute);
  };
  return {
    plain: largest([...shapes]),
    transposed: largest(shapes.map(([N, K]) => [K, N] as const)),
  };
}

/** What all linear layers of a model share. */
export interface LinearContext {
  ops: TrainOps;
  compute: DType;
  packs: PackScratch;
  vectors: VectorScratch;
}

/** Vectors (norm weights, biases) as the activations' type, which ops ask for. Others are converted into scratch. */
export class VectorScratch {
  private readonly slots: Tensor[];
  private readonly unused: Tensor[];

  /** `size`: the longest vector. Two slots, because query and key norms are needed together. */
  constructor(
    memory: Allocator,
    size: number,
    private readonly activation: DType,
    gradient: DType,
  ) {
    this.slots = [memory.tensor([size], activation), memory.tensor([size], activation)];
    this.unused = [memory.tensor([size], gradient), memory.tensor([size], gradient)];
  }

  /** `vector` itself, or a copy that is valid until the next call with this slot. */
  get(ops: TrainOps, vector: Tensor, slot = 0): Tensor {
    if (vector.dtype === this.activation) return vector;
    const copy = (this.slots[slot] as Tensor).rows(vector.size);
    ops.forward.cast(copy, vector);
    return copy;
  }

  /** Takes the gradient of a frozen vector, which nobody reads. */
  unusedGradient(size: number, slot = 0): Tensor {
    return (this.unused[slot] as Tensor).rows(size);
  }
}

/** Packs row-major `w` [N, K] (or its transpose [K, N]) into the shared scratch; valid until the next call of its kind. */
export function packInto(
  context: LinearContext,
  w: Tensor,
  form: keyof PackScratch,
  compute = context.compute,
): PackedMatrix {
  const { device } = context.ops;
  const scratch = context.packs[form];
  const [rows, columns] = w.shape as [number, number];
  const [N, K] = form === "plain" ? [rows, columns] : [columns, rows];
  const bytes = device.packBytes(N, K, compute);
  if (bytes > scratch.bytes)
    throw new RangeError(`packing ${w} takes ${bytes} bytes, scratch has ${scratch.bytes}`);
  const matrix = new PackedMatrix(scratch.data, N, K, compute, bytes);
  if (form === "plain") device.pack(matrix, w.data, 0, rows, w.dtype);
  else context.ops.packTransposed(matrix, w);
  return matrix;
}

export class Linear {
  /** `key` and `biasKey` are groups of the block. */
  constructor(
    private readonly context: LinearContext,
    private readonly state: BlockState,
    private readonly key: string,
    private readonly biasKey: string | null,
    private readonly adapters: Adapters | null = null,
  ) {}

  /** y <- x W^T + b + adapters(x). */
  forward(y: Tensor, x: Tensor, place: RandomPlace | null): void {
    const { ops, vectors } = this.context;
    const w = packInto(this.context, this.view(this.state.w, this.key), "plain");
    const bias = this.biasKey ? vectors.get(ops, this.view(this.state.w, this.biasKey)) : null;
    ops.forward.matmul(y, x, w, bias);
    this.adapters?.forward(y, x, place);
  }

  /** dx <- dy W + adapters; gradients of W, b and of the adapters are added. */
  backward(dx: Tensor, dy: Tensor, x: Tensor, place: RandomPlace | null): void {
    const { ops, compute } = this.context;
    const { gradient, w } = this.state;
    ops.forward.matmul(dx, dy, packInto(this.context, this.view(w, this.key), "transposed"));
    if (gradient) {
      ops.matmulWeightGradient(this.view(gradient, this.key), dy, x, compute);
      if (this.biasKey) ops.biasGradient(this.view(gradient, this.biasKey), dy);
    }
    this.adapters?.backward(dx, dy, x, place);
  }

  private view(flat: Tensor, key: string): Tensor {
    const group = this.state.layout.groups.get(key);
    if (!group) throw new Error(`block ${this.state.layout.name} has no group ${key}`);
    return groupView(flat, group);
  }
}
