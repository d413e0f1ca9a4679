/** LoRA adapters as PEFT keeps them: adapter_config.json and adapter_model.safetensors; and merging them into weights. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { LlamaConfig } from "../model/config.ts";
import { readSafetensorsHeader, type TensorToWrite, writeSafetensors } from "../model/safetensors.ts";
import { elementType } from "../model/weights.ts";
import type { Arena } from "../tensor/arena.ts";
import { type Device, MappedFile } from "../tensor/device.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { TrainOps } from "./ops.ts";
import { UsageError } from "../util/errors.ts";
import { adapterParts, linearNames, type LoraConfig, loraScale } from "./adapters.ts";
import { type FlatState, parameterView } from "./flat_state.ts";
import { allocatePackScratch, type LinearContext, packInto, VectorScratch } from "./linear.ts";
import { allocateAll } from "./memory.ts";
import { exportTensors, weightPieces, WeightWriter } from "./parameters.ts";

const configFile = "adapter_config.json";
const weightsFile = "adapter_model.safetensors";
/** PEFT wraps the model twice. */
const prefix = "base_model.model.";

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
  const path = join(directory, configFile);
  const file = Bun.file(path);
  if (!(await file.exists()))
    throw new UsageError(`${directory} holds no ${configFile}, so it is no PEFT adapter.`);
  const parsed = peftConfig.safeParse(await file.json().catch(() => null));
  if (!parsed.success)
    throw new UsageError(
      `${path} is not a LoRA configuration: ${parsed.error.issues[0]?.path.join(".")} ${parsed.error.issues[0]?.message}.`,
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

/** Fills the adapters' weights. Throws UsageError for a tensor that is missing, left over or misshapen. */
export async function loadAdapter(ops: TrainOps, state: FlatState, directory: string): Promise<void> {
  const path = join(directory, weightsFile);
  const { tensors } = await readSafetensorsHeader(path);
  const known = new Set([...state.layout.parameters.keys()].map((name) => prefix + name));
  const left = [...tensors.keys()].find((name) => !known.has(name));
  if (left !== undefined)
    throw new UsageError(`${path}: tensor ${left} has no place beside this model's layers.`);
  const file = MappedFile.open(ops.device, path);
  const writer = new WeightWriter(ops, state);
  for (const block of state.blocks) {
    for (const parameter of block.layout.parameters) {
      const entry = tensors.get(prefix + parameter.name);
      if (!entry) throw new UsageError(`${path}: tensor ${prefix}${parameter.name} is missing.`);
      if (entry.shape.join() !== parameter.shape.join())
        throw new UsageError(
          `${path}: tensor ${prefix}${parameter.name} has shape [${entry.shape}], the model needs [${parameter.shape}].`,
        );
      writer.write(
        block,
        parameter,
        new Tensor(file.data + entry.begin, parameter.shape, elementType({ file: path, ...entry })),
      );
    }
  }
  writer.close();
  file.close();
}

/** Writes an adapter that PEFT loads. `base`: the base model's name or folder. */
export async function saveAdapter(
  device: Device,
  state: FlatState,
  lora: LoraConfig,
  directory: string,
  base: string | null,
): Promise<void> {
  await mkdir(directory, { recursive: true });
  const tensors = exportTensors(device, state, "F32").map((tensor) => ({
    ...tensor,
    name: prefix + tensor.name,
  }));
  await writeSafetensors(join(directory, weightsFile), tensors, { format: "pt" });
  const config = {
    base_model_name_or_path: base,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: lora.alpha,
    lora_dropout: lora.dropout,
    peft_type: "LORA",
    r: lora.rank,
    target_modules: lora.targets,
    task_type: "CAUSAL_LM",
    use_dora: false,
    use_rslora: lora.rsLora,
  };
  await Bun.write(join(directory, configFile), JSON.stringify(config, null, 2));
}

/** The base's weights with s B A added to the adapted ones, made when their turn to be written comes: neither base nor adapters
 *  change. Runs `write` with them. */
export async function withMerged(
  ops: TrainOps,
  model: { config: LlamaConfig; base: FlatState; adapters: FlatState; lora: LoraConfig },
  dtype: "F32" | "BF16",
  write: (tensors: TensorToWrite[]) => Promise<void>,
): Promise<void> {
  const merger = new Merger(ops, model);
  try {
    await write(
      exportTensors(ops.device, model.base, dtype).map((tensor) =>
        merger.adapts(tensor.name)
          ? { ...tensor, data: () => weightPieces(ops.device, merger.merged(tensor.name), dtype) }
          : tensor,
      ),
    );
  } finally {
    merger.close();
  }
}

/** Merges one weight at a time into scratch of its own. */
class Merger {
  private readonly arena: Arena;
  private readonly delta: Tensor;
  private readonly weight: Tensor;
  private readonly context: LinearContext;

  constructor(
    private readonly ops: TrainOps,
    private readonly model: { config: LlamaConfig; base: FlatState; adapters: FlatState; lora: LoraConfig },
  ) {
    const { config, adapters, lora } = model;
    const parts = adapterParts(config, lora, 0);
    const largest = Math.max(...parts.map(({ width, K }) => width * K));
    const { activation } = adapters.types;
    const { arena, memory } = allocateAll(ops.device, "merging", (allocator) => ({
      delta: allocator.tensor([largest], activation),
      weight: allocator.tensor([largest], activation),
      packs: allocatePackScratch(
        allocator,
        parts.map(({ K }) => [lora.rank, K] as const),
        activation,
      ),
      vectors: new VectorScratch(allocator, 1, activation),
    }));
    this.arena = arena;
    this.delta = memory.delta;
    this.weight = memory.weight;
    this.context = { ops, compute: activation, packs: memory.packs, vectors: memory.vectors };
  }

  adapts(name: string): boolean {
    return this.model.adapters.layout.parameters.has(adapterName(name, "lora_A"));
  }

  /** Valid until the next call. */
  merged(name: string): Tensor {
    const { ops, context } = this;
    const { base, adapters, lora } = this.model;
    const target = weightOf(base, name);
    const shape = target.shape;
    const delta = this.delta.rows(target.size).reshape(shape);
    const weight = this.weight.rows(target.size).reshape(shape);
    // y[i, k] = sum_r B[i, r] A[r, k]: a product with the transpose of A.
    const A = packInto(context, weightOf(adapters, adapterName(name, "lora_A")), "transposed");
    ops.forward.matmul(delta, weightOf(adapters, adapterName(name, "lora_B")), A);
    ops.cast(weight, target);
    ops.axpby(weight, delta, loraScale(lora), 1);
    return weight;
  }

  close(): void {
    this.arena.close();
  }
}

const adapterName = (name: string, matrix: "lora_A" | "lora_B"): string =>
  name.replace(/\.weight$/, `.${matrix}.weight`);

function weightOf(state: FlatState, name: string): Tensor {
  const parameter = state.layout.parameters.get(name);
  const block = parameter && state.blocks[parameter.block];
  if (!block) throw new Error(`no parameter ${name}`);
  return parameterView(block.w, parameter);
}
