/** Whole optimizer steps at a model's real width, beside the measured matrix rate and the card's nominal one.
 *  usage: bun bench/gpu/training.ts [--device cuda:0] [--shape llama-7b] [--layers 8] [--rows 4] [--tokens 2048] [--steps 5] [--recompute none]
 *  Precision is bf16: bfloat16 weights with an exact float32 master in two halves, bfloat16 moments and gradients. The same batch
 *  comes again and again, so the loss must fall; a step that is fast and does not train is no result. */
import { parseArgs } from "node:util";
import { type Rung, rungs } from "../../src/train/activations.ts";
import { planMemory, defaultSetup } from "../../src/train/allocation.ts";
import { openTrainingStep } from "../training_step.ts";
import { configOf, openBenchDevice, put, time } from "./bench_device.ts";

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    shape: { type: "string", default: "llama-7b" },
    layers: { type: "string", default: "8" },
    rows: { type: "string", default: "4" },
    tokens: { type: "string", default: "2048" },
    steps: { type: "string", default: "5" },
    recompute: { type: "string", default: "none" },
  },
});

/** Dense bfloat16 FLOP/s that utilisation is quoted against in the field, by a part of the device's name. */
const nominal: [name: string, rate: number][] = [
  ["H100", 989e12],
  ["H200", 989e12],
  ["A100", 312e12],
];
/** Of the nominal rate. */
const utilisationBar = 0.55;

const [rows, tokens, layers] = [Number(values.rows), Number(values.tokens), Number(values.layers)];
if (!(rungs as readonly string[]).includes(values.recompute))
  throw new Error(`--recompute ${values.recompute} is not one of ${rungs.join(", ")}.`);
const { device, rates } = openBenchDevice(values.device);
const config = configOf(values.shape, tokens, layers);
const setup = {
  precision: "bf16",
  gradients: "bfloat16",
  activations: device.readsHostMemory ? "float32" : "bfloat16",
  rungs: Array<Rung>(layers).fill(values.recompute as Rung),
} as const;
const training = openTrainingStep(device, config, { rows, tokens, ...setup });
const losses: number[] = [];
const seconds = time(() => losses.push(training.run(losses.length)), {
  repeat: Number(values.steps),
  warm: 2,
});
const what = `${values.shape} x${layers} layers, ${rows} x ${tokens} tokens`;
const name = nominal.find(([part]) => device.info.name.includes(part));
const reference = name?.[1] ?? rates.bfloat16;
put({
  step: "training",
  what: `${what}, step`,
  value: (rows * tokens) / seconds.median,
  unit: "tokens/s",
  range: [(rows * tokens) / seconds.highest, (rows * tokens) / seconds.lowest],
  limit: (rows * tokens) / (training.flops / reference),
  ...(values.shape === "llama-7b" ? { bar: { share: utilisationBar } } : {}),
  note: `${((100 * training.flops) / seconds.median / rates.bfloat16).toFixed(0)} % of the measured rate; the limit is ${name ? `${name[1] / 1e12} TFLOP/s` : "the measured rate"}`,
});
put({
  step: "training",
  what: `${what}, loss after ${losses.length} steps / before`,
  value: (losses.at(-1) as number) / (losses[0] as number),
  unit: "ratio",
  bar: { most: 0.999 },
});
const planned = sum(
  planMemory(device, config, { ...defaultSetup(config, rows * tokens), positions: tokens, ...setup }),
);
const held = sum({ ...training.memory.bytes, scratch: device.scratchBytes });
put({
  step: "training",
  what: `${what}, bytes held / planned`,
  value: held / planned,
  unit: "ratio",
  bar: { most: 1 },
  note: `${(held / 2 ** 30).toFixed(2)} GiB`,
});
training.close();
device.close();

function sum(bytes: Record<string, number>): number {
  return Object.values(bytes).reduce((a, b) => a + b, 0);
}
