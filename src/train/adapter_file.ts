/** LoRA adapters as PEFT keeps them: adapter_config.json and adapter_model.safetensors; and merging them into weights. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { LlamaConfig } from "../model/config.ts";
import {
  adapterConfigFile,
  adapterParts,
  adapterWeightsFile,
  type LoraConfig,
  loraScale,
  peftPrefix,
  readAdapterTensors,
} from "../model/lora.ts";
import { type TensorToWrite, writeSafetensors } from "../model/safetensors.ts";
import type { Arena } from "../tensor/arena.ts";
import { type Device, MappedFile } from "../tensor/device.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { TrainOps } from "./ops.ts";
import { type FlatState, parameterView } from "./flat_state.ts";
import { allocatePackScratch, type LinearContext, packInto, VectorScratch } from "./linear.ts";
import { allocateAll } from "./memory.ts";
import { exportTensors, weightPieces, WeightWriter } from "./parameters.ts";

/** Fills the adapters' weights. Throws UsageError for a tensor that is missing, left over or misshapen. */
export async function loadAdapter(ops: TrainOps, state: FlatState, directory: string): Promise<void> {
  const parameters = state.blocks.flatMap((block) =>
    block.layout.parameters.map((parameter) => ({ block, parameter })),
  );
  const { path, entryOf } = await readAdapterTensors(
    directory,
    parameters.map(({ parameter }) => ({ name: parameter.name, shape: [...parameter.shape] })),
  );
  const file = MappedFile.open(ops.device, path);
  const writer = new WeightWriter(ops, state);
  for (const { block, parameter } of parameters) {
    const { begin, type } = entryOf(parameter.name);
    writer.write(block, parameter, new Tensor(file.data + begin, parameter.shape, type));
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
    name: peftPrefix + tensor.name,
  }));
  await writeSafetensors(join(directory, adapterWeightsFile), tensors, { format: "pt" });
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
  await Bun.write(join(directory, adapterConfigFile), JSON.stringify(config, null, 2));
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
    const { gradient: exact } = adapters.types;
    const { arena, memory } = allocateAll(ops.device, "merging", (allocator) => ({
      delta: allocator.tensor([largest], exact),
      weight: allocator.tensor([largest], exact),
      packs: allocatePackScratch(
        allocator,
        parts.map(({ K }) => [lora.rank, K] as const),
        exact,
      ),
      vectors: new VectorScratch(allocator, 1, exact, exact),
    }));
    this.arena = arena;
    this.delta = memory.delta;
    this.weight = memory.weight;
    this.context = { ops, compute: exact, packs: memory.packs, vectors: memory.vectors };
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
    ops.forward.cast(weight, target);
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
