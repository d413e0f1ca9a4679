/** Prefill and decode at a model's real dimensions with random weights, beside what the measured rates allow.
 *  usage: bun bench/gpu/inference.ts [--device cuda:0] [--shape llama-7b] [--batch 1,8,32] [--context 1024] [--prefill 2048]
 *         [--weights bf16|int8|int4] [--cache bf16|fp8] [--no-graphs]
 *  A step is timed from the call to its sampled ids on the host. The cache holds what prefill wrote, of every sequence its own. */
import { parseArgs } from "node:util";
import { LlamaRunner } from "../../src/engine/llama_runner.ts";
import { greedy, type StepRow } from "../../src/engine/runner.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { Llama } from "../../src/model/llama.ts";
import { activationTypeOf } from "../../src/model/weights.ts";
import { inferenceShares } from "./bars.ts";
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
    /** Of matrices, and of keys and values. */
    weights: { type: "string", default: "bf16" },
    cache: { type: "string", default: "bf16" },
    "no-graphs": { type: "boolean", default: false },
  },
});
const weightType = typeOf("weights", { bf16: "bf16", int8: "q8", int4: "q4" } as const);
const cacheType = typeOf("cache", { bf16: "bf16", fp8: "f8" } as const);
const graphs = !values["no-graphs"];
/** What is not as usual, behind each test's name. */
const variant = [
  values.weights === "bf16" ? "" : `, ${values.weights}`,
  values.cache === "bf16" ? "" : `, ${values.cache} cache`,
  graphs ? "" : " without graphs",
].join("");

const pageSize = 32;
const warm = 3;

const batches = values.batch.split(",").map(Number);
const [context, prompt, repeat] = [Number(values.context), Number(values.prefill), Number(values.repeat)];
const longest = Math.max(context + 2 * (repeat + warm), prompt) + pageSize;
const bench = openBenchDevice(values.device);
const config = configOf(values.shape, longest);
const maxTokens = Math.max(prompt, context, ...batches);
const pagesEach = Math.ceil(longest / pageSize);
const limits = {
  maxTokens,
  maxRows: Math.max(...batches),
  maxModelLen: longest,
  pageSize,
  pageCount: pagesEach * Math.max(...batches),
  cacheType,
  graphs,
};
const missing = whatIsMissing();
if (missing !== null) {
  put({ step: "inference", skipped: `${values.shape}${variant}: ${missing}` });
  process.exit(0);
}
const weights = randomWeights(bench.device, config, activationTypeOf(bench.device, "bf16"), weightType);
const model = new Llama(bench.device, config, weights, { maxTokens, positions: longest });
const runner = new LlamaRunner(model, limits);
if (prompt > 0) putPrefill();
for (let sequence = 0; sequence < Math.max(...batches); sequence++) runner.step([row(sequence, 0, context)]);
for (const batch of batches) putDecode(batch);
runner.close();
model.close();
weights.close();
bench.device.close();

/** Why this device cannot do what was asked; null where it can. */
function whatIsMissing(): string | null {
  try {
    bench.device.packBytes(32, 32, weightType);
    bench.device.cachePageBytes(pageSize, config.keyValueHeadCount, config.headDim, cacheType);
  } catch (error) {
    return (error as Error).message;
  }
  return graphs || bench.device.hasGraphs ? null : "this device runs nothing from graphs";
}

function typeOf<Type>(flag: "weights" | "cache", types: Record<string, Type>): Type {
  const type = types[values[flag]];
  if (type === undefined)
    throw new Error(`--${flag} ${values[flag]} is not one of ${Object.keys(types).join(", ")}.`);
  return type;
}

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
  put(inTokens(`prefill ${prompt}`, prompt, seconds, limit));
}

function putDecode(batch: number): void {
  let past = context;
  const seconds = time(
    () => {
      step(Array.from({ length: batch }, (_, sequence) => row(sequence, past, 1)));
      past++;
    },
    { repeat, warm },
  );
  const limit = batch / decodeSeconds(config, bench.rates, batch, context);
  put(inTokens(`decode x${batch}`, batch, seconds, limit));
}

function step(rows: StepRow[]): void {
  if (runner.step(rows).some(({ id }) => id === null || id < 0)) throw new Error("a row sampled no token");
}

function inTokens(
  what: string,
  tokens: number,
  { median, lowest, highest }: ReturnType<typeof time>,
  limit: number,
): Row {
  const name = `${values.shape} ${what}${variant}`;
  const share = (inferenceShares as Record<string, number>)[name];
  return {
    step: "inference",
    what: name,
    value: tokens / median,
    unit: "tokens/s",
    range: [tokens / highest, tokens / lowest],
    limit,
    ...(share === undefined ? {} : { bar: { share } }),
    ...(what.startsWith("decode") ? { note: `context ${context}` } : {}),
  };
}

/** Every weight is read once and used for every sequence, whichever takes longer; then every key and value is read once. */
function decodeSeconds(c: LlamaConfig, rates: BenchDevice["rates"], batch: number, length: number): number {
  const page = bench.device.cachePageBytes(pageSize, c.keyValueHeadCount, c.headDim, cacheType);
  const cacheBytes = batch * length * c.layerCount * 2 * (page / pageSize);
  const flops = 2 * (weights.parameterCount - c.vocabularySize * c.hiddenSize) * batch;
  return Math.max(weights.bytes / rates.bandwidth, flops / rates.bfloat16) + cacheBytes / rates.bandwidth;
}

/** Products of all layers, causal attention, and the head on the last token. */
function prefillFlops(c: LlamaConfig, T: number): number {
  const { hiddenSize: D, intermediateSize: F, headCount: H, keyValueHeadCount: G, headDim: E } = c;
  const layer = 2 * T * (D * (H + 2 * G) * E + H * E * D + 3 * D * F) + 2 * T * T * H * E;
  return c.layerCount * layer + 2 * D * c.vocabularySize;
}
