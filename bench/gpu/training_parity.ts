/** Gradients and a loss curve beside those of PyTorch, on the model and rows that `peers.py reference` wrote.
 *  usage: bun bench/gpu/training_parity.ts --reference FOLDER [--device cuda:0]
 *  Koala trains in bfloat16 with a split float32 master. Its gradients and losses may be twice as far from PyTorch's in float32 as
 *  PyTorch's own are with all in bfloat16. */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { readConfig } from "../../src/model/config.ts";
import { bfloat16ToFloat32 } from "../../src/tensor/convert.ts";
import { openDevice } from "../../src/tensor/open_device.ts";
import { defaultSetup, openMemory } from "../../src/train/allocation.ts";
import { alone, parameterView } from "../../src/train/flat_state.ts";
import { TrainModel } from "../../src/train/model.ts";
import { TrainOps } from "../../src/train/ops.ts";
import { Optimizer } from "../../src/train/optimizer.ts";
import { loadParameters } from "../../src/train/parameters.ts";
import { Stepper } from "../../src/train/step.ts";
import { put } from "./bench_device.ts";

interface Training {
  losses: number[];
  norms: Record<string, number>;
}
interface Answers {
  prompts: number[][];
  optimizer: { lr: number; betas: [number, number]; eps: number; weight_decay: number; clip: number };
  gradients: { name: string; stride: number }[];
  float32_training: Training;
  bfloat16_training: Training;
}

const { values } = parseArgs({
  options: { device: { type: "string", default: "cuda:0" }, reference: { type: "string" } },
});
const folder = values.reference;
if (folder === undefined)
  throw new Error("usage: bun bench/gpu/training_parity.ts --reference FOLDER [--device cuda:0]");

/** How many times PyTorch's own error in bfloat16. */
const errorMost = 2;

const answers = (await Bun.file(join(folder, "answers.json")).json()) as Answers;
const { float32_training: exact, bfloat16_training: rounded, optimizer: adam } = answers;
const device = openDevice(values.device);
const ops = new TrainOps(device);
const config = await readConfig(folder);
const tokens = answers.prompts[0]?.length ?? 0;
const setup = {
  ...defaultSetup(config, answers.prompts.length * tokens),
  positions: tokens,
  precision: "bf16",
  gradients: "bfloat16",
  activations: device.readsHostMemory ? "float32" : "bfloat16",
} as const;
const memory = openMemory(device, config, setup);
loadParameters(ops, memory.base, await openCheckpoint(folder), config);
const [beta1, beta2] = adam.betas;
const settings = { beta1, beta2, epsilon: adam.eps, weightDecay: adam.weight_decay, clipNorm: adam.clip };
const stepper = new Stepper(
  device,
  memory,
  new TrainModel(ops, config, memory, setup),
  new Optimizer(ops, memory.trained, settings, 1, alone),
  {
    method: { type: "sft", reduction: "token" },
    microRows: answers.prompts.length,
    seed: 1,
    forget: { min: 0, max: 0 },
    share: alone,
  },
);
const rows = answers.prompts.map((prompt) => [
  { ids: Int32Array.from(prompt), weights: new Float32Array(prompt.length).fill(1) },
]);
const losses = [stepper.run(0, rows, adam.lr).loss];
await putGradients();
while (losses.length < exact.losses.length) losses.push(stepper.run(losses.length, rows, adam.lr).loss);
putLosses();
memory.close();
device.close();

async function putGradients(): Promise<void> {
  const [wanted, theirs] = [await reference("float32"), await reference("bfloat16")];
  let at = 0;
  const tensors = answers.gradients.map(({ name, stride }) => {
    const ours = gradient(name).filter((_, i) => i % stride === 0);
    const part = [at, (at += ours.length)] as const;
    const size = distance(wanted.subarray(...part));
    const error = distance(ours, wanted.subarray(...part)) / size;
    return {
      name,
      error,
      ratio: error / (distance(theirs.subarray(...part), wanted.subarray(...part)) / size),
    };
  });
  if (at !== wanted.length)
    throw new Error(`${at} elements of gradients beside ${wanted.length} in ${folder}`);
  const worst = tensors.reduce((a, b) => (b.ratio > a.ratio ? b : a));
  put({
    step: "parity",
    what: `width ${config.hiddenSize}, gradients of ${tensors.length} tensors: worst error / that of PyTorch in bfloat16`,
    value: worst.ratio,
    unit: "ratio",
    bar: { most: errorMost },
    note: `${worst.name}, relative L2 ${worst.error.toExponential(2)} from float32`,
  });
  putNorms();
}

/** Of all tensors together: one norm alone may be right by chance. */
function putNorms(): void {
  const names = Object.keys(exact.norms);
  const rootMeanSquare = (norm: (name: string) => number) =>
    Math.sqrt(
      names.reduce((sum, name) => sum + (norm(name) / (exact.norms[name] as number) - 1) ** 2, 0) /
        names.length,
    );
  const ours = rootMeanSquare((name) => distance(gradient(name)));
  const theirs = rootMeanSquare((name) => rounded.norms[name] as number);
  put({
    step: "parity",
    what: `width ${config.hiddenSize}, norms of all ${names.length} gradients: error / that of PyTorch in bfloat16`,
    value: ours / theirs,
    unit: "ratio",
    bar: { most: errorMost },
    note: `relative ${ours.toExponential(2)} and ${theirs.toExponential(2)} from float32`,
  });
}

function putLosses(): void {
  const farthest = (list: number[]) =>
    list.reduce((most, loss, i) => Math.max(most, Math.abs(loss - (exact.losses[i] as number))), 0);
  const [ours, theirs] = [farthest(losses), farthest(rounded.losses)];
  put({
    step: "parity",
    what: `width ${config.hiddenSize}, losses of ${losses.length} steps: farthest from float32 / that of PyTorch in bfloat16`,
    value: ours / theirs,
    unit: "ratio",
    bar: { most: errorMost },
    note: `${ours.toExponential(2)} and ${theirs.toExponential(2)}; ${losses[0]?.toFixed(3)} to ${losses.at(-1)?.toFixed(3)}`,
  });
}

function gradient(name: string): Float32Array {
  const parameter = memory.trained.layout.parameters.get(name);
  const sum = parameter && memory.trained.blocks[parameter.block]?.sum;
  if (!sum) throw new Error(`The model of ${folder} has no tensor ${name}.`);
  const elements = device.download(parameterView(sum, parameter));
  return elements instanceof Uint16Array ? bfloat16ToFloat32(elements) : (elements as Float32Array);
}

async function reference(type: string): Promise<Float32Array> {
  return new Float32Array(await Bun.file(join(folder as string, `gradients.${type}.f32`)).arrayBuffer());
}

/** Length of a, or of a - b. */
function distance(a: Float32Array, b?: Float32Array): number {
  if (b !== undefined && a.length !== b.length) throw new Error(`${a.length} elements beside ${b.length}`);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b?.[i] ?? 0)) ** 2;
  return Math.sqrt(sum);
}
