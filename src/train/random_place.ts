/** Where a random mask of training is drawn: a pure function of the recipe's seed, the step and the site, counted in
 *  tokens of the whole optimizer step, so that recomputing, resuming and other micro-batch sizes draw the same. */

export interface RandomPlace {
  /** Of this step and layer. */
  seed: number;
  /** Tokens of the optimizer step that come before this micro-batch, over all ranks. */
  firstToken: number;
}

/** Sites inside a layer; adapters count on from `adapter`. */
export const site = {
  embedding: 1,
  attentionOutput: 2,
  mlpOutput: 3,
  forget: 4,
  moments: 5,
  attentionWeights: 6,
  adapter: 16,
} as const;

/** A signed 32-bit seed from any whole numbers: murmur3's finaliser over each. */
export function mixSeed(...parts: number[]): number {
  let hash = 0x9747b28c;
  for (const part of parts) {
    hash = Math.imul(hash ^ part, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13) ^ Math.floor(part / 2 ** 32), 0xc2b2ae35);
    hash ^= hash >>> 16;
  }
  return hash | 0;
}
