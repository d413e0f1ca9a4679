/** Parameters, gradients and optimizer state as flat blocks, whole or sharded over ranks by ZeRO stage.
 *  Always: w and gradient span the whole block; ownW, sum, low, m and v only the share [begin, end) that this rank updates.
 *  Padding is zero and stays zero: its gradient is zero, and no decay reaches it. */
import type { FlatBlock, FlatGroup, FlatLayout, FlatParameter } from "../model/flat_layout.ts";
import { bytesOf, type DType, Tensor } from "../tensor/tensor.ts";
import type { Allocator } from "./memory.ts";
import { GatherBuffer, GatheredBlock } from "./ranks/gathered_block.ts";

/** float32: weights, moments and products in float32. mixed: the same with bfloat16 products. bf16: bfloat16 weights
 *  with the low half of an exact float32 master, bfloat16 moments and products. float64: for checks. */
export type Precision = "float32" | "mixed" | "bf16" | "float64";

export interface PrecisionTypes {
  weight: "f32" | "bf16" | "f64";
  moment: "f32" | "bf16" | "f64";
  /** Gradients of parameters, and sums over rows. */
  gradient: "f32" | "f64";
  /** Products of matrices. */
  compute: "f32" | "bf16" | "f64";
  split: boolean;
}

export const precisionTypes: Record<Precision, PrecisionTypes> = {
  float32: { weight: "f32", moment: "f32", gradient: "f32", compute: "f32", split: false },
  mixed: { weight: "f32", moment: "f32", gradient: "f32", compute: "bf16", split: false },
  bf16: { weight: "bf16", moment: "bf16", gradient: "f32", compute: "bf16", split: true },
  float64: { weight: "f64", moment: "f64", gradient: "f64", compute: "f64", split: false },
};

/** This rank's part of the work; world 1 owns everything. */
export interface Share {
  rank: number;
  world: number;
}

export const alone: Share = { rank: 0, world: 1 };

/** What is sharded over ranks: 0 nothing; 1 optimizer state; 2 also the sums of gradients; 3 also the weights. */
export type ZeroStage = 0 | 1 | 2 | 3;

export interface BlockState {
  layout: FlatBlock;
  /** In stage 3 readable only while they are gathered. */
  w: Tensor;
  /** Of this rank's micro-batches, in stages 2 and 3 and with bfloat16 gradients of the current one; absent where the block
   *  is frozen. */
  gradient: Tensor | null;
  /** bfloat16 gradients in stages 0 and 1: the sum over this rank's micro-batches, of the whole block. */
  accumulated?: Tensor | null;
  /** Elements [begin, end) that this rank updates: their weights, their gradient summed over ranks, their optimizer state. */
  begin: number;
  end: number;
  ownW: Tensor;
  sum: Tensor | null;
  low: Tensor | null;
  m: Tensor | null;
  v: Tensor | null;
}

export interface FlatState {
  layout: FlatLayout;
  types: PrecisionTypes;
  trained: boolean;
  stage: ZeroStage;
  blocks: BlockState[];
}

/** The allocations by kind; each runs on an allocator of its own, so that a plan can show the kinds. */
export interface StateMemory {
  weights: Allocator;
  gradients: Allocator;
  optimizer: Allocator;
  /** Gradients of one micro-batch, where they are summed in bfloat16. */
  workspace: Allocator;
}

/** float32: gradients of the step are summed in the activations' type. bfloat16: those of a micro-batch are, a block at a
 *  time in shared memory, and then added to a bfloat16 sum, rounded to nearest even once a micro-batch. */
export type GradientType = "float32" | "bfloat16";

export interface StateOptions {
  trained?: boolean;
  share?: Share;
  stage?: ZeroStage;
  gradients?: GradientType;
}

