/** What a decoder of the LLaMA family is, read from a Hugging Face config.json. Every field that changes the result is read or refused. */
import { join } from "node:path";
import { UsageError } from "../util/errors.ts";

/** How positions become angles. `type` names follow transformers' modeling_rope_utils. */
export interface RopeConfig {
  theta: number;
  scaling:
    | { type: "default" }
    | { type: "linear"; factor: number }
    | { type: "dynamic"; factor: number }
    | {
        type: "llama3";
        factor: number;
        lowFreqFactor: number;
        highFreqFactor: number;
        originalMaxPositions: number;
      }
    | {
        type: "yarn";
        factor: number;
        attentionFactor: number | null;
        mscale: number | null;
        mscaleAllDim: number | null;
        betaFast: number;
        betaSlow: number;
        truncate: boolean;
        originalMaxPositions: number;
      };
}

export interface LlamaConfig {
  family: "llama" | "mistral" | "qwen2" | "qwen3";
  vocabularySize: number;
  hiddenSize: number;
  intermediateSize: number;
  layerCount: number;
  headCount: number;
  keyValueHeadCount: number;
  headDim: number;
  normEps: number;
  rope: RopeConfig;
  /** Longest sequence the model was made for. */
  maxPositions: number;
  tieEmbeddings: boolean;
  /** Biases of q, k, v; of o; of gate, up, down. */
  bias: { qkv: boolean; output: boolean; mlp: boolean };
  /** RMSNorm over each query and key head (Qwen3). */
  qkNorm: boolean;
  /** A query sees the last `window` tokens; 0: all. One entry a layer. */
  windows: number[];
  bosId: number | null;
  eosIds: number[];
}

type Json = Record<string, unknown>;

/** Far above any model's; a file that asks for more would only fill the memory with names of tensors. */
const layersMax = 4096;

const families: Record<string, LlamaConfig["family"]> = {
  LlamaForCausalLM: "llama",
  MistralForCausalLM: "mistral",
  Qwen2ForCausalLM: "qwen2",
  Qwen3ForCausalLM: "qwen3",
};

/** The config of a model directory. Throws UsageError where it is missing, damaged or of an unsupported model. */
export async function readConfig(directory: string): Promise<LlamaConfig> {
  return parseConfig(await readConfigObject(directory), join(directory, "config.json"));
}

/** config.json as it stands. */
export async function readConfigObject(directory: string): Promise<Record<string, unknown>> {
  const path = join(directory, "config.json");
  const file = Bun.file(path);
  if (!(await file.exists()))
    throw new UsageError(`${directory} has no config.json, so it is not a Hugging Face model directory.`);
  const config: unknown = await file.json().catch((error: Error) => {
    throw new UsageError(`${path} is not JSON: ${error.message}.`);
  });
  if (typeof config !== "object" || config === null || Array.isArray(config))
    throw new UsageError(`${path} is not a JSON object.`);
  return config as Record<string, unknown>;
}

/** Throws UsageError naming the field, its value and what is supported. `path` is for the message. */
export function parseConfig(json: unknown, path: string): LlamaConfig {
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw new UsageError(`${path} is not a JSON object.`);
  const read = new Reader(json as Json, path);
  const family = familyOf(read);
  refuseUnsupported(read);
  const hiddenSize = read.count("hidden_size");
  const headCount = read.count("num_attention_heads");
  const keyValueHeadCount = read.count("num_key_value_heads", headCount);
  const headDim = read.count("head_dim", hiddenSize / headCount);
  if (headCount % keyValueHeadCount !== 0) {
    throw new UsageError(
      `${path}: num_attention_heads ${headCount} is not a multiple of num_key_value_heads ${keyValueHeadCount}.`,
    );
  }
  if (headDim % 2 !== 0 || headDim > 512)
    throw new UsageError(`${path}: head_dim ${headDim} is odd or above 512.`);
  const layerCount = read.count("num_hidden_layers");
  if (layerCount > layersMax)
    throw new UsageError(`${path}: num_hidden_layers ${layerCount} is above ${layersMax}.`);
  const attentionBias = read.flag("attention_bias", false);
  return {
    family,
    vocabularySize: read.count("vocab_size"),
    hiddenSize,
    intermediateSize: read.count("intermediate_size"),
    layerCount,
    headCount,
    keyValueHeadCount,
    headDim,
    normEps: read.number("rms_norm_eps", 1e-6),
    rope: ropeOf(read),
    maxPositions: read.count("max_position_embeddings", 2048),
    tieEmbeddings: read.flag("tie_word_embeddings", false),
    bias: {
      qkv: family === "qwen2" || attentionBias,
      output: family !== "qwen2" && attentionBias,
      mlp: family === "llama" && read.flag("mlp_bias", false),
    },
    qkNorm: family === "qwen3",
    windows: windowsOf(read, family, layerCount),
    bosId: read.optionalId("bos_token_id"),
    eosIds: read.ids("eos_token_id"),
  };
}

function familyOf(read: Reader): LlamaConfig["family"] {
  const names = read.json["architectures"];
  const name = Array.isArray(names) ? String(names[0]) : `model_type ${String(read.json["model_type"])}`;
  const byType = Object.values(families).find(
    (family) => !Array.isArray(names) && family === read.json["model_type"],
  );
  const family = families[name] ?? byType;
  if (!family) {
    throw new UsageError(
      `${read.path}: architecture ${name} is not supported; supported are ${Object.keys(families).join(", ")}.`,
    );
  }
  return family;
}

