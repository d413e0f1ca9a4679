/** `koala bench`: prefill and decode rates of a model on this machine, beside the machine's own measured peaks. */
import type { Command } from "commander";
import type { LlamaRunner } from "../engine/llama_runner.ts";
import type { RunnerOptions } from "../engine/load_runner.ts";
import { greedy, type StepRow } from "../engine/runner.ts";
import type { Device, DevicePeaks } from "../tensor/device.ts";
import { openDevice } from "../tensor/open_device.ts";
import { UsageError } from "../util/errors.ts";
import { Progress } from "../util/progress.ts";
import { addModelFlags, integer, type ModelFlags, resolveModel, runnerOptions } from "./model_options.ts";
import { openRunner } from "./tensor_parallel.ts";

interface BenchFlags extends ModelFlags {
  model: string;
  prompt: number;
  generate: number;
  batch: number[];
  repeat: number;
  json?: boolean;
}

/** One line of the table. */
export interface BenchRow {
  what: string;
  tokensPerSecond: number;
  /** Of the repeats: lowest and highest. */
  range: [number, number];
  gigabytesPerSecond: number;
  gigaflopsPerSecond: number;
}

export function register(program: Command): void {
  const command = program
    .command("bench")
    .description("measure prefill and decode rates of a model, beside this machine's measured peaks")
    .requiredOption("--model <name>", "folder or hub name of the model")
    .option("--prompt <n>", "tokens of the prefill test", integer(1, 65536), 512)
    .option("--generate <n>", "steps of each decode test", integer(1, 65536), 64)
    .option("--batch <list>", "sequences that decode together, comma-separated", batchSizes, [1, 8, 32])
    .option("--repeat <n>", "runs of each test; the median is reported", integer(1, 100), 3)
    .option("--json", "print one JSON object instead of a table");
  addModelFlags(command).action(run);
}

async function run(flags: BenchFlags): Promise<void> {
  const directory = await resolveModel(flags.model);
  const progress = new Progress("bytes");
  const rows = Math.max(...flags.batch, flags.maxSequences);
  const options = runnerOptions(directory, {
    ...flags,
    maxSequences: rows,
    maxStepTokens: Math.max(flags.maxStepTokens, rows),
  });
  const { runner, info } = await openRunner(options, (stage, done, total) =>
    progress.update(stage, done, total),
  );
  for (const name of ["prompt", "generate"] as const) {
    if (flags[name] > info.maxModelLen)
      throw new UsageError(
        `--${name} ${flags[name]} is more than the ${info.maxModelLen} positions of ${flags.model}.`,
      );
  }
  const peaks = peaksOf(runner.model.device, options);
  const times = { repeat: flags.repeat, weightBytes: info.weightBytes };
  const table = [
    measure(runner, `prefill ${flags.prompt}`, flags.prompt, times, () => prefill(runner, flags.prompt)),
    ...flags.batch.map((size) =>
      measure(
        runner,
        `decode x${size}`,
        size * flags.generate,
        times,
        () => decode(runner, size, flags.generate),
        flags.generate,
      ),
    ),
  ];
  if (flags.json) console.log(JSON.stringify({ model: flags.model, info, peaks, rows: table }));
  else
    printTable(
      `${flags.model}, ${info.dtype}, ${info.cacheDtype} KV cache, ${info.device}`,
      table,
      peaks,
      info.dtype,
    );
  runner.close();
}

/** Of all ranks together: on the CPU or on a GPU that was named they share one device; else each has a GPU, which is taken for as
 *  fast as the first. */
function peaksOf(
  device: Device,
  { tensorParallel: ranks, device: name, threads }: RunnerOptions,
): DevicePeaks {
  // A rank on the CPU has some of the cores.
  if (ranks > 1 && name === "cpu") return openDevice(name, { threads }).measure();
  if (name !== "cuda") return device.measure();
  const { bandwidth, float32, bfloat16 } = device.measure();
  return { bandwidth: bandwidth * ranks, float32: float32 * ranks, bfloat16: bfloat16 * ranks };
}

const batchSizes = (text: string): number[] => text.split(",").map(integer(1, 1024));

/** Times `body`, which processes `tokens` tokens in `steps` passes over the weights, those of all ranks together. */
function measure(
  runner: LlamaRunner,
  what: string,
  tokens: number,
  { repeat, weightBytes }: { repeat: number; weightBytes: number },
  body: () => void,
  steps = 1,
): BenchRow {
  body();
  const seconds = Array.from({ length: repeat }, () => {
    const start = performance.now();
    body();
    return (performance.now() - start) / 1000;
  }).sort((a, b) => a - b);
  const median = seconds[Math.floor(repeat / 2)] as number;
  const { weights } = runner.model;
  const active = weights.parameterCount - (runner.model.config.tieEmbeddings ? 0 : weights.embedding.size);
  return {
    what,
    tokensPerSecond: tokens / median,
    range: [tokens / (seconds.at(-1) as number), tokens / (seconds[0] as number)],
    gigabytesPerSecond: (weightBytes * steps) / median / 1e9,
    gigaflopsPerSecond: (2 * active * tokens) / median / 1e9,
  };
}

function prefill(runner: LlamaRunner, length: number): void {
  for (let past = 0; past < length; past += runner.maxTokens) {
    const count = Math.min(runner.maxTokens, length - past);
    const last = past + count === length;
    runner.step([
      {
        tokens: someTokens(runner, past, count),
        past,
        pages: pagesOf(runner, 0, length),
        sample: last ? greedy : null,
        score: null,
        embed: false,
      },
    ]);
  }
}

function decode(runner: LlamaRunner, size: number, steps: number): void {
  for (let step = 0; step < steps; step++) {
    const rows = Array.from({ length: size }, (_, s): StepRow => ({
      tokens: someTokens(runner, s, 1),
      past: step,
      pages: pagesOf(runner, s, steps),
      sample: greedy,
      score: null,
      embed: false,
    }));
    runner.step(rows);
  }
}

const someTokens = (runner: LlamaRunner, from: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) => (3 + (from + i) * 7919) % runner.vocabularySize);

/** The pages of sequence s of `length` tokens; sequences share pages only where the cache is too small for all. */
function pagesOf(runner: LlamaRunner, s: number, length: number): number[] {
  const count = Math.ceil(length / runner.pageSize);
  return Array.from({ length: count }, (_, i) => (s * count + i) % runner.pageCount);
}

function printTable(
  title: string,
  rows: BenchRow[],
  peaks: { bandwidth: number; float32: number; bfloat16: number },
  dtype: string,
): void {
  const products = dtype === "float32" || dtype === "float64" ? "float32" : "bfloat16";
  const matrixPeak = peaks[products];
  console.log(title);
  console.log(
    `measured peaks: ${peaks.bandwidth.toFixed(1)} GB/s read, ${matrixPeak.toFixed(0)} GFLOP/s ${products}`,
  );
  console.log("test           tokens/s   (low .. high)        weights GB/s  of peak   GFLOP/s  of peak");
  for (const row of rows) {
    const range = `(${row.range[0].toFixed(1)} .. ${row.range[1].toFixed(1)})`;
    const cells = [
      row.what.padEnd(14),
      row.tokensPerSecond.toFixed(1).padStart(8),
      range.padEnd(20),
      row.gigabytesPerSecond.toFixed(1).padStart(12),
      percent(row.gigabytesPerSecond / peaks.bandwidth),
      row.gigaflopsPerSecond.toFixed(0).padStart(9),
      percent(row.gigaflopsPerSecond / matrixPeak),
    ];
    console.log(cells.join("  "));
  }
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`.padStart(6);
