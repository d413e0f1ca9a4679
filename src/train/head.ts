/** Final norm, head and loss: log-probabilities of the selected rows' targets, and the gradient of -sum weight * log p.
 *  Always: logits exist for one chunk of rows at a time and become their own gradient in place; the weights decide the
 *  loss, so SFT, turn weights and DPO are the same code; logits are float32 (or float64) whatever the activations are: their
 *  rounding to bfloat16 would move log-probabilities by up to 2^-8 of the largest logit. */
import type { LlamaConfig } from "../model/config.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Flow, FlowTypes } from "./activations.ts";
import { type BlockState, groupView } from "./flat_state.ts";
import { type LinearContext, packInto } from "./linear.ts";
import type { Allocator } from "./memory.ts";
import type { MicroBatch } from "./micro_batch.ts";

export interface HeadMemory {
  /** norm(x) [T, D], later the gradient of it. */
  normed: Tensor;
  /** Selected rows of it [T, D]. */
  rows: Tensor;
  /** Their gradient [T + 1, D]; the row after the last selected is zero. */
  drows: Tensor;
  /** [chunk, V] */
  logits: Tensor;
  /** [chunk, D] of bfloat16 activations: selected rows as the logits' type, then their gradient. */
  wide: Tensor | null;
  logprobs: Tensor;
  lse: Tensor;
  /** Of float32 logits: how many tokens are more likely than the target, plus one. */
  ranks: Tensor;
  unused: Tensor;
  /** A row of zeros. */
  zeros: Tensor;
}

export function allocateHead(
  memory: Allocator,
  config: LlamaConfig,
  T: number,
  chunkRows: number,
  { activation, sum }: FlowTypes,
): HeadMemory {
  const D = config.hiddenSize;
  const chunk = Math.min(chunkRows, T);
  return {
    normed: memory.tensor([T, D], activation),
    rows: memory.tensor([T, D], activation),
    drows: memory.tensor([T + 1, D], activation),
    logits: memory.tensor([chunk, config.vocabularySize], sum),
    wide: activation === sum ? null : memory.tensor([chunk, D], sum),
    logprobs: memory.tensor([T], sum),
    lse: memory.tensor([T], sum),
    ranks: memory.tensor([T], "i32"),
    unused: memory.tensor([T], "f32"),
    zeros: memory.tensor([D], activation),
  };
}

export class TrainHead {
  /** Rows of the last batch whose target was the most likely token; null in float64, which only checks use. */
  correct: number | null = null;

  /** `top` holds the final norm; `owner` and `key` are where the head's matrix lies: the embedding where they are tied. */
  constructor(
    private readonly context: LinearContext,
    private readonly config: LlamaConfig,
    private readonly top: BlockState,
    private readonly owner: BlockState,
    private readonly key: "head" | "embedding",
    private readonly memory: HeadMemory,
  ) {}

  /** log p of each selected row's target, in order; x is the last block's output. */
  logprobs(x: Tensor, batch: MicroBatch): Float64Array {
    this.select(x, batch);
    const head = packInto(this.context, this.matrix(this.owner.w), "plain");
    this.chunks(batch.R, (first, count) => {
      const logits = this.memory.logits.rows(count);
      this.context.ops.forward.matmul(logits, this.widened(this.memory.rows.rows(count, first)), head);
      this.crossEntropy(logits, batch, first, count);
    });
    return this.download(batch.R);
  }

