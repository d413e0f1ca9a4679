/** From a model directory to a runner: reads config and weights, plans memory, and says in one sentence why something does not fit. */
import { totalmem } from "node:os";
import { type Checkpoint, openCheckpoint } from "../model/checkpoint.ts";
import { type LlamaConfig, readConfig } from "../model/config.ts";
import { Llama } from "../model/llama.ts";
import { adapterStamp } from "../model/lora_weights.ts";
import { shardCheckpoint, shardConfig } from "../model/shard.ts";
import { ShardedLlama, type ShardedLimits } from "../model/sharded_llama.ts";
import { type ComputeType, countModel, loadWeights } from "../model/weights.ts";
import type { Device } from "../tensor/device.ts";
import { openDevice } from "../tensor/open_device.ts";
import type { CacheType } from "../tensor/tensor.ts";
import { UsageError } from "../util/errors.ts";
import { AdapterTable } from "./adapter_table.ts";
import { cacheTypeOf, LlamaRunner, logitBytes, pageBytes } from "./llama_runner.ts";
import type { EngineInfo } from "./messages.ts";
import { LeadingRunner, type RankGroup } from "./tensor_parallel.ts";

export interface RunnerOptions {
  directory: string;
  /** auto: float32 stays, bfloat16 and float16 become bfloat16. int8, int4: the matrices are quantised as they are loaded,
   *  and computed with as bfloat16 weights are. */
  dtype: "auto" | "float32" | "bfloat16" | "float64" | "int8" | "int4";
  /** Of cached keys and values; auto: the weights' type, bfloat16 beside quantised ones. */
  kvCacheDtype: "auto" | "float32" | "bfloat16" | "fp8";
  /** cpu, cuda, cuda:1 ... */
  device: string;
  /** 0: every core this process may run on. */
  threads: number;
  /** Ranks that hold the model together. */
  tensorParallel: number;
  /** null: what the model was made for, or what the cache holds. */
  maxModelLen: number | null;
  maxSequences: number;
  /** Tokens of one step: decoding rows and a chunk of prefill together. */
  maxStepTokens: number;
  /** null: of the memory that is free once the weights are loaded, a quarter; of a GPU's, nine tenths. */
  cacheBytes: number | null;
  /** LoRA adapters that may be in memory together. */
  maxAdapters: number;
  /** GPUs run steps that only decode from CUDA graphs. */
  graphs: boolean;
}

export const defaultRunnerOptions: Omit<RunnerOptions, "directory"> = {
  dtype: "auto",
  kvCacheDtype: "auto",
  device: "cpu",
  threads: 0,
  tensorParallel: 1,
  maxModelLen: null,
  maxSequences: 64,
  maxStepTokens: 512,
  cacheBytes: null,
  maxAdapters: 16,
  graphs: true,
};

export type LoadProgress = (stage: string, done: number, total: number) => void;

const pageSize = 32;
const GiB = 2 ** 30;

export async function loadRunner(
  options: RunnerOptions,
  onProgress: LoadProgress = () => {},
  group: RankGroup | null = null,
): Promise<{ runner: LlamaRunner; info: EngineInfo }> {
  const start = performance.now();
  const config = await readConfig(options.directory);
  const positions = positionsOf(options, config);
  const checkpoint = await openCheckpoint(options.directory);
  const device = group?.device ?? openDevice(options.device, { threads: options.threads });
  const types = typesOf(options, checkpoint, device);
  const sizes = {
    maxTokens: options.maxStepTokens,
    maxRows: Math.min(options.maxSequences, options.maxStepTokens),
    positions,
  };
  const model = loadModel(
    { checkpoint, config, device, compute: types.compute, sizes, group },
    (done, total) => onProgress("loading weights", done, total),
  );
  await group?.loaded();
  const cache = planCache(model, options, types.cache, positions, group);
  // A graph holds ops of one device; what ranks do together is asked for by their hosts.
  const graphs = options.graphs && group === null;
  const limits = { ...sizes, pageSize, cacheType: types.cache, ...cache, graphs };
  const runner =
    group !== null && model instanceof ShardedLlama && group.rank === 0
      ? new LeadingRunner(model, limits, group)
      : new LlamaRunner(model, limits);
  const info: EngineInfo = {
    vocabularySize: config.vocabularySize,
    maxModelLen: cache.maxModelLen,
    maxSequences: options.maxSequences,
    dtype: { f32: "float32", bf16: "bfloat16", f64: "float64", q8: "int8", q4: "int4" }[types.compute],
    device: device.description,
    cacheDtype: cacheNames[types.cache],
    parameterCount: model.weights.parameterCount,
    weightBytes: model.weights.bytes,
    cacheBytes: runner.cacheBytes,
    loadMs: performance.now() - start,
    hiddenSize: config.hiddenSize,
  };
  return { runner, info: group === null ? info : ofAllRanks(group, info) };
}

interface ModelParts {
  checkpoint: Checkpoint;
  /** Of the whole model. */
  config: LlamaConfig;
  device: Device;
  compute: ComputeType;
  sizes: ShardedLimits;
  group: RankGroup | null;
}

/** The whole model, or one rank's share of it. */
function loadModel(
  { checkpoint, config, device, compute, sizes, group }: ModelParts,
  onWeights: (done: number, total: number) => void,
): Llama {
  if (group === null)
    return new Llama(device, config, loadWeights(device, checkpoint, config, compute, onWeights), sizes);
  const own = shardCheckpoint(checkpoint, config, group);
  const shard = shardConfig(config, group);
  const weights = loadWeights(device, own.checkpoint, shard, compute, onWeights, own.parameters);
  const parameterCount = countModel(config);
  return new ShardedLlama(device, config, { ...weights, parameterCount }, sizes, group.sums);
}

