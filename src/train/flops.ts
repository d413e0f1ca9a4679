/** Floating-point operations of training, counted from shapes: a product of [T, K] and [K, N] is 2 T K N. */
import type { LlamaConfig } from "../model/config.ts";
import { parametersOf } from "../model/weights.ts";
import type { Rung } from "./activations.ts";

export interface StepWork {
  tokens: number;
  /** Rows that the head is run on. */
  trainedTokens: number;
  /** Sum over documents of length squared; with a window w, of length * min(length, w) * 2 - w^2 roughly. */
  squares: number;
}

export interface Flops {
  /** Of forward and backward: what utilisation counts. */
  useful: number;
  /** With what is computed again. */
  done: number;
}

/** `frozen`: no products for weight gradients (LoRA; its thin products are not counted). */
export function stepFlops(
  config: LlamaConfig,
  work: StepWork,
  { frozen, rungs, passes = 1 }: { frozen: boolean; rungs: readonly Rung[]; passes?: number },
): Flops {
  const matrices = (layer: number) =>
    (parametersOf(config).layers[layer] ?? []).reduce((sum, p) => sum + ("matrix" in p ? p.N * p.K : 0), 0);
  const layer = 2 * work.tokens * matrices(0);
  const gateUp = 2 * work.tokens * config.hiddenSize * 2 * config.intermediateSize;
  // Scores and values, half of each square under the causal mask.
  const attention = 2 * work.squares * config.headCount * config.headDim;
  const head = 2 * work.trainedTokens * config.vocabularySize * config.hiddenSize;
  const times = frozen ? 2 : 3;
  const useful = config.layerCount * (times * layer + 3 * attention) + times * head;
  const again = rungs.reduce(
    (sum, rung) => sum + (rung === "block" ? layer + attention : rung === "ffn" ? gateUp : 0),
    0,
  );
  return { useful, done: useful + again + (passes - 1) * head };
}

/** The work of documents of these lengths. */
export function workOf(documents: Iterable<{ length: number; trained: number }>): StepWork {
  const work = { tokens: 0, trainedTokens: 0, squares: 0 };
  for (const { length, trained } of documents) {
    work.tokens += length;
    work.trainedTokens += trained;
    work.squares += length * length;
  }
  return work;
}
