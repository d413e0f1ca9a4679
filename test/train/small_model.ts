/** A small model with everything that a family may have, and rows of documents to train it on. */
import { type LlamaConfig, parseConfig } from "../../src/model/config.ts";
import type { StepRow } from "../../src/train/loss.ts";
import { uniform } from "../../src/util/rng.ts";

/** Two layers with head norms, biases, a window in one layer, grouped heads. */
export const config: LlamaConfig = {
  ...parseConfig(
    {
      architectures: ["Qwen3ForCausalLM"],
      hidden_size: 48,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 16,
      intermediate_size: 80,
      num_hidden_layers: 2,
      vocab_size: 97,
      max_position_embeddings: 128,
      attention_bias: true,
    },
    "test",
  ),
  windows: [0, 7],
  bias: { qkv: true, output: true, mlp: true },
};

export const random = (n: number, seed: number) => Array.from({ length: n }, (_, i) => uniform(seed, i));

/** A document of random tokens; a third of them without loss, some with half of it. */
export const document = (length: number, seed: number) => ({
  ids: Int32Array.from(random(length, seed), (u) => Math.floor(u * config.vocabularySize)),
  weights: Float32Array.from(random(length, seed + 1000), (u) => (u < 0.3 ? 0 : u < 0.5 ? 0.5 : 1)),
});
export const rows: StepRow[] = [
  [document(17, 1), document(9, 2)],
  [document(26, 3)],
  [document(1, 4), document(12, 5)],
  [document(20, 6)],
];
