import { describe, expect, test } from "bun:test";
import type { Rung } from "../../src/train/activations.ts";
import { stateSlices, type FlatState, parameterView } from "../../src/train/flat_state.ts";
import type { StepRow } from "../../src/train/loss.ts";
import { WeightWriter } from "../../src/train/parameters.ts";
import { bfloat16ToFloat32 } from "../../src/tensor/convert.ts";
import { config, document, random, rows } from "./small_model.ts";
import { device, type Opened, openRandom, type OpenOptions, ops, relativeError } from "./support.ts";

/** bfloat16 comes as bits. */
const numbers = (values: ReturnType<typeof device.download>) =>
  values instanceof Uint16Array ? bfloat16ToFloat32(values) : values;

/** All trained weights or gradients end to end, without padding. */
const flatten = (state: FlatState, kind: "w" | "gradient"): Float64Array =>
  Float64Array.from(
    state.blocks.flatMap((block) =>
      block.layout.parameters.flatMap((parameter) =>
        Array.from(
          numbers(
            device.download(
              parameterView((kind === "gradient" && block.accumulated) || block[kind]!, parameter),
            ),
          ),
        ),
      ),
    ),
  );
const allGradients = (state: FlatState): Float64Array => flatten(state, "gradient");

const open = (options: OpenOptions = {}): Opened => openRandom(config, options);

/** Answers with labels, each followed by another answer; reference scores near those of fresh weights. */
const labelledRows = (shift = 0): StepRow[] => {
  const entry = (length: number, seed: number, label?: boolean) => {
    const made = document(length, seed);
    const trained = made.weights.slice(1).reduce((sum, weight) => sum + weight, 0);
    const reference = -trained * Math.log(config.vocabularySize) + shift + (seed % 3);
    return { ...made, reference, ...(label === undefined ? {} : { label }) };
  };
  return [
    [entry(11, 31, true), entry(13, 32), entry(9, 33, false), entry(8, 34)],
    [entry(14, 35, false), entry(10, 36)],
    [entry(7, 37, true), entry(12, 38)],
  ];
};

/** Loss and gradients of one step, which does not move the weights. */
function step(options: OpenOptions, of: StepRow[] = rows) {
  const opened = open(options);
  const { loss } = opened.stepper.run(0, of, 0);
  const gradients = allGradients(opened.memory.trained);
  opened.close();
  return { loss, gradients };
}

/** Weights, moments and low halves as bytes. */
const stateBits = (state: FlatState): string =>
  [...stateSlices(state)]
    .map(
      ({ kind, name, tensor }) =>
        `${kind} ${name} ${Bun.hash(new Uint8Array(device.download(tensor).buffer))}`,
    )
    .join("\n");

const f64 = { precision: "float64" } as const;
const half = { residualDropout: 0.2, embeddingDropout: 0.1, attentionDropout: 0.1 };
const forget = { min: 0, max: 0.3 };

