/** What the ops of training take besides tensors: documents of a batch, scores of attention, a step of AdamW. */
import type { Tensor } from "./tensor.ts";

/** Documents laid end to end in a batch: document s is rows starts[s]..starts[s+1]. */
export interface Documents {
  /** i32 [S+1] */
  starts: Tensor;
  /** f32 [S]: probability that a key is hidden from a query (forgetful causal masking), or null. */
  forget: Tensor | null;
  /** Of the hash that decides what is hidden. */
  seed: number;
  /** Rows of the optimizer step before this batch (default 0): what is hidden or dropped follows the place in the step. */
  first?: number;
}

/** Sliding window (0: none) and scale of the scores, and dropout of the probabilities. */
export interface AttentionScores {
  window: number;
  scale: number;
  drop?: { probability: number; seed: number } | null;
}

/** The scalars of one AdamW step; `step` counts from 1, `scale` multiplies the gradient first. */
export interface AdamWStep {
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  decay: number;
  scale: number;
  step: number;
  seed: number;
}

/** What AdamW reads and writes of one flat block: f32 (or f64) throughout with low null, or bf16 with the low halves of the
 *  float32 masters in `low` (bf16 tensors hold their bits). */
export interface AdamWState {
  w: Tensor;
  low: Tensor | null;
  m: Tensor;
  v: Tensor;
}
