/** Whole optimizer steps of a random model, for benches: forward, backward and AdamW with clipping, a loss on every token. */
import type { LlamaConfig } from "../src/model/config.ts";
import type { Device } from "../src/tensor/device.ts";
import { defaultSetup, openMemory, type TrainMemory, type TrainSetup } from "../src/train/allocation.ts";
import { alone } from "../src/train/flat_state.ts";
import { stepFlops, workOf } from "../src/train/flops.ts";
import { TrainModel } from "../src/train/model.ts";
import { TrainOps } from "../src/train/ops.ts";
import { defaultAdamW, Optimizer } from "../src/train/optimizer.ts";
import { initializeParameters } from "../src/train/parameters.ts";
import { Stepper } from "../src/train/step.ts";

export interface TrainingStep {
  memory: TrainMemory;
  /** Floating-point operations that a step must make. */
  flops: number;
  /** Step n; the loss is that of before it. */
  run(n: number): number;
  close(): void;
}

/** `rows` packed rows of one document of `tokens` tokens each, in one micro-batch. */
export function openTrainingStep(
  device: Device,
  config: LlamaConfig,
  { rows, tokens, ...changes }: { rows: number; tokens: number } & Partial<TrainSetup>,
): TrainingStep {
  const setup = { ...defaultSetup(config, rows * tokens), positions: tokens, ...changes };
  const memory = openMemory(device, config, setup);
  const ops = new TrainOps(device);
  initializeParameters(ops, memory.base, 1);
  const optimizer = new Optimizer(ops, memory.trained, defaultAdamW, 1, alone);
  const stepper = new Stepper(device, memory, new TrainModel(ops, config, memory, setup), optimizer, {
    method: { type: "sft", reduction: "token" },
    microRows: rows,
    seed: 1,
    forget: { min: 0, max: 0 },
    share: alone,
  });
  const batch = Array.from({ length: rows }, (_, row) => [
    {
      ids: Int32Array.from(
        { length: tokens },
        (_, i) => ((row * tokens + i) * 7919 + 13) % config.vocabularySize,
      ),
      weights: new Float32Array(tokens).fill(1),
    },
  ]);
  const work = workOf(Array.from({ length: rows }, () => ({ length: tokens, trained: tokens - 1 })));
  const { useful } = stepFlops(config, work, { frozen: false, rungs: setup.rungs });
  return {
    memory,
    flops: useful,
    run: (n) => stepper.run(n, batch, 1e-4).loss,
    close: () => memory.close(),
  };
}
