import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { learningRate } from "../../src/train/schedule.ts";
import { readGolden } from "../support/golden.ts";
import { families, familyDirectory } from "../support/paths.ts";
import { cosine } from "../support/golden.ts";
import { copyWeights, documentsOf, openFamily, type Opened, relativeError } from "./support.ts";

interface AdamW {
  lr: number;
  betas: [number, number];
  eps: number;
  weight_decay: number;
  clip_grad_norm: number;
  losses: number[];
  grad_norms: number[];
}
interface Figures {
  loss: number;
  adamw: AdamW;
  packed: { doc_rows: [number, number][]; loss: number };
  lora_loss: number;
}

/** What PyTorch and transformers computed. */
async function golden(family: string) {
  const golden = await readGolden(family);
  const json = golden.json as unknown as Figures;
  const ids = golden.ids("train.ids");
  return { ...golden, json, trainIds: ids, rows: documentsOf(ids, golden.ids("train.labels")) };
}

describe.each([...families])("%s equals PyTorch", (family) => {
  test("in float32: loss and every gradient", async () => {
    const { json, rows, floats } = await golden(family);
    const opened = await openFamily(family);
    const { loss, gradient } = opened.gradients(rows);
    expect(Math.abs(loss - json.loss)).toBeLessThan(1e-5);
    for (const name of opened.memory.base.layout.parameters.keys()) {
      const error = relativeError(gradient(name), floats(`grad.${name}`).values);
      expect({ name, near: error <= 1e-4, error: error <= 1e-4 ? 0 : error }).toEqual({
        name,
        near: true,
        error: 0,
      });
    }
    opened.close();
  });

  test("in bfloat16 products over float32 weights: the direction and size of every gradient", async () => {
    const { json, rows, floats } = await golden(family);
    const opened = await openFamily(family, { setup: { precision: "mixed" } });
    const { loss, gradient } = opened.gradients(rows);
    expect(Math.abs(loss - json.loss)).toBeLessThan(5e-3);
    expect(farGradients(opened, gradient, (name) => floats(`grad.${name}`).values)).toEqual([]);
    opened.close();
  });

  test("with bfloat16 weights: as float32 on the same weights", async () => {
    const { rows } = await golden(family);
    const rounded = await openFamily(family, { setup: { precision: "bf16", gradients: "bfloat16" } });
    const exact = await openFamily(family);
    copyWeights(exact, rounded);
    const want = exact.gradients(rows);
    const { loss, gradient } = rounded.gradients(rows);
    expect(Math.abs(loss - want.loss)).toBeLessThan(5e-3);
    expect(farGradients(rounded, gradient, want.gradient)).toEqual([]);
    exact.close();
    rounded.close();
  });

  test("with bfloat16 activations: gradients no farther off than PyTorch's own in bfloat16", async () => {
    const { rows } = await golden(family);
    const setup = { precision: "bf16", activations: "bfloat16" } as const;
    const [rounded, exact] = [await openFamily(family, { setup }), await openFamily(family)];
    copyWeights(exact, rounded);
    const want = exact.gradients(rows);
    const { loss, gradient } = rounded.gradients(rows);
    expect(Math.abs(loss - want.loss)).toBeLessThan(1e-2);
    expect(farGradients(rounded, gradient, want.gradient, torchError)).toEqual([]);
    exact.close();
    rounded.close();
  });

  test("with bfloat16 activations over float32 weights, and with an adapter: about as far as autocast's", async () => {
    const { json, rows, floats } = await golden(family);
    const setup = { precision: "mixed", activations: "bfloat16" } as const;
    const opened = await openFamily(family, { setup });
    const { loss, gradient } = opened.gradients(rows);
    expect(Math.abs(loss - json.loss)).toBeLessThan(1e-2);
    expect(farGradients(opened, gradient, (name) => floats(`grad.${name}`).values, autocastError)).toEqual(
      [],
    );
    opened.close();
    const adapted = await openFamily(family, { setup, adapter: join(familyDirectory(family), "lora") });
    const lora = adapted.gradients(rows);
    expect(Math.abs(lora.loss - json.lora_loss)).toBeLessThan(1e-2);
    for (const name of adapted.memory.trained.layout.parameters.keys())
      expect(relativeError(lora.gradient(name), floats(`lora.grad.${name}`).values)).toBeLessThan(
        adapterError,
      );
    adapted.close();
  });

  test("over five steps of AdamW: losses and gradient norms", async () => {
    const { json, rows } = await golden(family);
    const {
      lr,
      betas,
      eps,
      weight_decay: weightDecay,
      clip_grad_norm: clipNorm,
      losses,
      grad_norms: norms,
    } = json.adamw;
    const optimizer = { beta1: betas[0], beta2: betas[1], epsilon: eps, weightDecay, clipNorm };
    const opened = await openFamily(family, { optimizer });
    const schedule = {
      type: "constant",
      learningRate: lr,
      warmupSteps: 0,
      floor: 0,
      decayShare: 0.2,
    } as const;
    const got = norms.map((_, step) => opened.stepper.run(step, rows, learningRate(schedule, step, 5)));
    got.forEach(({ loss, gradientNorm }, step) => {
      expect(Math.abs(loss - (losses[step] as number))).toBeLessThan(1e-4);
      expect(Math.abs(gradientNorm / (norms[step] as number) - 1)).toBeLessThan(1e-3);
    });
    expect(Math.abs(opened.gradients(rows).loss - (losses.at(-1) as number))).toBeLessThan(1e-4);
    opened.close();
  });

  test("for two documents packed in one row", async () => {
    const { json, trainIds } = await golden(family);
    const packed = json.packed.doc_rows.map(([row, length]) => (trainIds[row] as number[]).slice(0, length));
    const opened = await openFamily(family);
    const { loss } = opened.gradients([documentsOf(packed).flat()]);
    expect(Math.abs(loss - json.packed.loss)).toBeLessThan(1e-5);
    opened.close();
  });

  test("with PEFT's LoRA adapter: logits, loss and gradients", async () => {
    const { json, rows, floats, ids } = await golden(family);
    const opened = await openFamily(family, { adapter: join(familyDirectory(family), "lora") });
    const { loss, gradient } = opened.gradients(rows);
    expect(Math.abs(loss - json.lora_loss)).toBeLessThan(1e-5);
    for (const name of opened.memory.trained.layout.parameters.keys()) {
      const error = relativeError(gradient(name), floats(`lora.grad.${name}`).values);
      expect(error).toBeLessThanOrEqual(1e-4);
    }
    // Log-probabilities of the next tokens stand for the logits: each sums over the whole vocabulary.
    const inputs = ids("inputs.ids");
    const sums = inputs.map((row) => opened.stepper.score(documentsOf([row])[0]!)[0] as number);
    sums.forEach((sum, b) => expect(sum).toBeCloseTo(sumOfLogprobs(floats("lora.logits"), inputs[b]!, b), 3));
    opened.close();
  });
});

