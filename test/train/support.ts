/** Small models opened for training, and how gradients compare. */
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { type LlamaConfig, parseConfig } from "../../src/model/config.ts";
import { openDevice } from "../../src/tensor/open_device.ts";
import { TrainOps } from "../../src/train/ops.ts";
import { readAdapterConfig } from "../../src/model/lora.ts";
import { loadAdapter } from "../../src/train/adapter_file.ts";
import { defaultSetup, openMemory, type TrainSetup } from "../../src/train/allocation.ts";
import { type FlatState, parameterView } from "../../src/train/flat_state.ts";
import { rowFactors, type StepRow } from "../../src/train/loss.ts";
import { fillMicroBatch } from "../../src/train/micro_batch.ts";
import { TrainModel } from "../../src/train/model.ts";
import { type AdamWConfig, defaultAdamW, Optimizer } from "../../src/train/optimizer.ts";
import {
  initializeAdapters,
  initializeParameters,
  loadParameters,
  WeightWriter,
} from "../../src/train/parameters.ts";
import { type StepHooks, type StepOptions, Stepper } from "../../src/train/step.ts";
import { join } from "node:path";
import { testDevice } from "../support/models.ts";
import { familyDirectory } from "../support/paths.ts";

export const device = openDevice(testDevice, { threads: 1 });
export const ops = new TrainOps(device);

export interface Opened {
  config: LlamaConfig;
  stepper: Stepper;
  model: TrainModel;
  optimizer: Optimizer;
  memory: ReturnType<typeof openMemory>;
  /** Loss and gradients of `rows` without an update. */
  gradients(rows: StepRow[]): { loss: number; gradient(name: string): Float64Array };
  weights(name: string): Float64Array;
  close(): void;
}

export interface OpenOptions {
  setup?: Partial<TrainSetup>;
  optimizer?: Partial<AdamWConfig>;
  step?: Partial<StepOptions>;
  hooks?: StepHooks;
  /** PEFT adapter to load. */
  adapter?: string;
}

export const defaultStep: StepOptions = {
  method: { type: "sft", reduction: "token" },
  microRows: 64,
  seed: 1,
  forget: { min: 0, max: 0 },
  share: { rank: 0, world: 1 },
};

/** A family of test/golden/reference, or any directory. */
export async function openFamily(family: string, options: OpenOptions = {}): Promise<Opened> {
  const directory = familyDirectory(family);
  const config = parseConfig(await Bun.file(join(directory, "config.json")).json(), family);
  const lora = options.adapter ? await readAdapterConfig(options.adapter) : (options.setup?.lora ?? null);
  const opened = openRandom(config, { ...options, setup: { ...options.setup, lora } }, false);
  const { memory } = opened;
  loadParameters(ops, memory.base, await openCheckpoint(directory), config);
  if (memory.adapters && options.adapter) await loadAdapter(ops, memory.adapters, options.adapter);
  else if (memory.adapters) initializeAdapters(ops, memory.adapters, 1);
  return opened;
}

export function openRandom(config: LlamaConfig, options: OpenOptions = {}, initialize = true): Opened {
  const setup = { ...defaultSetup(config, 96), ...options.setup };
  const memory = openMemory(device, config, setup);
  if (initialize) initializeParameters(ops, memory.base, 1);
  if (initialize && memory.adapters) initializeAdapters(ops, memory.adapters, 1);
  const model = new TrainModel(ops, config, memory, setup, options.hooks);
  const optimizer = new Optimizer(
    ops,
    memory.trained,
    { ...defaultAdamW, ...options.optimizer },
    1,
    setup.share,
  );
  const stepOptions = { ...defaultStep, ...options.step };
  const stepper = new Stepper(device, memory, model, optimizer, stepOptions, options.hooks);
  return {
    config,
    stepper,
    model,
    optimizer,
    memory,
    gradients: (rows) => {
      optimizer.zeroGradients(memory.working.zeros);
      const factors = rowFactors(rows, stepOptions.method);
      const documents = rows.flatMap((row, r) => row.map((d) => ({ ...d, factor: factors[r] as number })));
      const batch = fillMicroBatch(device, memory.working.batch, documents, null);
      model.forward(batch);
      const logprobs = model.backward(batch);
      const loss = -logprobs.reduce((sum, logprob, i) => sum + logprob * (batch.hostWeights[i] as number), 0);
      return { loss, gradient: (name) => read(memory.trained, "gradient", name) };
    },
    weights: (name) => read(memory.trained, "w", name),
    close: () => memory.close(),
  };
}

function read(state: FlatState, kind: "w" | "gradient", name: string): Float64Array {
  const parameter = state.layout.parameters.get(name);
  const block = parameter && state.blocks[parameter.block];
  const flat = block && (kind === "gradient" ? (block.accumulated ?? block.gradient) : block.w);
  if (!flat) throw new Error(`no ${kind} of ${name}`);
  const values = device.download(parameterView(flat, parameter));
  if (!(values instanceof Uint16Array)) return Float64Array.from(values);
  return Float64Array.from(new Float32Array(Uint32Array.from(values, (bits) => bits << 16).buffer));
}

/** Gives `to` the weights of `from` as they are. */
export function copyWeights(to: Opened, from: Opened): void {
  const writer = new WeightWriter(ops, to.memory.base);
  for (const block of to.memory.base.blocks)
    for (const parameter of block.layout.parameters)
      writer.writeArray(block, parameter, Float32Array.from(from.weights(parameter.name)));
  writer.close();
}

/** Rows of golden ids and labels (-100: no loss) as documents, one a row. */
export function documentsOf(ids: number[][], labels: number[][] = ids): StepRow[] {
  return ids.map((row, r) => [
    {
      ids: Int32Array.from(row),
      weights: Float32Array.from(labels[r] as number[], (label, i) => (i > 0 && label !== -100 ? 1 : 0)),
    },
  ]);
}

/** ||a - b|| / ||b|| */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    difference += ((a[i] as number) - (b[i] as number)) ** 2;
    size += (b[i] as number) ** 2;
  }
  if (a.length !== b.length) throw new Error(`${a.length} values beside ${b.length}`);
  return Math.sqrt(difference / size);
}