/** What is one rank's in `info` becomes that of all together. */
function ofAllRanks({ steps, world }: RankGroup, info: EngineInfo): EngineInfo {
  const total = (bytes: number) =>
    steps.exchange(Float64Array.of(bytes), { of: "bytes" }).reduce((sum, own) => sum + own, 0);
  const [weightBytes, cacheBytes] = [total(info.weightBytes), total(info.cacheBytes)];
  return { ...info, device: `${world} ranks of ${info.device}`, weightBytes, cacheBytes };
}

/** Loads adapters beside the runner's model when they are asked for. */
export const adapterTable = (runner: LlamaRunner, { maxAdapters }: RunnerOptions): AdapterTable =>
  new AdapterTable({
    max: maxAdapters,
    load: (directory) => runner.loadAdapter(directory),
    stamp: adapterStamp,
  });

function computeType(dtype: RunnerOptions["dtype"], stored: Set<string>): ComputeType {
  switch (dtype) {
    case "float32":
      return "f32";
    case "bfloat16":
      return "bf16";
    case "float64":
      return "f64";
    case "int8":
      return "q8";
    case "int4":
      return "q4";
    case "auto":
      return stored.has("BF16") || stored.has("F16") ? "bf16" : "f32";
    default:
      return dtype satisfies never;
  }
}

/** Of matrices, and of cached keys and values. Throws UsageError where they do not go together, before anything is loaded. */
function typesOf(
  { dtype, kvCacheDtype }: RunnerOptions,
  checkpoint: Checkpoint,
  device: Device,
): { compute: ComputeType; cache: keyof typeof cacheNames } {
  const stored = new Set([...checkpoint.tensors.values()].map((tensor) => tensor.dtype));
  const compute = computeType(dtype, stored);
  if (compute === "f64" && !device.readsHostMemory)
    throw new UsageError("--dtype float64 runs on the CPU only; choose float32 or bfloat16 for a GPU.");
  if (kvCacheDtype === "auto") return { compute, cache: cacheTypeOf(compute) };
  if (compute === "f64")
    throw new UsageError(
      `--kv-cache-dtype ${kvCacheDtype} does not go with --dtype float64, whose keys and values stay float64; leave it at auto.`,
    );
  return { compute, cache: ({ float32: "f32", bfloat16: "bf16", fp8: "f8" } as const)[kvCacheDtype] };
}

const cacheNames = { f32: "float32", bf16: "bfloat16", f64: "float64", f8: "fp8" } as const;

/** The longest sequence that is wanted. */
function positionsOf({ maxModelLen, directory }: RunnerOptions, config: LlamaConfig): number {
  const longest = longestSequence(config);
  if (maxModelLen !== null && maxModelLen > longest)
    throw new UsageError(
      `--max-model-len ${maxModelLen} is more than the ${longest} positions of ${directory}.`,
    );
  return maxModelLen ?? longest;
}

/** Positions that the rope scaling was made for, as vLLM derives them. */
export function longestSequence(config: LlamaConfig): number {
  const { scaling } = config.rope;
  switch (scaling.type) {
    case "linear":
    case "dynamic":
      return Math.floor(config.maxPositions * scaling.factor);
    case "yarn":
      return Math.max(config.maxPositions, Math.floor(scaling.originalMaxPositions * scaling.factor));
    default:
      return config.maxPositions;
  }
}

/** Pages for every sequence at full length, or as many as the budget holds: that of the rank that holds fewest. */
function planCache(
  model: Llama,
  options: RunnerOptions,
  cacheType: CacheType,
  wanted: number,
  group: RankGroup | null,
): { pageCount: number; maxModelLen: number } {
  const bytes = pageBytes(model, pageSize, cacheType);
  const all = Math.ceil(wanted / pageSize) * options.maxSequences;
  const logits = logitBytes(model, options.maxSequences);
  const { freeBytes } = model.device;
  // A GPU's memory serves nothing else; a tenth is left for scratch.
  const share = freeBytes === null ? (availableMemory() - logits) / 4 : (freeBytes - logits) * 0.9;
  // What the user gave is for all ranks, and those on the CPU or on a GPU that was named share its memory.
  const ranks = group?.world ?? 1;
  const given = options.cacheBytes === null ? null : options.cacheBytes / ranks;
  const budget = given ?? Math.max(options.device === "cuda" ? share : share / ranks, 0);
  const own = Math.min(all, Math.floor(budget / bytes));
  const pageCount =
    group === null ? own : Math.min(...group.steps.exchange(Float64Array.of(own), { of: "pages" }));
  const holds = pageCount * pageSize;
  if (holds >= wanted) return { pageCount, maxModelLen: wanted };
  if (options.maxModelLen === null && holds >= Math.min(wanted, 1024))
    return { pageCount, maxModelLen: holds };
  const needed = ((Math.ceil(wanted / pageSize) * bytes) / GiB).toFixed(2);
  throw new UsageError(
    `A KV cache of ${(budget / GiB).toFixed(2)} GiB${group === null ? "" : " a rank"} holds ${holds} tokens, fewer than one sequence of ${wanted}, which takes ${needed} GiB. Lower --max-model-len or raise --cache-memory.`,
  );
}

/** Bytes that this machine (or container) can still give. */
function availableMemory(): number {
  const limit = process.constrainedMemory?.() ?? 0;
  const free = process.availableMemory?.() ?? totalmem() / 2;
  return limit > 0 && limit < totalmem() ? Math.min(free, limit - process.memoryUsage.rss()) : free;
}
