/** Logits and greedy tokens beside those of transformers, on the model and prompts that `peers.py reference` wrote.
 *  usage: bun bench/gpu/parity.ts --reference FOLDER [--device cuda:0]
 *  Koala computes in bfloat16. Its logits may be half as far again from transformers in float32 as transformers in bfloat16 is; its
 *  tokens are those of float32 until one whose lead over the next is less than two units in the last place of bfloat16. */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { LlamaRunner } from "../../src/engine/llama_runner.ts";
import { greedy, type StepRow } from "../../src/engine/runner.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { readConfig } from "../../src/model/config.ts";
import { Llama } from "../../src/model/llama.ts";
import { loadWeights } from "../../src/model/weights.ts";
import { openBenchDevice, put } from "./bench_device.ts";

interface Answers {
  prompts: number[][];
  new: number;
  float32: number[][];
  float32_tops: number[][];
  float32_leads: number[][];
}

const { values } = parseArgs({
  options: { device: { type: "string", default: "cuda:0" }, reference: { type: "string" } },
});
const folder = values.reference;
if (folder === undefined)
  throw new Error("usage: bun bench/gpu/parity.ts --reference FOLDER [--device cuda:0]");

const pageSize = 32;
const answers = (await Bun.file(join(folder, "answers.json")).json()) as Answers;
const { device } = openBenchDevice(values.device);
const config = await readConfig(folder);
const weights = loadWeights(device, await openCheckpoint(folder), config, "bf16");
const length = Math.max(...answers.prompts.map((prompt) => prompt.length)) + answers.new;
const model = new Llama(device, config, weights, { maxTokens: length, positions: length });
const pages = Array.from({ length: Math.ceil(length / pageSize) }, (_, page) => page);
const limits = { maxTokens: length, maxRows: 32, maxModelLen: length, pageSize, pageCount: pages.length };
const runner = new LlamaRunner(model, limits);
const exact = await reference("float32");
const rounded = await reference("bfloat16");
putLogits();
putTokens();
runner.close();
model.close();
weights.close();
device.close();

function putLogits(): void {
  const ours = answers.prompts.map((prompt) => runner.logitsOf(row(prompt, 0)));
  const size = Math.sqrt(meanSquare(exact));
  const theirs = Math.sqrt(meanSquare(rounded, exact)) / size;
  const error = Math.sqrt(meanSquare(Float32Array.from(ours.flatMap((logits) => [...logits])), exact)) / size;
  put({
    step: "parity",
    what: `width ${config.hiddenSize}, logits: error / that of transformers in bfloat16`,
    value: error / theirs,
    unit: "ratio",
    bar: { most: 1.5 },
    note: `relative L2 ${error.toExponential(2)} and ${theirs.toExponential(2)} from float32`,
  });
}

function putTokens(): void {
  const compared = answers.prompts.map((prompt, i) => {
    const tokens = generate(prompt);
    const at = tokens.findIndex((token, step) => token !== answers.float32[i]?.[step]);
    const lead = answers.float32_leads[i]?.[at] ?? 0;
    return { at, isTie: lead < 2 * bfloat16Unit(answers.float32_tops[i]?.[at] ?? 0) };
  });
  const wrong = compared.filter(({ at, isTie }) => at >= 0 && !isTie).length;
  const equal = compared.filter(({ at }) => at < 0).length;
  put({
    step: "parity",
    what: `width ${config.hiddenSize}, greedy answers that leave transformers' without a near tie`,
    value: wrong,
    unit: "answers",
    bar: { most: 0 },
    note: `${equal} of ${compared.length} equal over ${answers.new} tokens`,
  });
}

/** The distance of neighbours in bfloat16, which has eight bits of mantissa with the hidden one. */
function bfloat16Unit(value: number): number {
  return 2 ** (Math.floor(Math.log2(Math.abs(value))) - 7);
}

function generate(prompt: number[]): number[] {
  const made: number[] = [];
  let next = prompt;
  for (let past = 0; made.length < answers.new; next = made.slice(-1)) {
    const id = runner.step([row(next, past)])[0]?.id ?? -1;
    if (id < 0) throw new Error("a row sampled no token");
    made.push(id);
    past += next.length;
  }
  return made;
}

function row(tokens: number[], past: number): StepRow {
  return { tokens, past, pages, sample: greedy, score: null, embed: false };
}

async function reference(type: string): Promise<Float32Array> {
  return new Float32Array(await Bun.file(join(folder as string, `logits.${type}.f32`)).arrayBuffer());
}

/** Of a, or of a - b. */
function meanSquare(a: Float32Array, b?: Float32Array): number {
  if (b !== undefined && a.length !== b.length) throw new Error(`${a.length} logits beside ${b.length}`);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b?.[i] ?? 0)) ** 2;
  return sum / a.length;
}