describe("the same loss and gradients come from", () => {
  test("documents packed in rows and documents apart", () => {
    const packed = step({ setup: f64 });
    const apart = step(
      { setup: f64 },
      rows.flat().map((one) => [one]),
    );
    expect(Math.abs(packed.loss - apart.loss)).toBeLessThan(1e-12);
    expect(relativeError(apart.gradients, packed.gradients)).toBeLessThan(1e-12);
  });

  test("one micro-batch of four rows and four of one, with dropout and forgetful causal masking too", () => {
    const apart = rows.flat().map((one) => [one]);
    for (const [setup, options] of [
      [f64, {}],
      [{ ...f64, ...half }, { forget }],
    ] as const) {
      const whole = step({ setup, step: options });
      for (const parts of [
        step({ setup, step: { ...options, microRows: 1 } }),
        step({ setup, step: { ...options, microRows: 3 } }),
        step({ setup, step: { ...options, microRows: 2 } }, apart),
      ]) {
        expect(Math.abs(whole.loss - parts.loss)).toBeLessThan(1e-12);
        expect(relativeError(parts.gradients, whole.gradients)).toBeLessThan(1e-12);
      }
    }
    for (const setup of [
      { ...f64, ...half },
      { ...f64, attentionDropout: 0.1 },
    ])
      expect(relativeError(step({ setup }).gradients, step({ setup: f64 }).gradients)).toBeGreaterThan(0.05);
    const forgetting = step({ setup: f64, step: { forget } });
    expect(relativeError(forgetting.gradients, step({ setup: f64 }).gradients)).toBeGreaterThan(0.02);
  });

  test("one micro-batch and four, for KTO, whose reference point is the step's", () => {
    const method = { type: "kto", beta: 0.3, desirableWeight: 1, undesirableWeight: 0.7 } as const;
    const labelled = labelledRows();
    const options = { method, forget };
    const whole = step({ setup: { ...f64, ...half }, step: options }, labelled);
    const parts = step({ setup: { ...f64, ...half }, step: { ...options, microRows: 1 } }, labelled);
    expect(Math.abs(whole.loss - parts.loss)).toBeLessThan(1e-12);
    expect(relativeError(parts.gradients, whole.gradients)).toBeLessThan(1e-12);
  });

  test("micro-batches of unequal weight, which a mean of means would get wrong", () => {
    const reduction = { method: { type: "sft", reduction: "row" } } as const;
    const [token, row] = [step({ setup: f64 }), step({ setup: f64, step: reduction })];
    expect(relativeError(row.gradients, token.gradients)).toBeGreaterThan(0.05);
    // EasyLM's loss: the mean over rows of each row's mean.
    const means = rows.map((one) => step({ setup: f64 }, [one]).loss);
    expect(row.loss).toBeCloseTo(means.reduce((a, b) => a + b) / rows.length, 12);
  });

  test("every rung of recomputation, bit for bit", () => {
    for (const precision of ["float32", "bf16"] as const) {
      const gradients = precision === "bf16" ? "bfloat16" : "float32";
      const setup = { precision, gradients, ...half } as const;
      const kept = step({ setup });
      for (const rung of ["norm+swiglu", "ffn", "block"] as const) {
        const again = step({ setup: { ...setup, rungs: [rung, rung] } });
        expect(again).toEqual(kept);
      }
      const mixed: Rung[] = ["block", "ffn"];
      expect(step({ setup: { ...setup, rungs: mixed } })).toEqual(kept);
    }
  });

  test("gradients summed in float32 and in bfloat16, to a rounding a micro-batch", () => {
    for (const [microRows, room] of [
      [4, 2.5e-3],
      [1, 5e-3],
    ] as const) {
      const setup = { precision: "bf16" } as const;
      const exact = step({ setup, step: { microRows } });
      const rounded = step({ setup: { ...setup, gradients: "bfloat16" }, step: { microRows } });
      expect(rounded.loss).toBe(exact.loss);
      expect(relativeError(rounded.gradients, exact.gradients)).toBeLessThan(room);
      expect(relativeError(rounded.gradients, exact.gradients)).toBeGreaterThan(0);
    }
  });

  test("a head in chunks and a whole head", () => {
    const whole = step({});
    const chunked = step({ setup: { chunkRows: 5 } });
    expect(Math.abs(chunked.loss - whole.loss)).toBeLessThan(1e-6);
    expect(relativeError(chunked.gradients, whole.gradients)).toBeLessThan(1e-6);
  });

  test("two runs, bit for bit; another seed drops other elements", () => {
    const options = { setup: half, step: { forget } };
    expect(step(options)).toEqual(step(options));
    const other = step({ ...options, step: { ...options.step, seed: 2 } });
    expect(relativeError(other.gradients, step(options).gradients)).toBeGreaterThan(0.05);
  });
});

