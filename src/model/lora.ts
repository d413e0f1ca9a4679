/** LoRA adapters as PEFT keeps them (adapter_config.json and adapter_model.safetensors), and which layers of a model they sit on:
 *  y += s B A x beside a linear layer (Hu et al. 2021); s = alpha / r, or alpha / sqrt(r) for rsLoRA.
 *  Always: what changes an adapter's result and is not computed here is refused by name. */
import { join } from "node:path";
import { z } from "zod";
import type { DType } from "../tensor/tensor.ts";
import { UsageError } from "../util/errors.ts";
import type { LlamaConfig } from "./config.ts";
import { readSafetensorsHeader } from "./safetensors.ts";
import { elementType, parametersOf, type Part } from "./weights.ts";

export const adapterConfigFile = "adapter_config.json";
export const adapterWeightsFile = "adapter_model.safetensors";
/** PEFT wraps the model twice. */
export const peftPrefix = "base_model.model.";

export interface LoraConfig {
  rank: number;
  alpha: number;
  dropout: number;
  /** Names of linear layers, as q_proj. */
  targets: string[];
  rsLora: boolean;
}

/** One adapted layer: columns [column, column + width) of the fused output `key` of a block. */
export interface AdapterPart {
  /** "self_attn.q_proj" under "model.layers.N." */
  path: string;
  key: string;
  column: number;
  width: number;
  /** Of the fused output, and of the input. */
  N: number;
  K: number;
}

export const linearNames = [
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
] as const;

export const loraScale = (lora: LoraConfig): number =>
  lora.alpha / (lora.rsLora ? Math.sqrt(lora.rank) : lora.rank);

/** The adapted layers of block `layer`, in the model's order. Throws UsageError for a name that no layer has. */
export function adapterParts(config: LlamaConfig, lora: LoraConfig, layer: number): AdapterPart[] {
  const unknown = lora.targets.find((name) => !(linearNames as readonly string[]).includes(name));
  if (unknown !== undefined)
    throw new UsageError(
      `LoRA target ${unknown} is not a linear layer of a block; known are ${linearNames.join(", ")}.`,
    );
  return (parametersOf(config).layers[layer] ?? []).flatMap((parameter) => {
    if (!("matrix" in parameter)) return [];
    let column = 0;
    return parameter.matrix.flatMap((part): AdapterPart[] => {
      const width = part.shape[0] as number;
      const path = part.name.replace(/^model\.layers\.\d+\./, "").replace(/\.weight$/, "");
      const place = { path, key: parameter.key, column, width, N: parameter.N, K: parameter.K };
      column += width;
      return lora.targets.includes(path.split(".").at(-1) as string) ? [place] : [];
    });
  });
}

/** Name of an adapter's matrix beside the model's own: "model.layers.0.self_attn.q_proj.lora_A.weight". */
export const adapterTensorName = (layer: number, path: string, matrix: "lora_A" | "lora_B"): string =>
  `model.layers.${layer}.${path}.${matrix}.weight`;

const peftConfig = z.looseObject({
  peft_type: z.literal("LORA"),
  r: z.int().min(1),
  lora_alpha: z.number(),
  lora_dropout: z.number().default(0),
  use_rslora: z.boolean().default(false),
  target_modules: z.array(z.string()).min(1),
  bias: z.string().default("none"),
});

/** Fields of PEFT that change what an adapter computes, and that Koala does not have. */
const refused = [
  "use_dora",
  "lora_bias",
  "rank_pattern",
  "alpha_pattern",
  "modules_to_save",
  "fan_in_fan_out",
  "layers_to_transform",
  "trainable_token_indices",
];