export function allocateState(
  memory: StateMemory,
  layout: FlatLayout,
  precision: Precision,
  { trained = true, share = alone, stage = 1, gradients = "float32" }: StateOptions = {},
): FlatState {
  const types = precisionTypes[precision];
  const owners = stage === 0 ? alone : share;
  const half = gradients === "bfloat16";
  const inTurns = trained && (stage >= 2 || half);
  const turns = inTurns
    ? gradientsInTurn(half ? memory.workspace : memory.gradients, layout, types, stage >= 2)
    : null;
  const buffers = stage < 3 ? null : weightsInTurn(memory.weights, layout, types);
  const blocks = layout.blocks.map((block): BlockState => {
    const part = block.size / owners.world;
    const [begin, end] = [part * owners.rank, part * (owners.rank + 1)];
    const state = (dtype: DType) => (trained ? memory.optimizer.tensor([part], dtype) : null);
    const w = buffers ? null : memory.weights.tensor([block.size], types.weight);
    const sumType = half ? "bf16" : types.gradient;
    const whole = trained && !(turns && stage >= 2) ? memory.gradients.tensor([block.size], sumType) : null;
    const rest = {
      layout: block,
      begin,
      end,
      gradient: turns?.(block).rows(block.size) ?? whole,
      accumulated: turns ? whole : null,
      sum: whole ? slice(whole, begin, end) : turns ? memory.gradients.tensor([part], sumType) : null,
      ownW: w ? slice(w, begin, end) : memory.weights.tensor([part], types.weight),
      low: types.split ? state("bf16") : null,
      m: state(types.moment),
      v: state(types.moment),
    };
    return w ? { ...rest, w } : new GatheredBlock(rest, buffers?.(block) as GatherBuffer);
  });
  return { layout, types, trained, stage, blocks };
}

/** Gradients of a micro-batch: two memories for the blocks (where reductions overlap, so that one can be reduced while the
 *  other is written, else one); the first block, which a tied head adds to from the very beginning, has its own. */
function gradientsInTurn(
  memory: Allocator,
  layout: FlatLayout,
  { gradient }: PrecisionTypes,
  overlaps: boolean,
) {
  const slot = (index: number) => (index === 0 ? 0 : overlaps ? 1 + (index % 2) : 1);
  return inTurn(layout, slot, (size) => memory.tensor([size], gradient));
}

/** Gathered weights: two buffers for the layers, so that one can fill while the other is read; first and last have their own. */
function weightsInTurn(memory: Allocator, layout: FlatLayout, { weight }: PrecisionTypes) {
  const last = layout.blocks.length - 1;
  const slot = (index: number) => (index === 0 ? 0 : index === last ? 1 : 2 + (index % 2));
  return inTurn(layout, slot, (size) => new GatherBuffer(memory.tensor([size], weight)));
}

/** One memory a slot, as large as the largest of its blocks. */
function inTurn<Memory>(
  layout: FlatLayout,
  slot: (index: number) => number,
  make: (size: number) => Memory,
): (block: FlatBlock) => Memory {
  const sizes = new Map<number, number>();
  for (const { index, size } of layout.blocks)
    sizes.set(slot(index), Math.max(size, sizes.get(slot(index)) ?? 0));
  const made = new Map([...sizes].map(([key, size]) => [key, make(size)]));
  return (block) => made.get(slot(block.index)) as Memory;
}

/** A group of a block as a tensor: [N, K], or [N] for vectors. */
export function groupView(flat: Tensor, group: FlatGroup): Tensor {
  return new Tensor(flat.data + group.offset * bytesOf[flat.dtype], group.shape, flat.dtype);
}

export function parameterView(flat: Tensor, parameter: FlatParameter): Tensor {
  return new Tensor(flat.data + parameter.offset * bytesOf[flat.dtype], parameter.shape, flat.dtype);
}

/** Elements [begin, end) of a flat tensor. */
export function slice(flat: Tensor, begin: number, end: number): Tensor {
  if (begin < 0 || end > flat.size || begin > end)
    throw new RangeError(`elements ${begin}..${end} of ${flat}`);
  return new Tensor(flat.data + begin * bytesOf[flat.dtype], [end - begin], flat.dtype);
}

/** One tensor of the state as checkpoints see it: a part of parameter `name`, or of its optimizer state. */
export interface StateSlice {
  kind: "w" | "low" | "m" | "v";
  name: string;
  shape: readonly number[];
  /** Elements of the parameter, row-major, that `tensor` holds. */
  begin: number;
  end: number;
  block: number;
  tensor: Tensor;
}

/** Every piece of weights and optimizer state that this rank owns, parameter by parameter. */
export function* stateSlices(state: FlatState): Generator<StateSlice> {
  for (const block of state.blocks) {
    for (const parameter of block.layout.parameters) {
      const begin = Math.max(block.begin, parameter.offset);
      const end = Math.min(block.end, parameter.offset + parameter.size);
      if (begin >= end) continue;
      const range = { begin: begin - parameter.offset, end: end - parameter.offset };
      const common = { name: parameter.name, shape: parameter.shape, ...range, block: parameter.block };
      yield { kind: "w", ...common, tensor: slice(block.ownW, begin - block.begin, end - block.begin) };
      for (const kind of ["low", "m", "v"] as const) {
        const flat = block[kind];
        if (flat) yield { kind, ...common, tensor: slice(flat, begin - block.begin, end - block.begin) };
      }
    }
  }
}
