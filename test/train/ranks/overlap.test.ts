/** A world of one rank whose collectives happen as late as they may: when somebody waits for them. What a step reads or
 *  overwrites too early would then differ from the bits of a rank whose collectives happen at once. */
import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../../src/model/config.ts";
import {
  type CollectiveName,
  type Communicator,
  SoloCommunicator,
} from "../../../src/tensor/communicator.ts";
import type { DeviceEvent } from "../../../src/tensor/device.ts";
import type { Tensor } from "../../../src/tensor/tensor.ts";
import { defaultSetup, openMemory } from "../../../src/train/allocation.ts";
import type { FlatState, ZeroStage } from "../../../src/train/flat_state.ts";
import type { StepRow } from "../../../src/train/loss.ts";
import { TrainModel } from "../../../src/train/model.ts";
import { defaultAdamW, Optimizer } from "../../../src/train/optimizer.ts";
import { WeightWriter } from "../../../src/train/parameters.ts";
import { ZeroHooks } from "../../../src/train/ranks/zero.ts";
import { Stepper } from "../../../src/train/step.ts";
import { uniform } from "../../../src/util/rng.ts";
import { defaultStep, device, ops } from "../support.ts";

class LateCommunicator extends SoloCommunicator {
  /** What happened, in order: "start ...", "end ...", and what the hooks add. */
  readonly log: string[] = [];
  private readonly waiting: { of: string; run: () => void }[] = [];

  override allReduce(x: Tensor, about?: CollectiveName): DeviceEvent {
    return this.later(about, () => super.allReduce(x));
  }

  override reduceScatter(out: Tensor, x: Tensor, about: CollectiveName): DeviceEvent {
    return this.later(about, () => super.reduceScatter(out, x, about));
  }

  override reduceScatterAdd(out: Tensor, x: Tensor, about: CollectiveName): DeviceEvent {
    return this.later(about, () => super.reduceScatterAdd(out, x, about));
  }

  override allGather(out: Tensor, x: Tensor, about: CollectiveName): DeviceEvent {
    return this.later(about, () => super.allGather(out, x, about));
  }

  /** The queue is in order: all before it are over, too. */
  override exchange(numbers: Float64Array): Float64Array {
    while (this.waiting.length > 0) this.runNext();
    return super.exchange(numbers);
  }

  private later(about: CollectiveName | undefined, run: () => void): DeviceEvent {
    const one = { of: (about?.of ?? "").replace(/, step \d+$/, ""), run };
    this.waiting.push(one);
    this.log.push(`start ${one.of}`);
    return { wait: () => this.waiting.includes(one) && this.runUntil(one) };
  }

  private runUntil(last: { of: string }): void {
    while (this.runNext() !== last);
  }

  private runNext(): { of: string } | undefined {
    const next = this.waiting.shift();
    next?.run();
    this.log.push(`end ${next?.of}`);
    return next;
  }
}

const configOf = (tied: boolean) =>
  parseConfig(
    {
      tie_word_embeddings: tied,
      architectures: ["LlamaForCausalLM"],
      hidden_size: 16,
      num_attention_heads: 2,
      intermediate_size: 32,
      num_hidden_layers: 4,
      vocab_size: 32,
      max_position_embeddings: 32,
    },
    "test",
  );

const rows: StepRow[] = [0, 1, 2].map((row) => [
  {
    ids: Int32Array.from({ length: 9 }, (_, i) => (7 * i + 5 * row + 3) % 32),
    weights: new Float32Array(9).fill(1).fill(0, 0, 1),
  },
]);

function fillWeights(state: FlatState): void {
  const writer = new WeightWriter(ops, state);
  state.blocks.forEach((block, b) => {
    for (const parameter of block.layout.parameters) {
      const values = Float32Array.from({ length: parameter.size }, (_, i) => uniform(b, i) - 0.5);
      writer.writeArray(block, parameter, values);
    }
  });
  writer.close();
}