/** Throws UsageError naming the file and what in it is not supported. */
export async function readAdapterConfig(directory: string): Promise<LoraConfig> {
  const path = join(directory, adapterConfigFile);
  const file = Bun.file(path);
  if (!(await file.exists()))
    throw new UsageError(`${directory} holds no ${adapterConfigFile}, so it is no PEFT adapter.`);
  const json: unknown = await file.json().catch((error: Error) => {
    throw new UsageError(`${path} is no JSON: ${error.message.replace(/\.$/, "")}.`);
  });
  const parsed = peftConfig.safeParse(json);
  if (!parsed.success)
    throw new UsageError(
      `${path} is not a LoRA configuration: ${parsed.error.issues[0]?.path.join(".") || "it"}: ${parsed.error.issues[0]?.message}.`,
    );
  const { data } = parsed;
  const unsupported = refused.find((key) => isSet(data[key])) ?? (data.bias === "none" ? undefined : "bias");
  if (unsupported !== undefined)
    throw new UsageError(
      `${path}: ${unsupported} is ${JSON.stringify(data[unsupported])}, which is not supported.`,
    );
  return {
    rank: data.r,
    alpha: data.lora_alpha,
    dropout: data.lora_dropout,
    // In the model's order, as they are written.
    targets: [
      ...linearNames.filter((name) => data.target_modules.includes(name)),
      ...data.target_modules.filter((name) => !(linearNames as readonly string[]).includes(name)),
    ],
    rsLora: data.use_rslora,
  };
}

const isSet = (value: unknown): boolean =>
  value !== undefined &&
  value !== null &&
  value !== false &&
  !(typeof value === "object" && Object.keys(value).length === 0);

/** Where the tensors of an adapter lie in its file, by their names beside the model. */
export interface AdapterTensors {
  path: string;
  entryOf(name: string): { begin: number; end: number; type: DType };
}

/** Throws UsageError for a tensor that is missing, left over or misshapen. */
export async function readAdapterTensors(
  directory: string,
  wanted: readonly Part[],
): Promise<AdapterTensors> {
  const path = join(directory, adapterWeightsFile);
  const { tensors } = await readSafetensorsHeader(path);
  const known = new Set(wanted.map(({ name }) => peftPrefix + name));
  const left = [...tensors.keys()].find((name) => !known.has(name));
  if (left !== undefined)
    throw new UsageError(`${path}: tensor ${left} has no place beside this model's layers.`);
  for (const { name, shape } of wanted) {
    const entry = tensors.get(peftPrefix + name);
    if (!entry) throw new UsageError(`${path}: tensor ${peftPrefix}${name} is missing.`);
    if (entry.shape.join() !== shape.join())
      throw new UsageError(
        `${path}: tensor ${peftPrefix}${name} has shape [${entry.shape}], the model needs [${shape}].`,
      );
    elementType({ file: path, ...entry });
  }
  return {
    path,
    entryOf: (name) => {
      const entry = tensors.get(peftPrefix + name);
      if (!entry) throw new Error(`no adapter tensor ${name}`);
      return { begin: entry.begin, end: entry.end, type: elementType({ file: path, ...entry }) };
    },
  };
}

/** An adapter that fits `config`: its settings, the adapted layers of each block, and where its tensors lie. */
export interface CheckedAdapter {
  lora: LoraConfig;
  layers: AdapterPart[][];
  tensors: AdapterTensors;
}

/** Reads headers only. Throws UsageError where the directory holds no adapter of this model. */
export async function checkAdapter(config: LlamaConfig, directory: string): Promise<CheckedAdapter> {
  const lora = await readAdapterConfig(directory);
  const layers = Array.from({ length: config.layerCount }, (_, layer) => adapterParts(config, lora, layer));
  const wanted = layers.flatMap((parts, layer) =>
    parts.flatMap(({ path, width, K }): Part[] => [
      { name: adapterTensorName(layer, path, "lora_A"), shape: [lora.rank, K] },
      { name: adapterTensorName(layer, path, "lora_B"), shape: [width, lora.rank] },
    ]),
  );
  return { lora, layers, tensors: await readAdapterTensors(directory, wanted) };
}
