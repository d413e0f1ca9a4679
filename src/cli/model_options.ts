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
  device: string;
  threads: number;
  tensorParallel?: number;
  maxModelLen?: number;
  maxSequences: number;
  maxStepTokens: number;
  cacheMemory?: number;
  maxLoras?: number;
}

/** Adds --dtype, --device, --threads, --max-model-len, --max-sequences, --max-step-tokens, --cache-memory. */
export function addModelFlags(command: Command): Command {
  const d = defaultRunnerOptions;
  return command
    .option(
      "--dtype <type>",
      "compute in float32 or bfloat16; auto follows the checkpoint",
      dtypeFlag,
      d.dtype,
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
    device: flags.device,
    threads: flags.threads,
    tensorParallel: flags.tensorParallel ?? defaultRunnerOptions.tensorParallel,
    maxModelLen: flags.maxModelLen ?? null,
    maxSequences: flags.maxSequences,
    maxStepTokens: flags.maxStepTokens,
    cacheBytes: flags.cacheMemory === undefined ? null : flags.cacheMemory * 2 ** 30,
    maxAdapters: flags.maxLoras ?? defaultRunnerOptions.maxAdapters,
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

function dtypeFlag(text: string): RunnerOptions["dtype"] {
  if (text === "auto" || text === "float32" || text === "bfloat16" || text === "float64") return text;
  throw new InvalidArgumentError("It must be auto, float32, bfloat16 or float64.");
}