function refuseUnsupported(read: Reader): void {
  const { json, path } = read;
  const act = json["hidden_act"] ?? "silu";
  if (act !== "silu" && act !== "swish")
    throw new UsageError(`${path}: hidden_act ${String(act)} is not supported, only silu.`);
  const quantization = json["quantization_config"];
  if (typeof quantization === "object" && quantization !== null) {
    const method = String((quantization as Json)["quant_method"] ?? "unknown");
    throw new UsageError(
      `${path}: weights quantised with ${method} are not supported; use a float32, bfloat16 or float16 checkpoint.`,
    );
  }
  const partial = json["partial_rotary_factor"] ?? 1;
  if (partial !== 1)
    throw new UsageError(`${path}: partial_rotary_factor ${String(partial)} is not supported, only 1.`);
}

/** Old configs have rope_theta and rope_scaling, new ones rope_parameters; inside, rope_type or type. */
function ropeOf(read: Reader): RopeConfig {
  const parameters = read.object("rope_parameters") ?? {};
  const scaling = read.object("rope_scaling") ?? {};
  const rope = new Reader({ ...scaling, ...parameters }, `${read.path}: rope scaling`);
  const theta = rope.number("rope_theta", read.number("rope_theta", 10000));
  const partial = rope.json["partial_rotary_factor"] ?? 1;
  if (partial !== 1)
    throw new UsageError(`${read.path}: partial_rotary_factor ${String(partial)} is not supported, only 1.`);
  const type = String(rope.json["rope_type"] ?? rope.json["type"] ?? "default");
  const original = () =>
    rope.count("original_max_position_embeddings", read.count("max_position_embeddings", 2048));
  switch (type) {
    case "default":
      return { theta, scaling: { type } };
    case "linear":
    case "dynamic":
      return { theta, scaling: { type, factor: rope.number("factor") } };
    case "llama3":
      return {
        theta,
        scaling: {
          type,
          factor: rope.number("factor"),
          lowFreqFactor: rope.number("low_freq_factor"),
          highFreqFactor: rope.number("high_freq_factor"),
          originalMaxPositions: rope.count("original_max_position_embeddings"),
        },
      };
    case "yarn":
      return {
        theta,
        scaling: {
          type,
          factor: rope.number("factor"),
          attentionFactor: rope.optionalNumber("attention_factor"),
          mscale: rope.optionalNumber("mscale"),
          mscaleAllDim: rope.optionalNumber("mscale_all_dim"),
          betaFast: rope.number("beta_fast", 32),
          betaSlow: rope.number("beta_slow", 1),
          truncate: rope.flag("truncate", true),
          originalMaxPositions: original(),
        },
      };
    default:
      throw new UsageError(
        `${read.path}: rope scaling ${type} is not supported; supported are default, linear, dynamic, llama3, yarn.`,
      );
  }
}

/** Mistral slides in every layer; Qwen in those that layer_types names, or from max_window_layers on. */
function windowsOf(read: Reader, family: LlamaConfig["family"], layerCount: number): number[] {
  const window = read.optionalNumber("sliding_window") ?? 0;
  const types = read.json["layer_types"];
  if (Array.isArray(types)) {
    const unknown = types.find((type) => type !== "sliding_attention" && type !== "full_attention");
    if (unknown !== undefined)
      throw new UsageError(`${read.path}: layer type ${String(unknown)} is not supported.`);
    if (types.length !== layerCount)
      throw new UsageError(`${read.path}: layer_types has ${types.length} entries for ${layerCount} layers.`);
    return types.map((type) => (type === "sliding_attention" ? window : 0));
  }
  if (family === "mistral") return Array<number>(layerCount).fill(window);
  if (family === "llama" || !read.flag("use_sliding_window", false)) return Array<number>(layerCount).fill(0);
  const from = read.number("max_window_layers", 28);
  return Array.from({ length: layerCount }, (_, layer) => (layer >= from ? window : 0));
}

/** Reads fields of one JSON object; every complaint names the file, the field and the value. */
class Reader {
  constructor(
    readonly json: Json,
    readonly path: string,
  ) {}

  number(name: string, otherwise?: number): number {
    const value = this.json[name] ?? otherwise;
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw new UsageError(
        `${this.path}: ${name} is ${value === undefined ? "missing" : JSON.stringify(value)}, expected a number.`,
      );
    }
    return value;
  }

  optionalNumber(name: string): number | null {
    return this.json[name] === undefined || this.json[name] === null ? null : this.number(name);
  }

  count(name: string, otherwise?: number): number {
    const value = this.number(name, otherwise);
    if (!Number.isInteger(value) || value < 1 || value > 2 ** 31 - 1) {
      throw new UsageError(`${this.path}: ${name} is ${value}, expected a positive integer.`);
    }
    return value;
  }

  flag(name: string, otherwise: boolean): boolean {
    const value = this.json[name] ?? otherwise;
    if (typeof value !== "boolean")
      throw new UsageError(`${this.path}: ${name} is ${JSON.stringify(value)}, expected true or false.`);
    return value;
  }

  object(name: string): Json | null {
    const value = this.json[name];
    if (value === undefined || value === null) return null;
    if (typeof value !== "object" || Array.isArray(value))
      throw new UsageError(`${this.path}: ${name} is not an object.`);
    return value as Json;
  }

  optionalId(name: string): number | null {
    return this.ids(name)[0] ?? null;
  }

  ids(name: string): number[] {
    const value = this.json[name];
    if (value === undefined || value === null) return [];
    const list: unknown[] = Array.isArray(value) ? value : [value];
    if (!list.every((id) => Number.isInteger(id) && (id as number) >= 0)) {
      throw new UsageError(`${this.path}: ${name} is ${JSON.stringify(value)}, expected token ids.`);
    }
    return list as number[];
  }
}
