/** AdamW over flat blocks (Loshchilov & Hutter 2019), with the gradient's global norm in one fixed order.
 *  Always: a rank updates its share of each block only; matrices decay, vectors do not; an update whose norm is not finite
 *  never happens, and does not count as a step of Adam. */
import type { Tensor } from "../tensor/tensor.ts";
import type { TrainOps } from "./ops.ts";
import { type BlockState, type FlatState, type Share, slice } from "./flat_state.ts";
import { clear } from "./memory.ts";
import { mixSeed, site } from "./random_place.ts";

export interface AdamWConfig {
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** Largest global norm of the gradient; 0: no clipping. */
  clipNorm: number;
}

export const defaultAdamW: AdamWConfig = {
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  clipNorm: 1,
};

export class Optimizer {
  /** Updates applied so far: Adam's own step, which bias correction counts. */
  updates = 0;

  constructor(
    private readonly ops: TrainOps,
    private readonly state: FlatState,
    private readonly config: AdamWConfig,
    private readonly seed: number,
    private readonly share: Share,
  ) {}

  zeroGradients(zeros: Tensor): void {
    for (const { gradient, accumulated, sum } of this.state.blocks) {
      const kept = accumulated ?? (this.state.stage < 2 ? gradient : sum);
      if (kept) clear(this.ops.device, kept, zeros);
    }
  }

  /** Sums of squares of the gradient, piece by piece; pieces of other ranks are 0. Equal pieces for 1, 2, 4 and 8 ranks. */
  squares(): Float64Array {
    const { rank, world } = this.share;
    const pieces = 8 % world === 0 ? 8 : world;
    const sums = new Float64Array(this.state.blocks.length * pieces);
    this.state.blocks.forEach((block, b) => {
      const size = block.layout.size / pieces;
      for (let i = 0; i < pieces; i++) {
        if (Math.floor((i * world) / pieces) !== rank) continue;
        const begin = i * size - block.begin;
        sums[b * pieces + i] = this.ops.sumSquares(slice(sumOf(block), begin, begin + size));
      }
    });
    return sums;
  }

  /** The factor that clips a gradient of global norm `norm`, as torch.nn.utils.clip_grad_norm_ has it. */
  clipScale(norm: number): number {
    const { clipNorm } = this.config;
    return clipNorm > 0 ? Math.min(1, clipNorm / (norm + 1e-6)) : 1;
  }

  /** One update; `onBlock` runs after each block (ZeRO gathers its weights there). */
  update(learningRate: number, scale: number, onBlock: (block: number) => void = () => {}): void {
    this.updates++;
    this.state.blocks.forEach((block, b) => {
      for (const [begin, end, decays] of decayRanges(block))
        this.updateRange(block, begin, end, {
          learningRate,
          scale,
          decay: decays ? this.config.weightDecay : 0,
        });
      onBlock(b);
    });
  }

  private updateRange(
    block: BlockState,
    begin: number,
    end: number,
    { learningRate, scale, decay }: { learningRate: number; scale: number; decay: number },
  ): void {
    const { beta1, beta2, epsilon } = this.config;
    const own = (flat: Tensor) => slice(flat, begin - block.begin, end - block.begin);
    const { low, m, v } = block;
    if (!m || !v) throw new Error(`block ${block.layout.name} is frozen`);
    this.ops.adamw(
      { w: own(block.ownW), low: low && own(low), m: own(m), v: own(v) },
      own(sumOf(block)),
      {
        lr: learningRate,
        beta1,
        beta2,
        eps: epsilon,
        decay,
        scale,
        step: this.updates,
        seed: mixSeed(this.seed, site.moments) >>> 0,
      },
      block.layout.index * 2 ** 40 + begin,
    );
  }
}

function sumOf(block: BlockState): Tensor {
  if (!block.sum) throw new Error(`block ${block.layout.name} is frozen`);
  return block.sum;
}

/** The rank's share cut at the borders of what decays: [begin, end, decays]. */
function* decayRanges(block: BlockState): Generator<[number, number, boolean]> {
  let at = block.begin;
  for (const [begin, end] of [...block.layout.decayed, [block.layout.size, block.layout.size] as const]) {
    if (at < Math.min(begin, block.end)) yield [at, (at = Math.min(begin, block.end)), false];
    if (at < Math.min(end, block.end)) yield [at, (at = Math.min(end, block.end)), true];
  }
}
