/** Prefill and decode at a model's real dimensions with random weights, beside what the measured rates allow.
 *  usage: bun bench/gpu/inference.ts [--device cuda:0] [--shape llama-7b] [--batch 1,8,32] [--context 1024] [--prefill 2048]
 *  A step is timed from the call to its sampled ids on the host. The cache holds what prefill wrote, of every sequence its own. */
import { parseArgs } from "node:util";
import { LlamaRunner } from "../../src/engine/llama_runner.ts";
import { greedy, type StepRow } from "../../src/engine/runner.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { Llama } from "../../src/model/llama.ts";
import { activationTypeOf } from "../../src/model/weights.ts";
import { type BenchDevice, configOf, openBenchDevice, put, type Row, time } from "./bench_device.ts";
import { randomWeights } from "./random_weights.ts";

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    shape: { type: "string", default: "llama-7b" },
    batch: { type: "string", default: "1,8,32" },
    context: { type: "string", default: "1024" },
    /** 0: none. */
    prefill: { type: "string", default: "2048" },
    repeat: { type: "string", default: "15" },
  },
});

/** The share of the limit that counts as reached, by shape and test. */
const bars: Record<string, number> = {
  "llama-7b decode x1": 0.8,
  "llama-7b decode x32": 0.75,
  "llama-3-8b decode x256": 0.6,
  "llama-7b prefill": 0.65,
};
const pageSize = 32;
const warm = 3;

const batches = values.batch.split(",").map(Number);
const [context, prompt, repeat] = [Number(values.context), Number(values.prefill), Number(values.repeat)];
const longest = Math.max(context + 2 * (repeat + warm), prompt) + pageSize;
const bench = openBenchDevice(values.device);
const config = configOf(values.shape, longest);
const weights = randomWeights(bench.device, config, activationTypeOf(bench.device, "bf16"));
const maxTokens = Math.max(prompt, context, ...batches);
const model = new Llama(bench.device, config, weights, { maxTokens, positions: longest });
const pagesEach = Math.ceil(longest / pageSize);
const open = (graphs: boolean): LlamaRunner =>
  new LlamaRunner(model, {
    maxTokens,
    maxRows: Math.max(...batches),
    maxModelLen: longest,
    pageSize,
    pageCount: pagesEach * Math.max(...batches),
    graphs,
  });
let runner = open(true);
if (prompt > 0) putPrefill();
putDecodes("");
if (bench.device.hasGraphs) {
  runner.close();
  runner = open(false);
  putDecodes(" without graphs");
}
runner.close();
model.close();
weights.close();
bench.device.close();

function row(sequence: number, past: number, count: number): StepRow {
  return {
    tokens: Array.from(
      { length: count },
      (_, i) => (3 + (sequence + past + i) * 7919) % config.vocabularySize,
    ),
    past,
    pages: Array.from({ length: pagesEach }, (_, page) => sequence * pagesEach + page),
    sample: greedy,
    score: null,
    embed: false,
  };
}

function putPrefill(): void {
  const seconds = time(() => step([row(0, 0, prompt)]), { repeat: Math.min(repeat, 7), warm });
  const limit = prompt / (prefillFlops(config, prompt) / bench.rates.bfloat16);
  put(inTokens(`prefill ${prompt}`, prompt, seconds, limit, bars[`${values.shape} prefill`]));
}

function putDecodes(how: string): void {
  for (let sequence = 0; sequence < Math.max(...batches); sequence++)
    runner.step([row(sequence, 0, context)]);
  for (const batch of batches) putDecode(batch, how);
}

function putDecode(batch: number, how: string): void {
  let past = context;
  const seconds = time(
    () => {
      step(Array.from({ length: batch }, (_, sequence) => row(sequence, past, 1)));
      past++;
    },
    { repeat, warm },
  );
  const limit = batch / decodeSeconds(config, bench.rates, batch, context);
  const what = `decode x${batch}${how}`;
  put(inTokens(what, batch, seconds, limit, bars[`${values.shape} ${what}`]));
}

function step(rows: StepRow[]): void {
  if (runner.step(rows).some(({ id }) => id === null || id < 0)) throw new Error("a row sampled no token");
}

function inTokens(
  what: string,
  tokens: number,
  { median, lowest, highest }: ReturnType<typeof time>,
  limit: number,
  bar: number | undefined,
): Row {
  return {
    step: "inference",
    what: `${values.shape} ${what}`,
    value: tokens / median,
    unit: "tokens/s",
    range: [tokens / highest, tokens / lowest],
    limit,
    ...(bar === undefined ? {} : { bar: { share: bar } }),
    ...(what.startsWith("decode") ? { note: `context ${context}` } : {}),
  };
}

/** Every weight is read once and used for every sequence, whichever takes longer; then every key and value is read once. */
function decodeSeconds(c: LlamaConfig, rates: BenchDevice["rates"], batch: number, length: number): number {
  const cacheBytes = batch * length * c.layerCount * 2 * c.keyValueHeadCount * c.headDim * 2;
  const flops = 2 * (weights.bytes / 2) * batch;
  return Math.max(weights.bytes / rates.bandwidth, flops / rates.bfloat16) + cacheBytes / rates.bandwidth;
}

/** Products of all layers, causal attention, and the head on the last token. */
function prefillFlops(c: LlamaConfig, T: number): number {
  const { hiddenSize: D, intermediateSize: F, headCount: H, keyValueHeadCount: G, headDim: E } = c;
  const layer = 2 * T * (D * (H + 2 * G) * E + H * E * D + 3 * D * F) + 2 * T * T * H * E;
  return c.layerCount * layer + 2 * D * c.vocabularySize;
}
