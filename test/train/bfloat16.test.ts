/** Activations in bfloat16: what stays bit for bit, and how far losses and gradients move. Runs on every backend. */
import { describe, expect, test } from "bun:test";
import type { LlamaConfig } from "../../src/model/config.ts";
import { bfloat16ToFloat32 } from "../../src/tensor/convert.ts";
import type { Rung } from "../../src/train/activations.ts";
import { type FlatState, parameterView, stateSlices } from "../../src/train/flat_state.ts";
import type { StepRow } from "../../src/train/loss.ts";
import { cosine } from "../support/golden.ts";
import { config, document, rows } from "./small_model.ts";
import { device, openRandom, type OpenOptions, relativeError } from "./support.ts";

const dropout = { residualDropout: 0.2, embeddingDropout: 0.1, attentionDropout: 0.1 };
const half = { precision: "bf16", activations: "bfloat16" } as const;

const gradientsOf = (state: FlatState): Float64Array =>
  Float64Array.from(
    state.blocks.flatMap((block) =>
      block.layout.parameters.flatMap((parameter) => {
        const flat = block.accumulated ?? block.gradient;
        const values = device.download(parameterView(flat!, parameter));
        return Array.from(values instanceof Uint16Array ? bfloat16ToFloat32(values) : values);
      }),
    ),
  );

/** Loss and gradients of one step, which does not move the weights. */
function step(options: OpenOptions, of: StepRow[] = rows, model = config) {
  const opened = openRandom(model, options);
  const { loss } = opened.stepper.run(0, of, 0);
  const gradients = gradientsOf(opened.memory.trained);
  opened.close();
  return { loss, gradients };
}

const stateBits = (state: FlatState): string =>
  [...stateSlices(state)]
    .map(
      ({ kind, name, tensor }) =>
        `${kind} ${name} ${Bun.hash(new Uint8Array(device.download(tensor).buffer))}`,
    )
    .join("\n");

/** float32's rounding of sums that are taken in another order. */
const reordered = 1e-6;

