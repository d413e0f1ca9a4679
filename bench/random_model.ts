/** Writes a Hugging Face model directory of a given LLaMA shape with random bfloat16 weights: for speed only, it says nothing sensible.
 *  usage: bun bench/random_model.ts SHAPE DIRECTORY   SHAPE: 0.1b 0.5b 1.1b */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { writeSafetensors } from "../src/model/safetensors.ts";

export const shapes = {
  "0.1b": {
    hidden_size: 768,
    intermediate_size: 2048,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    num_key_value_heads: 12,
  },
  "0.5b": {
    hidden_size: 1536,
    intermediate_size: 4096,
    num_hidden_layers: 16,
    num_attention_heads: 12,
    num_key_value_heads: 12,
  },
  "1.1b": {
    hidden_size: 2048,
    intermediate_size: 5632,
    num_hidden_layers: 22,
    num_attention_heads: 32,
    num_key_value_heads: 4,
  },
};

export type Shape = keyof typeof shapes;

const vocabularySize = 32000;

export async function writeRandomModel(shape: Shape, directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const dims = shapes[shape];
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: vocabularySize,
    ...dims,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: "silu",
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: "bfloat16",
  };
  await Bun.write(join(directory, "config.json"), JSON.stringify(config, null, 2));
  await Bun.write(join(directory, "tokenizer.json"), JSON.stringify(byteTokenizer()));
  await writeSafetensors(join(directory, "model.safetensors"), [...parameters(dims)], { format: "pt" });
}

function* parameters(dims: (typeof shapes)[Shape]) {
  const { hidden_size: D, intermediate_size: F, num_attention_heads: H, num_key_value_heads: G } = dims;
  const kv = (D / H) * G;
  yield matrix("model.embed_tokens.weight", vocabularySize, D);
  for (let layer = 0; layer < dims.num_hidden_layers; layer++) {
    const at = (name: string) => `model.layers.${layer}.${name}.weight`;
    yield ones(at("input_layernorm"), D);
    yield matrix(at("self_attn.q_proj"), D, D);
    yield matrix(at("self_attn.k_proj"), kv, D);
    yield matrix(at("self_attn.v_proj"), kv, D);
    yield matrix(at("self_attn.o_proj"), D, D);
    yield ones(at("post_attention_layernorm"), D);
    yield matrix(at("mlp.gate_proj"), F, D);
    yield matrix(at("mlp.up_proj"), F, D);
    yield matrix(at("mlp.down_proj"), D, F);
  }
  yield ones("model.norm.weight", D);
  yield matrix("lm_head.weight", vocabularySize, D);
}

let state = 1;

/** bfloat16 bits of numbers of either sign between 2^-7 and 2^-3: exponents and signs vary, as in real weights. */
function matrix(name: string, rows: number, columns: number) {
  return { name, dtype: "BF16" as const, shape: [rows, columns], data: () => [randomBits(rows * columns)] };
}

export function randomBits(count: number): Uint8Array {
  const bits = new Uint16Array(count);
  for (let i = 0; i < bits.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bits[i] = ((state >>> 16) & 0x80ff) | ((state & 0x300) >> 1) | 0x3c00;
  }
  return new Uint8Array(bits.buffer);
}

function ones(name: string, size: number) {
  return {
    name,
    dtype: "BF16" as const,
    shape: [size],
    data: new Uint8Array(new Uint16Array(size).fill(0x3f80).buffer),
  };
}

/** A SentencePiece-style vocabulary of bytes and made-up pieces, so that the server can run the model. */
function byteTokenizer() {
  const byte = (b: number) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`;
  const names = ["<unk>", "<s>", "</s>", ...Array.from({ length: 256 }, (_, b) => byte(b))];
  while (names.length < vocabularySize) names.push(`▁t${names.length}`);
  const special = (content: string, id: number) => ({
    id,
    content,
    special: true,
    normalized: false,
    lstrip: false,
    rstrip: false,
    single_word: false,
  });
  return {
    version: "1.0",
    added_tokens: [special("<unk>", 0), special("<s>", 1), special("</s>", 2)],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(names.map((name, id) => [name, id])),
      merges: [],
    },
  };
}

if (import.meta.main) {
  const [shape, directory] = process.argv.slice(2);
  if (!shape || !(shape in shapes) || !directory) {
    console.error(`usage: bun bench/random_model.ts ${Object.keys(shapes).join("|")} DIRECTORY`);
    process.exit(1);
  }
  await writeRandomModel(shape as Shape, directory);
}