describe("gradients equal central differences in float64", () => {
  const lora = {
    rank: 3,
    alpha: 6,
    dropout: 0.25,
    targets: ["q_proj", "v_proj", "up_proj", "down_proj", "o_proj"],
    rsLora: true,
  };
  const cases: [string, OpenOptions][] = [
    ["of the whole model", { setup: f64 }],
    ["with dropout", { setup: { ...f64, ...half } }],
    ["with dropout of attention's weights", { setup: { ...f64, attentionDropout: 0.3 } }],
    ["with forgetful causal masking", { setup: f64, step: { forget: { min: 0.1, max: 0.4 } } }],
    ["of LoRA adapters with dropout", { setup: { ...f64, lora } }],
    ["of DPO", { setup: f64, step: { method: { type: "dpo", beta: 0.5 } } }],
  ];
  test.each(cases)("%s, along random directions", (_, options) => {
    const pairs: StepRow[] = [
      [
        { ...document(11, 21), reference: -30 },
        { ...document(14, 22), reference: -31 },
      ],
      [
        { ...document(8, 23), reference: -20 },
        { ...document(9, 24), reference: -25 },
      ],
    ];
    const of = options.step?.method?.type === "dpo" ? pairs : rows;
    const opened = open(options);
    const { memory, stepper } = opened;
    if (memory.adapters) randomise(memory.adapters);
    stepper.run(0, of, 0);
    const gradients = allGradients(memory.trained);
    const direction = Float64Array.from(random(gradients.length, 77), (u) => u - 0.5);
    const slope = gradients.reduce((sum, g, i) => sum + g * direction[i]!, 0);
    const start = allWeights(memory.trained);
    const lossAt = (distance: number) => {
      setWeights(
        memory.trained,
        start.map((w, i) => w + distance * direction[i]!),
      );
      return stepper.run(0, of, 0).loss;
    };
    const measured = (lossAt(1e-5) - lossAt(-1e-5)) / 2e-5;
    expect(Math.abs(measured / slope - 1)).toBeLessThan(1e-5);
    opened.close();
  });

  test.each([
    ["above 0", -4],
    ["at 0", 4],
  ])("of KTO with the reference point %s, which is a constant of the formula", (_, shift) => {
    const method = { type: "kto", beta: 0.4, desirableWeight: 1.3, undesirableWeight: 0.8 } as const;
    const opened = open({ setup: f64, step: { method } });
    const { memory, stepper } = opened;
    const all = labelledRows(shift);
    const documents = all.flat();
    const ratios = () => documents.map((one) => stepper.score([one])[0]! - one.reference!);
    const mismatched = ratios().filter((_, i) => i % 2 === 1);
    const kl = Math.max(0, mismatched.reduce((a, b) => a + b) / mismatched.length);
    /** Ethayarajh et al. 2024, equation 7, with TRL's mean over answers. */
    const formula = () => {
      const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
      const losses = ratios().flatMap((ratio, i) => {
        const { label } = documents[i]!;
        if (label === undefined) return [];
        return [label ? 1.3 * (1 - sigmoid(0.4 * (ratio - kl))) : 0.8 * (1 - sigmoid(0.4 * (kl - ratio)))];
      });
      return losses.reduce((a, b) => a + b) / losses.length;
    };
    const result = stepper.run(0, all, 0);
    expect(result.kl).toBeCloseTo(kl, 12);
    expect(kl > 0).toBe(shift < 0);
    expect(result.loss).toBeCloseTo(formula(), 12);
    const gradients = allGradients(memory.trained);
    const direction = Float64Array.from(random(gradients.length, 77), (u) => u - 0.5);
    const slope = gradients.reduce((sum, g, i) => sum + g * direction[i]!, 0);
    const start = allWeights(memory.trained);
    const lossAt = (distance: number) => {
      setWeights(
        memory.trained,
        start.map((w, i) => w + distance * direction[i]!),
      );
      return formula();
    };
    const measured = (lossAt(1e-5) - lossAt(-1e-5)) / 2e-5;
    expect(Math.abs(measured / slope - 1)).toBeLessThan(1e-5);
    opened.close();
  });

  const allWeights = (state: FlatState): Float64Array => flatten(state, "w");
  function setWeights(state: FlatState, values: Float64Array): void {
    let at = 0;
    for (const block of state.blocks)
      for (const parameter of block.layout.parameters) {
        device.upload(parameterView(block.w, parameter), values.slice(at, at + parameter.size));
        at += parameter.size;
      }
  }
  function randomise(state: FlatState): void {
    const writer = new WeightWriter(ops, state);
    let seed = 500;
    for (const block of state.blocks)
      for (const parameter of block.layout.parameters)
        writer.writeArray(
          block,
          parameter,
          Float32Array.from(random(parameter.size, seed++), (u) => u - 0.5),
        );
    writer.close();
  }
});

describe("a run that was interrupted", () => {
  test("and got its state back goes on with the same bits", () => {
    for (const precision of ["float32", "bf16"] as const) {
      const gradients = precision === "bf16" ? ("bfloat16" as const) : ("float32" as const);
      const options = { setup: { precision, gradients, ...half }, optimizer: { weightDecay: 0.1 } };
      const straight = open(options);
      const losses = [0, 1, 2, 3].map((step) => straight.stepper.run(step, rows, 1e-2).loss);
      const first = open(options);
      for (const step of [0, 1]) first.stepper.run(step, rows, 1e-2);
      const second = open(options);
      const [from, to] = [[...stateSlices(first.memory.trained)], [...stateSlices(second.memory.trained)]];
      from.forEach(({ tensor }, i) => device.copy(to[i]!.tensor.data, tensor.data, tensor.bytes));
      second.optimizer.updates = first.optimizer.updates;
      const later = [2, 3].map((step) => second.stepper.run(step, rows, 1e-2).loss);
      expect(later).toEqual(losses.slice(2));
      expect(stateBits(second.memory.trained)).toBe(stateBits(straight.memory.trained));
      for (const opened of [straight, first, second]) opened.close();
    }
  });
});

describe("a step", () => {
  test("whose gradient is not finite changes nothing and says so", () => {
    const opened = open();
    opened.stepper.run(0, rows, 1e-3);
    const before = stateBits(opened.memory.trained);
    const exploding = rows.map((row) =>
      row.map((one) => ({ ...one, weights: one.weights.map(() => Infinity) })),
    );
    const result = opened.stepper.run(1, exploding, 1e-3);
    expect(result.skipped).toBe(true);
    expect(stateBits(opened.memory.trained)).toBe(before);
    expect(opened.stepper.run(1, rows, 1e-3).skipped).toBe(false);
    expect(opened.optimizer.updates).toBe(2);
    opened.close();
  });

  test("in bfloat16 moves the float32 master by less than a bfloat16 step", () => {
    const opened = open({ setup: { precision: "bf16" } });
    const low = () => new Uint16Array(device.download(opened.memory.base.blocks[1]!.low!) as Uint16Array);
    const before = low();
    for (let step = 0; step < 3; step++) opened.stepper.run(step, rows, 1e-6);
    const moved = low().filter((bits, i) => bits !== before[i]).length;
    expect(moved).toBeGreaterThan(
      0.5 * opened.memory.base.layout.blocks[1]!.parameters.reduce((sum, { size }) => sum + size, 0),
    );
    opened.close();
  });
});
