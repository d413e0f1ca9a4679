/** Weights of other programs as a directory in Hugging Face layout, tensor by tensor: Meta's consolidated files, EasyLM's
 *  streams, and PyTorch's .bin files. Nothing that a file holds is ever run.
 *  Always: the target is complete or has no weights under their name. */
import { mkdir, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import type { CheckpointTensor } from "../model/checkpoint.ts";
import { parseConfig, readConfig } from "../model/config.ts";
import { copyCompanions } from "../model/convert_checkpoint.ts";
import { type TensorToWrite, writeSafetensors } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";
import { FileReader } from "./diff_file.ts";
import { easylmTensors } from "./easylm_file.ts";
import { easylmRules, type ImportedTensor, importTensors, metaRules } from "./layouts.ts";
import { torchTensors } from "./torch_file.ts";

export const importKinds = ["meta", "easylm", "torch"] as const;
export type ImportKind = (typeof importKinds)[number];

export interface ImportOptions {
  kind: ImportKind;
  /** meta: folder with consolidated.*.pth and params.json; easylm: the streamed file; torch: folder with .bin files. */
  source: string;
  out: string;
  /** Folder whose config and tokenizer fit the weights; meta can do without, torch has its own beside. */
  like?: string;
  onProgress?: (done: number, total: number) => void;
}

/** Returns the bytes of the weights. */
export async function importModel(options: ImportOptions): Promise<number> {
  const { config, tensors } = await openSource(options);
  await mkdir(options.out, { recursive: true });
  if ((await readdir(options.out)).length > 0)
    throw new UsageError(`${options.out} is not empty; name a new folder.`);
  const bytesOf = (tensor: ImportedTensor): number =>
    tensor.shape.reduce((product, size) => product * size, 1) * (tensor.dtype === "F32" ? 4 : 2);
  const total = tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0);
  let done = 0;
  const toWrite = tensors.map((tensor): TensorToWrite => ({
    name: tensor.name,
    dtype: tensor.dtype,
    shape: tensor.shape,
    data: async function* () {
      yield await tensor.data();
      options.onProgress?.((done += bytesOf(tensor)), total);
    },
  }));
  const companions = options.like ?? (options.kind === "torch" ? options.source : null);
  if (companions) await copyCompanions(companions, options.out);
  await Bun.write(join(options.out, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  return writeSafetensors(join(options.out, "model.safetensors"), toWrite, { format: "pt" });
}

interface Source {
  config: Record<string, unknown>;
  tensors: ImportedTensor[];
}

async function openSource(options: ImportOptions): Promise<Source> {
  if (options.kind === "meta") return openMeta(options);
  if (options.kind === "easylm") return openEasylm(options);
  return openTorch(options);
}

async function openMeta({ source, like }: ImportOptions): Promise<Source> {
  const files = (await names(source)).filter((name) => /^consolidated\.\d+\.pth$/.test(name)).sort();
  if (files.length === 0)
    throw new UsageError(
      `${source} holds no consolidated.00.pth; name the folder that Meta's download made.`,
    );
  const parts = await Promise.all(files.map((name) => torchTensors(join(source, name))));
  const config = like ? await configObject(like) : await metaConfig(source, parts);
  const { headCount: heads, keyValueHeadCount: keyValueHeads } = parseConfig(
    config,
    join(source, "params.json"),
  );
  return { config, tensors: importTensors(parts, metaRules, { heads, keyValueHeads }) };
}

/** From params.json and what the shapes tell. Meta writes no context length: LLaMA 1 has 2048, and later ones need --like. */
async function metaConfig(
  source: string,
  parts: readonly Map<string, CheckpointTensor>[],
): Promise<Record<string, unknown>> {
  const file = Bun.file(join(source, "params.json"));
  if (!(await file.exists()))
    throw new UsageError(
      `${source} has no params.json; put Meta's beside the weights, or name a folder with a config as --like.`,
    );
  const params = (await file.json()) as { [name: string]: number | undefined };
  const rows = (name: string): number => (parts[0]!.get(name)?.shape[0] ?? 0) * parts.length;
  const { dim, n_heads: heads, n_layers: layers } = params;
  if (!dim || !heads || !layers)
    throw new UsageError(`${source}/params.json lacks dim, n_heads or n_layers.`);
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: dim,
    num_attention_heads: heads,
    num_key_value_heads: params.n_kv_heads ?? heads,
    num_hidden_layers: layers,
    intermediate_size: rows("layers.0.feed_forward.w1.weight"),
    vocab_size: rows("output.weight"),
    rms_norm_eps: params.norm_eps ?? 1e-5,
    rope_theta: params.rope_theta ?? 10000,
    max_position_embeddings: 2048,
    hidden_act: "silu",
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
  };
}

async function openEasylm({ source, like }: ImportOptions): Promise<Source> {
  if (!like)
    throw new UsageError(
      "An EasyLM checkpoint says neither heads nor tokenizer; name a folder with config.json and tokenizer as --like.",
    );
  const { headCount: heads, keyValueHeadCount: keyValueHeads } = await readConfig(like);
  const tensors = importTensors([await easylmTensors(source)], easylmRules, { heads, keyValueHeads });
  return { config: await configObject(like), tensors };
}

async function openTorch({ source, like }: ImportOptions): Promise<Source> {
  const tensors = [...(await torchFolderTensors(source))].map(([name, tensor]): ImportedTensor => ({
    name,
    dtype: tensor.dtype,
    shape: [...tensor.shape],
    data: () => bytesOf(tensor),
  }));
  return { config: await configObject(like ?? source), tensors };
}

/** The tensors of pytorch_model*.bin, those that are computed at load time left out. */
export async function torchFolderTensors(source: string): Promise<Map<string, CheckpointTensor>> {
  const files = (await names(source)).filter((name) => /^pytorch_model.*\.bin$/.test(name)).sort();
  if (files.length === 0) throw new UsageError(`${source} holds no pytorch_model.bin.`);
  const all = new Map<string, CheckpointTensor>();
  for (const name of files)
    for (const [key, tensor] of await torchTensors(join(source, name)))
      if (!key.endsWith("rotary_emb.inv_freq")) all.set(key, tensor);
  return all;
}

export async function bytesOf({ file, begin, end }: CheckpointTensor): Promise<Uint8Array> {
  const reader = new FileReader();
  try {
    return await reader.read(file, begin, end - begin);
  } finally {
    await reader.close();
  }
}

async function configObject(directory: string): Promise<Record<string, unknown>> {
  await readConfig(directory); // refuses what is no model of ours, with the reason
  return (await Bun.file(join(directory, "config.json")).json()) as Record<string, unknown>;
}

const names = (directory: string): Promise<string[]> =>
  readdir(directory).catch(() => {
    throw new UsageError(`${basename(directory)} is no folder that can be read.`);
  });