describe("bfloat16 activations", () => {
  test("give the same bits on every rung of recomputation", () => {
    for (const precision of ["bf16", "mixed"] as const) {
      const setup = { ...half, precision, ...dropout };
      const kept = step({ setup });
      for (const rungs of [
        ["norm+swiglu", "ffn"],
        ["ffn", "block"],
        ["block", "block"],
      ] as Rung[][])
        expect(step({ setup: { ...setup, rungs } })).toEqual(kept);
    }
  });

  test("give one loss in one micro-batch and in four, and gradients that differ by the order of their sums", () => {
    for (const setup of [half, { ...half, ...dropout }]) {
      const whole = step({ setup, step: { forget: { min: 0, max: 0.3 } } });
      for (const microRows of [1, 3]) {
        const parts = step({ setup, step: { forget: { min: 0, max: 0.3 }, microRows } });
        expect(parts.loss).toBe(whole.loss);
        expect(relativeError(parts.gradients, whole.gradients)).toBeLessThan(reordered);
      }
    }
  });

  test("give one loss for documents packed and apart, and for a head in chunks", () => {
    const packed = step({ setup: half });
    const apart = step(
      { setup: half },
      rows.flat().map((one) => [one]),
    );
    const chunked = step({ setup: { ...half, chunkRows: 5 } });
    for (const other of [apart, chunked]) {
      expect(Math.abs(other.loss - packed.loss)).toBeLessThan(1e-12);
      expect(relativeError(other.gradients, packed.gradients)).toBeLessThan(reordered);
    }
  });

  test("give the same bits when a run is interrupted and goes on", () => {
    const options = { setup: { ...half, gradients: "bfloat16", ...dropout } } as const;
    const straight = openRandom(config, options);
    const losses = [0, 1, 2].map((at) => straight.stepper.run(at, rows, 1e-2).loss);
    const [first, second] = [openRandom(config, options), openRandom(config, options)];
    for (const at of [0, 1]) first.stepper.run(at, rows, 1e-2);
    const [from, to] = [[...stateSlices(first.memory.trained)], [...stateSlices(second.memory.trained)]];
    from.forEach(({ tensor }, i) => device.copy(to[i]!.tensor.data, tensor.data, tensor.bytes));
    second.optimizer.updates = first.optimizer.updates;
    expect(second.stepper.run(2, rows, 1e-2).loss).toBe(losses[2]!);
    expect(stateBits(second.memory.trained)).toBe(stateBits(straight.memory.trained));
    for (const opened of [straight, first, second]) opened.close();
  });

  const labelled = (): StepRow[] =>
    [31, 33, 35].map((seed, i) => [
      { ...document(11, seed), reference: -30, label: i !== 1 },
      { ...document(13, seed + 1), reference: -34 },
    ]);
  const lora = { rank: 3, alpha: 6, dropout: 0.1, targets: ["q_proj", "up_proj", "down_proj"], rsLora: true };
  /** GPUs attend with heads of this size on tensor cores. */
  const wideHeads = {
    ...config,
    headCount: 2,
    keyValueHeadCount: 1,
    headDim: 64,
    layerCount: 1,
    windows: [0],
  };
  const cases: [string, OpenOptions, StepRow[], LlamaConfig?][] = [
    ["of heads of 64", {}, [[document(70, 41), document(9, 42)]], wideHeads],
    ["of SFT", {}, rows],
    ["of LoRA adapters in fused matrices, with dropout", { setup: { lora } }, rows],
    ["of DPO", { step: { method: { type: "dpo", beta: 0.3 } } }, labelled()],
    [
      "of KTO",
      { step: { method: { type: "kto", beta: 0.3, desirableWeight: 1, undesirableWeight: 1 } } },
      labelled(),
    ],
  ];
  test.each(cases)("keep the direction of gradients %s", (_, options, of, model = config) => {
    const run = (activations: "float32" | "bfloat16") =>
      step({ ...options, setup: { ...options.setup, precision: "bf16", activations } }, of, model);
    const [exact, rounded] = [run("float32"), run("bfloat16")];
    expect(Math.abs(rounded.loss - exact.loss)).toBeLessThan(5e-3);
    // Measured: 0.6 %, and 1.0 % for the adapters, whose weights and inner results are rounded too.
    expect(relativeError(rounded.gradients, exact.gradients)).toBeLessThan(2e-2);
    expect(relativeError(rounded.gradients, exact.gradients)).toBeGreaterThan(1e-4);
    expect(1 - cosine(rounded.gradients, exact.gradients)).toBeLessThan(2e-4);
  });

  test("learn as float32 ones do: 20 steps on answers that can be learnt", () => {
    const answers: StepRow[] = Array.from({ length: 8 }, (_, q) => [
      {
        ids: Int32Array.from([
          1,
          5 + q,
          40,
          ...Array.from({ length: 6 }, (_, i) => 50 + ((q * 5 + i * 7) % 16)),
        ]),
        weights: Float32Array.of(0, 0, 0, 1, 1, 1, 1, 1, 1),
      },
    ]);
    const curve = (activations: "float32" | "bfloat16"): number[] => {
      const opened = openRandom(config, { setup: { precision: "bf16", activations } });
      const losses = Array.from({ length: 20 }, (_, at) => opened.stepper.run(at, answers, 5e-3).loss);
      opened.close();
      return losses;
    };
    const [exact, rounded] = [curve("float32"), curve("bfloat16")];
    expect(rounded.at(-1)!).toBeLessThan(rounded[0]! / 5);
    // Measured: at most 0.004, of losses that fall from 4.58 to 0.40.
    rounded.forEach((loss, i) => expect(Math.abs(loss - exact[i]!)).toBeLessThan(1e-2));
  });
});
