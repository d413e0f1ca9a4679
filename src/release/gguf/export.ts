/** A model directory as one GGUF file, which llama.cpp and what is built on it read.
 *  Always: every tensor of the model is in the file or the export is refused; queries and keys of the `llama` architecture
 *  change their rows to neighbouring pairs, as llama.cpp rotates them. */
import { basename } from "node:path";
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from "../../model/checkpoint.ts";
import { type LlamaConfig, readConfig } from "../../model/config.ts";
import { UsageError } from "../../util/errors.ts";
import { convertFloats, floatsOf } from "../delta.ts";
import { bytesOf } from "../import.ts";
import { pairwise } from "../layouts.ts";
import { type GgufTensor, type GgufType, type GgufValue, tensorTypes, writeGguf } from "./file.ts";
import { vocabularyMetadata } from "./vocabulary.ts";

export const ggufTypes = Object.keys(tensorTypes) as GgufType[];

export interface GgufOptions {
  model: string;
  out: string;
  /** Of matrices; vectors are float32. Rows that a block type does not divide are F16. */
  type: GgufType;
  /** Jinja source that clients shall use, for a tokenizer that puts a dummy space in front of a text or does not; null: none. */
  chatTemplate: (prependsSpace: boolean) => string | null;
  onProgress?: (done: number, total: number) => void;
}

/** Returns the bytes of the file, and what llama.cpp will do otherwise than this model says. */
export async function exportGguf(options: GgufOptions): Promise<{ bytes: number; notes: string[] }> {
  const config = await readConfig(options.model);
  const checkpoint = await openCheckpoint(options.model);
  const { metadata, notes } = modelMetadata(config, options);
  const vocabulary = await vocabularyMetadata(options.model, config.vocabularySize);
  metadata.push(...vocabulary);
  const prepends = vocabulary.some(
    ([key, { value }]) => key === "tokenizer.ggml.add_space_prefix" && value === true,
  );
  const template = options.chatTemplate(prepends);
  if (template !== null) metadata.push(["tokenizer.chat_template", { type: "string", value: template }]);
  const tensors = tensorsOf(checkpoint, config, options.type);
  const bytes = await writeGguf(options.out, metadata, tensors, (done) =>
    options.onProgress?.(done, tensors.length),
  );
  return { bytes, notes };
}

const fileTypes: Record<GgufType, number> = { F32: 0, F16: 1, Q8_0: 7, BF16: 32 };

function modelMetadata(
  config: LlamaConfig,
  { model, type }: GgufOptions,
): { metadata: [string, GgufValue][]; notes: string[] } {
  const arch = config.family === "mistral" ? "llama" : config.family;
  const u32 = (key: string, value: number): [string, GgufValue] => [`${arch}.${key}`, { type: "u32", value }];
  const f32 = (key: string, value: number): [string, GgufValue] => [`${arch}.${key}`, { type: "f32", value }];
  const metadata: [string, GgufValue][] = [
    ["general.architecture", { type: "string", value: arch }],
    ["general.name", { type: "string", value: basename(model) }],
    ["general.file_type", { type: "u32", value: fileTypes[type] }],
    ["general.quantization_version", { type: "u32", value: 2 }],
    u32("block_count", config.layerCount),
    u32("context_length", config.maxPositions),
    u32("embedding_length", config.hiddenSize),
    u32("feed_forward_length", config.intermediateSize),
    u32("attention.head_count", config.headCount),
    u32("attention.head_count_kv", config.keyValueHeadCount),
    u32("attention.key_length", config.headDim),
    u32("attention.value_length", config.headDim),
    f32("attention.layer_norm_rms_epsilon", config.normEps),
    u32("rope.dimension_count", config.headDim),
    f32("rope.freq_base", config.rope.theta),
    u32("vocab_size", config.vocabularySize),
  ];
  const notes: string[] = [];
  const { scaling } = config.rope;
  if (scaling.type === "linear" || scaling.type === "yarn") {
    metadata.push(
      [`${arch}.rope.scaling.type`, { type: "string", value: scaling.type }],
      f32("rope.scaling.factor", scaling.factor),
    );
    if (scaling.type === "yarn")
      metadata.push(u32("rope.scaling.original_context_length", scaling.originalMaxPositions));
  } else if (scaling.type === "dynamic")
    throw new UsageError("GGUF has no key for dynamic rope scaling; export a model without it.");
  const window = config.windows.find((size) => size > 0);
  if (window !== undefined)
    notes.push(
      `llama.cpp has no sliding window for ${arch}: beyond ${window} tokens it will see more than this model does.`,
    );
  return { metadata, notes };
}