  /** Adds the gradients of -sum weight * log p; flow.dx <- its gradient at x. Returns the log-probabilities. */
  backward(flow: Flow, x: Tensor, batch: MicroBatch): Float64Array {
    const { ops, compute, vectors } = this.context;
    const { memory } = this;
    this.select(x, batch);
    const head = packInto(this.context, this.matrix(this.owner.w), "plain");
    const transposed = packInto(this.context, this.matrix(this.owner.w), "transposed");
    this.chunks(batch.R, (first, count) => {
      const logits = memory.logits.rows(count);
      const rows = this.widened(memory.rows.rows(count, first));
      ops.forward.matmul(logits, rows, head);
      this.crossEntropy(logits, batch, first, count);
      const targets = batch.targets.rows(count, first);
      ops.crossEntropyBackward(
        logits,
        memory.lse.rows(count, first),
        batch.weights.rows(count, first),
        targets,
      );
      if (this.owner.gradient)
        ops.matmulWeightGradient(this.matrix(this.owner.gradient), logits, rows, compute);
      const drows = memory.drows.rows(count, first);
      const wide = memory.wide?.rows(count) ?? drows;
      ops.forward.matmul(wide, logits, transposed);
      if (wide !== drows) ops.forward.cast(drows, wide);
    });
    const zero = memory.drows.rows(1, batch.R);
    ops.device.copy(zero.data, memory.zeros.data, zero.bytes);
    const dnormed = memory.normed.rows(batch.T);
    ops.forward.gatherRows(dnormed, memory.drows.rows(batch.R + 1), batch.scatter);
    const weight = this.vector(this.top.w);
    const dweight = this.top.gradient
      ? groupView(this.top.gradient, this.normGroup())
      : vectors.unusedGradient(weight.size);
    ops.rmsNormBackward(flow.dx, dweight, dnormed, x, weight, this.config.normEps, false);
    return this.download(batch.R);
  }

  lastLogits(x: Tensor): Tensor {
    const { ops } = this.context;
    const row = this.memory.normed.rows(1);
    const logits = this.memory.logits.rows(1);
    ops.forward.rmsNorm(row, x.rows(1, x.dim(0) - 1), this.vector(this.top.w), this.config.normEps);
    ops.forward.matmul(logits, this.widened(row), packInto(this.context, this.matrix(this.owner.w), "plain"));
    return logits;
  }

  /** A chunk of rows as the logits' type; valid until the next call. */
  private widened(rows: Tensor): Tensor {
    const wide = this.memory.wide?.rows(rows.dim(0));
    if (!wide) return rows;
    this.context.ops.forward.cast(wide, rows);
    return wide;
  }

  private select(x: Tensor, batch: MicroBatch): void {
    const { ops } = this.context;
    const normed = this.memory.normed.rows(batch.T);
    ops.forward.rmsNorm(normed, x, this.vector(this.top.w), this.config.normEps);
    if (batch.R > 0) ops.forward.gatherRows(this.memory.rows.rows(batch.R), normed, batch.selected);
  }

  private crossEntropy(logits: Tensor, batch: MicroBatch, first: number, count: number): void {
    const { logprobs, lse } = this.memory;
    const targets = batch.targets.rows(count, first);
    this.context.ops.crossEntropy(logprobs.rows(count, first), lse.rows(count, first), logits, targets);
    if (logits.dtype !== "f32") return;
    const { ranks, unused } = this.memory;
    const none = unused.rows(0);
    this.context.ops.forward.logprobs(
      { logprobs: unused.rows(count), ranks: ranks.rows(count, first), topIds: none, topLogprobs: none },
      logits,
      targets,
      0,
    );
  }

  private chunks(R: number, each: (first: number, count: number) => void): void {
    const size = this.memory.logits.dim(0);
    for (let first = 0; first < R; first += size) each(first, Math.min(size, R - first));
  }

  private download(R: number): Float64Array {
    const { ranks, logits } = this.memory;
    this.correct =
      logits.dtype === "f32"
        ? (this.context.ops.device.download(ranks.rows(R)) as Int32Array).filter((rank) => rank === 1).length
        : null;
    return Float64Array.from(this.context.ops.device.download(this.memory.logprobs.rows(R)));
  }

  private vector(flat: Tensor): Tensor {
    return this.context.vectors.get(this.context.ops, groupView(flat, this.normGroup()));
  }

  private normGroup() {
    const group = this.top.layout.groups.get("norm");
    if (!group) throw new Error("the top block has no norm");
    return group;
  }

  private matrix(flat: Tensor): Tensor {
    const group = this.owner.layout.groups.get(this.key);
    if (!group) throw new Error(`block ${this.owner.layout.name} has no ${this.key}`);
    return groupView(flat, group);
  }
}
