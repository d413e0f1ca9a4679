/** A trained model as a Hugging Face directory: weights by streaming, the base's config, tokenizer and template beside them, and
 *  koala.json, which says what it is and with which tokenizer and template it was trained.
 *  Always: every file is complete under its name, koala.json last: a directory without it is not finished. */
import { copyFile, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { DatasetInfo } from "../data/shard.ts";
import { copyCompanions } from "../model/convert_checkpoint.ts";
import { type TensorToWrite, tensorBytes, writeSafetensors } from "../model/safetensors.ts";
import { version } from "../util/version.ts";
import { saveAdapter, withMerged } from "./adapter_file.ts";
import { exportTensors } from "./parameters.ts";
import type { Recipe } from "./recipe.ts";
import { loraOf } from "./run_options.ts";
import type { Trainer } from "./trainer.ts";

export const recordFile = "koala.json";
const shardBytesMax = 5 * 2 ** 30;

/** What koala.json holds. */
export interface ModelRecord {
  koala: string;
  base: string;
  method: string;
  /** The template that the data went through, where it was not the base's own: koala, chatml, or a file copied beside. */
  chatTemplate: string | null;
  /** How the data went through Koala's format: its markers ("positive", "negative" or other words) and BOS. Serving reads it. */
  koalaFormat: { [setting in "marker" | "negativeMarker" | "bos"]?: unknown } | null;
  /** SHA-256 of what decides ids: the server compares them with what it loads. */
  tokenizer: string | null;
  template: string | null;
  dataset: string;
  steps: number;
  trainedTokens: number;
  recipe: Recipe;
}

/** Writes the model to `target`; for LoRA also the adapter, to `target`/adapter, and the weights with it merged. Nothing in
 *  memory changes: a run may go on. */
export async function exportModel(
  trainer: Trainer,
  source: { directory: string; dataset: DatasetInfo; recipe: Recipe },
  target: string,
): Promise<void> {
  const { recipe, directory, dataset } = source;
  const { memory, ops, config } = trainer;
  const lora = loraOf(recipe);
  await mkdir(target, { recursive: true });
  await rm(join(target, recordFile), { force: true });
  const dtype = recipe.export_dtype === "float32" ? "F32" : "BF16";
  const write = (tensors: TensorToWrite[]) => writeShards(target, tensors);
  const { base, adapters } = memory;
  if (lora && adapters) {
    await saveAdapter(ops.device, adapters, lora, join(target, "adapter"), recipe.model.path);
    await withMerged(ops, { config, base, adapters, lora }, dtype, write);
  } else await write(exportTensors(ops.device, base, dtype, trainer.lowHalves));
  await copyCompanions(directory, target);
  await writeConfig(directory, target, recipe.export_dtype);
  if (recipe.data.template?.endsWith(".jinja"))
    await copyFile(recipe.data.template, join(target, "chat_template.jinja"));
  const record: ModelRecord = {
    koala: version,
    base: recipe.model.path,
    method: lora ? `${recipe.method.type} with LoRA` : recipe.method.type,
    chatTemplate: recipe.data.template ?? null,
    koalaFormat: koalaFormat(dataset),
    tokenizer: (dataset.inputs.tokenizer as string | undefined) ?? null,
    template: (dataset.inputs.template as string | undefined) ?? null,
    dataset: dataset.hash,
    steps: trainer.step,
    trainedTokens: trainer.trainedTokens,
    recipe,
  };
  await Bun.write(join(target, recordFile), `${JSON.stringify(record, null, 2)}\n`);
}

function koalaFormat({ inputs }: DatasetInfo): ModelRecord["koalaFormat"] {
  const options = inputs.options as ModelRecord["koalaFormat"] | undefined;
  if (!options) return null;
  const { marker, negativeMarker, bos } = options;
  return { marker, negativeMarker, bos };
}

/** The base's config.json with the element type of the new weights. */
async function writeConfig(source: string, target: string, dtype: string): Promise<void> {
  const config = (await Bun.file(join(source, "config.json")).json()) as Record<string, unknown>;
  config["dtype" in config ? "dtype" : "torch_dtype"] = dtype;
  await Bun.write(join(target, "config.json"), JSON.stringify(config, null, 2));
}

async function writeShards(target: string, tensors: TensorToWrite[]): Promise<void> {
  const shards: TensorToWrite[][] = [[]];
  let room = shardBytesMax;
  let total = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor.dtype, tensor.shape) ?? 0;
    total += bytes;
    if (bytes > room && (shards.at(-1)?.length ?? 0) > 0) {
      shards.push([]);
      room = shardBytesMax;
    }
    shards.at(-1)?.push(tensor);
    room -= bytes;
  }
  const name = (i: number) => {
    const part = (n: number) => String(n).padStart(5, "0");
    return shards.length === 1
      ? "model.safetensors"
      : `model-${part(i + 1)}-of-${part(shards.length)}.safetensors`;
  };
  for (const [i, shard] of shards.entries())
    await writeSafetensors(join(target, name(i)), shard, { format: "pt" });
  if (shards.length === 1) return;
  const weight_map = Object.fromEntries(
    shards.flatMap((shard, i) => shard.map((tensor) => [tensor.name, name(i)])),
  );
  const index = { metadata: { total_size: total }, weight_map };
  await Bun.write(join(target, "model.safetensors.index.json"), JSON.stringify(index, null, 2));
}