/** Hugging Face's names of a layer's tensors and GGUF's. */
const layerNames: { [name: string]: string } = {
  input_layernorm: "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  post_attention_layernorm: "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};
const globalNames: { [name: string]: string } = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
};

function ggufName(name: string): string {
  const layer = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  const known = layer ? layerNames[layer[2]!] : globalNames[name];
  if (known === undefined) throw new UsageError(`GGUF has no place for the tensor ${name}.`);
  return layer ? `blk.${layer[1]}.${known}.${layer[3]}` : known;
}

function tensorsOf(checkpoint: Checkpoint, config: LlamaConfig, type: GgufType): GgufTensor[] {
  const tensors = [...checkpoint.tensors]
    .filter(
      ([name]) =>
        !(config.tieEmbeddings && name === "lm_head.weight") && !name.endsWith("rotary_emb.inv_freq"),
    )
    .map(([name, tensor]) => exported(name, tensor, config, type));
  const { scaling } = config.rope;
  if (scaling.type === "llama3") tensors.unshift(ropeFactors(config, scaling));
  return tensors;
}

function exported(name: string, tensor: CheckpointTensor, config: LlamaConfig, wanted: GgufType): GgufTensor {
  const shape = [...tensor.shape];
  const fits = (shape.at(-1) ?? 0) % tensorTypes[wanted].elements === 0;
  const type: GgufType = shape.length < 2 ? "F32" : fits ? wanted : "F16";
  const interleaved = config.family === "llama" || config.family === "mistral";
  const heads = /\.q_proj\./.test(name)
    ? config.headCount
    : /\.k_proj\./.test(name)
      ? config.keyValueHeadCount
      : 0;
  return {
    name: ggufName(name),
    type,
    shape,
    data: async () => {
      const raw = await bytesOf(tensor);
      const bytes = interleaved && heads > 0 ? pairwise(raw, shape[0]!, heads) : raw;
      const values =
        type === "Q8_0"
          ? convertFloats(bytes, tensor.dtype, "F32")
          : convertFloats(bytes, tensor.dtype, type);
      if (values === null) throw new UsageError(`Tensor ${name} is ${tensor.dtype}, which is no float.`);
      return type === "Q8_0" ? quantize8(floatsOf(values, "F32")!) : values;
    },
  };
}

/** Blocks of 32 values: the largest magnitude divided by 127 as float16, then rounded multiples of it. */
export function quantize8(values: Float32Array): Uint8Array {
  const blocks = values.length / 32;
  const bytes = new Uint8Array(blocks * 34);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    let largest = 0;
    for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(values[32 * block + i]!));
    const step = Math.fround(largest / 127);
    const inverse = step === 0 ? 0 : Math.fround(1 / step);
    view.setFloat16(34 * block, step, true);
    for (let i = 0; i < 32; i++) {
      const scaled = Math.fround(values[32 * block + i]! * inverse);
      // Halves away from zero, as C's roundf.
      view.setInt8(34 * block + 2 + i, Math.sign(scaled) * Math.round(Math.abs(scaled)));
    }
  }
  return bytes;
}

/** Llama 3.1's scaling as the factors that llama.cpp divides frequencies by. */
function ropeFactors(
  { rope, headDim }: LlamaConfig,
  scaling: { factor: number; lowFreqFactor: number; highFreqFactor: number; originalMaxPositions: number },
): GgufTensor {
  const { factor, lowFreqFactor: low, highFreqFactor: high, originalMaxPositions } = scaling;
  const factors = Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * rope.theta ** ((2 * i) / headDim);
    if (wavelength < originalMaxPositions / high) return 1;
    if (wavelength > originalMaxPositions / low) return factor;
    const smooth = (originalMaxPositions / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
  return {
    name: "rope_freqs.weight",
    type: "F32",
    shape: [headDim / 2],
    data: async () => new Uint8Array(factors.buffer),
  };
}