/** The largest relative error of a parameter's gradient that torch 2.13 and transformers 5.18 make on these checkpoints and
 *  rows (biases of keys aside: 7.1 %): the model in bfloat16 throughout beside float32 on the same weights, 3.0 % to 4.1 % by
 *  family, 2.0 % to 3.0 % in the mean (ours: 1.9 % to 3.4 %, and 1.4 % to 2.5 %). */
const torchError = 4.2e-2;
/** Autocast on float32 weights, whose residual stream and norms stay in float32, errs by 3.4 % to 4.3 % (ours, which rounds
 *  them: 2.8 % to 4.4 %). */
const autocastError = 5e-2;
/** Of adapters: PyTorch's 3.6 % to 4.1 % in autocast and 3.8 % to 5.0 % in bfloat16 throughout; ours 3.4 % to 5.9 %. */
const adapterError = 8e-2;

/** Parameters whose gradients differ by more than bfloat16 explains. A key bias adds nearly the same to all scores of a
 *  query, so its gradient is what is left of terms that cancel: it gets twice the room. */
function farGradients(
  { memory }: Opened,
  got: (name: string) => ArrayLike<number>,
  want: (name: string) => ArrayLike<number>,
  most = 3e-2,
) {
  return [...memory.base.layout.parameters.keys()].flatMap((name) => {
    const room = name.endsWith("k_proj.bias") ? 2 : 1;
    const [near, error] = [cosine(got(name), want(name)), relativeError(got(name), want(name))];
    // Of two vectors of one length, 1 - cosine is half the square of their distance.
    return 1 - near <= Math.max(1e-3, most ** 2 / 2) * room && error <= most * room
      ? []
      : [{ name, near, error }];
  });
}

/** sum over i >= 1 of log softmax(logits[b, i - 1])[ids[i]] */
function sumOfLogprobs(
  logits: { shape: readonly number[]; values: Float32Array },
  ids: number[],
  b: number,
): number {
  const [, T = 0, V = 0] = logits.shape;
  let sum = 0;
  for (let i = 1; i < ids.length; i++) {
    const row = Float64Array.from(logits.values.subarray((b * T + i - 1) * V, (b * T + i) * V));
    const largest = row.reduce((a, c) => Math.max(a, c));
    sum +=
      (row[ids[i] as number] as number) -
      largest -
      Math.log(row.reduce((a, c) => a + Math.exp(c - largest), 0));
  }
  return sum;
}