/** Three steps of three micro-batches: losses, the weights' hash, and what was logged in the last step. */
function train(communicator: Communicator, stage: ZeroStage, { tied = false, log = [] as string[] } = {}) {
  const config = configOf(tied);
  const setup = { ...defaultSetup(config, 32), stage };
  const memory = openMemory(device, config, setup);
  fillWeights(memory.base);
  const { base, trained, working } = memory;
  const hooks = new ZeroHooks(device, communicator, {
    base,
    trained,
    zeros: working.zeros,
    report: (_, phase, block) => void (block && log.push(`${phase} ${block}`)),
  });
  const model = new TrainModel(ops, config, memory, setup, hooks);
  const optimizer = new Optimizer(ops, trained, defaultAdamW, 1, setup.share);
  const stepper = new Stepper(device, memory, model, optimizer, { ...defaultStep, microRows: 1 }, hooks);
  const losses = [0, 1, 2].map((step) => {
    log.length = 0;
    const { loss, gradientNorm } = stepper.run(step, rows, 1e-2);
    return [loss, gradientNorm];
  });
  const weights = base.blocks.map(({ ownW }) => Bun.hash(device.download(ownW) as Float32Array).toString(16));
  hooks.close();
  memory.close();
  return { losses, weights };
}

const first = (log: string[], entry: string): number => {
  const at = log.indexOf(entry);
  if (at < 0) throw new Error(`"${entry}" is not in ${log.join("; ")}`);
  return at;
};

describe("collectives that happen as late as they may change no bit", () => {
  test.each([
    [0, false],
    [1, false],
    [2, false],
    [2, true],
    [3, false],
    [3, true],
  ] as const)("of stage %i, tied head: %p", (stage, tied) => {
    const trained = train(new LateCommunicator(device), stage, { tied });
    expect(trained).toEqual(train(new SoloCommunicator(device), stage, { tied }));
    // It did learn: a rank that read nothing but zeros would, too, agree with itself.
    expect(trained.losses[2]?.[0]).toBeLessThan(trained.losses[0]?.[0] ?? 0);
  });
});

describe("a block is computed while", () => {
  const logOf = (stage: ZeroStage) => {
    const late = new LateCommunicator(device);
    train(late, stage, { log: late.log });
    return late.log;
  };

  test("the weights of the next one arrive, forward and backward (stage 3)", () => {
    const log = logOf(3);
    // The hook reports the block, starts the gathering of the next and waits for its own only.
    expect(first(log, "start weights of layer 2")).toBeLessThan(first(log, "forward layer 2"));
    expect(first(log, "end weights of layer 2")).toBeGreaterThan(first(log, "forward layer 2"));
    const backward = log.slice(first(log, "backward layer 3"));
    expect(first(backward, "start weights of layer 1")).toBeLessThan(first(backward, "backward layer 1"));
    expect(first(backward, "end weights of layer 1")).toBeGreaterThan(first(backward, "backward layer 1"));
  });

  test("the gradient of the one before it is reduced (stages 2 and 3)", () => {
    for (const stage of [2, 3] as const) {
      const log = logOf(stage);
      expect(first(log, "end gradient of layer 2")).toBeGreaterThan(first(log, "backward layer 1"));
      // Its memory is taken by the block after the next.
      expect(first(log, "end gradient of layer 2")).toBeLessThan(first(log, "backward layer 0"));
    }
  });

  test("the gradients of all before it are reduced, in the last micro-batch (stages 0 and 1)", () => {
    for (const stage of [0, 1] as const) {
      const log = logOf(stage);
      const last = log.slice(log.lastIndexOf("backward layer 3"));
      expect(first(last, "start gradient of layer 3")).toBeLessThan(first(last, "backward layer 2"));
      expect(log.filter((entry) => entry === "start gradient of layer 3")).toHaveLength(1);
    }
  });

  test("the weights of the one updated before it are gathered (stages 1 and 2)", () => {
    for (const stage of [1, 2] as const) {
      const log = logOf(stage);
      expect(first(log, "start weights of layer 0")).toBeLessThan(first(log, "adamw layer 1"));
      expect(first(log, "end weights of layer 0")).toBeGreaterThan(first(log, "adamw layer 3"));
    }
  });
});
