/** Flags that every verb with a model shares, and how a model's name becomes a folder. */
import { stat } from "node:fs/promises";
import { type Command, InvalidArgumentError } from "commander";
import { defaultRunnerOptions, type RunnerOptions } from "../engine/load_runner.ts";
import { fetchModel } from "../model/hub.ts";
import { ranksMax } from "../model/shard.ts";
import { isDeviceName } from "../tensor/open_device.ts";
import { UsageError } from "../util/errors.ts";
import { Progress } from "../util/progress.ts";

export interface ModelFlags {
  dtype: RunnerOptions["dtype"];
  kvCacheDtype: RunnerOptions["kvCacheDtype"];
  device: string;
  threads: number;
  tensorParallel?: number;
  maxModelLen?: number;
  maxSequences: number;
  maxStepTokens: number;
  cacheMemory?: number;
  maxLoras?: number;
  graphs: boolean;
}

/** Adds the flags of a model in an engine: --dtype, --kv-cache-dtype, --device, --threads, --max-model-len ... --no-graphs. */
export function addModelFlags(command: Command): Command {
  const d = defaultRunnerOptions;
  return command
    .option(
      "--dtype <type>",
      "compute in float32 or bfloat16, or with weights of int8 or int4; auto follows the checkpoint",
      oneOf("auto", "float32", "bfloat16", "int8", "int4", "float64"),
      d.dtype,
    )
    .option(
      "--kv-cache-dtype <type>",
      "keep keys and values in float32, bfloat16 or fp8 (half of bfloat16's memory); auto follows the weights",
      oneOf("auto", "float32", "bfloat16", "fp8"),
      d.kvCacheDtype,
    )
    .option("--device <device>", "where to run: cpu, cuda or, of several GPUs, cuda:1", "cpu")
    .option("--threads <n>", "compute threads; 0 uses every core", integer(0, 256), d.threads)
    .option(
      "--tensor-parallel <n>",
      "processes that hold the model together: with --device cuda a GPU each, on the CPU a share of the cores",
      integer(1, ranksMax),
      d.tensorParallel,
    )
    .option(
      "--max-model-len <n>",
      "longest sequence, prompt and answer together (default: the model's)",
      integer(1, 2 ** 24),
    )
    .option("--max-sequences <n>", "sequences that run at the same time", integer(1, 1024), d.maxSequences)
    .option(
      "--max-step-tokens <n>",
      "tokens of one step: decoding and a chunk of prefill",
      integer(1, 65536),
      d.maxStepTokens,
    )
    .option(
      "--cache-memory <gib>",
      "memory for the KV cache in GiB (default: of what is free a quarter, of a GPU's nine tenths)",
      number(0.001, 65536),
    )
    .option(
      "--no-graphs",
      "call a GPU's ops one by one also where a step only decodes; slower, for finding faults",
    );
}

export function runnerOptions(directory: string, flags: ModelFlags): RunnerOptions {
  if (!isDeviceName(flags.device)) {
    throw new UsageError(
      `--device ${flags.device} is not known; there are cpu, cuda and, of several GPUs, cuda:1. Run koala doctor to see what this machine can do.`,
    );
  }
  return {
    directory,
    dtype: flags.dtype,
    kvCacheDtype: flags.kvCacheDtype,
    device: flags.device,
    threads: flags.threads,
    tensorParallel: flags.tensorParallel ?? defaultRunnerOptions.tensorParallel,
    maxModelLen: flags.maxModelLen ?? null,
    maxSequences: flags.maxSequences,
    maxStepTokens: flags.maxStepTokens,
    cacheBytes: flags.cacheMemory === undefined ? null : flags.cacheMemory * 2 ** 30,
    maxAdapters: flags.maxLoras ?? defaultRunnerOptions.maxAdapters,
    graphs: flags.graphs,
  };
}

/** A folder stays; org/model is fetched from the hub into the cache, with a progress bar. */
export async function resolveModel(name: string): Promise<string> {
  const found = await stat(name).catch(() => null);
  if (found?.isDirectory()) return name;
  if (found)
    throw new UsageError(
      `${name} is a file; a model is a folder with config.json, weights and tokenizer.json.`,
    );
  if (!/^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/.test(name) || name.startsWith(".")) {
    throw new UsageError(`There is no folder ${name}, and it is not a hub name such as org/model.`);
  }
  const progress = new Progress("bytes");
  return fetchModel(name, {
    onProgress: ({ bytesDone, bytesTotal }) => progress.update(`fetching ${name}`, bytesDone, bytesTotal),
  });
}

/** A parser of whole numbers for commander that names the limits. */
export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

export function number(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= min && value <= max))
      throw new InvalidArgumentError(`It must be a number from ${min} to ${max}.`);
    return value;
  };
}

/** Bytes: 500MB is 500 * 10^6, 2TiB is 2 * 2^40. */
export function size(text: string): number {
  const match = /^(\d+(?:\.\d+)?) ?(?:([KMGT])(i?)B?|B)?$/i.exec(text.trim());
  const [, digits, unit = "", binary = ""] = match ?? [];
  const power = unit === "" ? 0 : "KMGT".indexOf(unit.toUpperCase()) + 1;
  const bytes = Math.floor(Number(digits) * (binary === "" ? 1000 : 1024) ** power);
  if (bytes > 0 && bytes <= Number.MAX_SAFE_INTEGER) return bytes;
  throw new InvalidArgumentError("It must be a number of bytes above 0, as 500MB, 20GB or 2TiB.");
}

/** A parser for commander of one of some words. */
const oneOf =
  <Word extends string>(...words: Word[]) =>
  (text: string): Word => {
    const found = words.find((word) => word === text);
    if (found !== undefined) return found;
    throw new InvalidArgumentError(`It must be ${words.slice(0, -1).join(", ")} or ${words.at(-1)}.`);
  };
