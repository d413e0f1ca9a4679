/** Loss, dropout, conversions and sums against float64 formulas, and equal bits on any number of threads. */
import { afterAll, describe, expect, test } from "bun:test";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { uniform } from "../../src/util/rng.ts";
import { logSoftmax } from "./formulas.ts";
import {
  availableIsas,
  check,
  cpuOnly,
  decode,
  encode,
  native,
  onGpu,
  ptr,
  Random,
  Target,
  zeros,
  type Elements,
  type FloatType,
} from "./target.ts";
const code = (type: FloatType) => dtypeCode[type];
const bits = (values: NodeJS.TypedArray) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
function largest(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return Array.from(expected, (want, i) => Math.abs(actual[i]! - want)).reduce((a, b) => Math.max(a, b), 0);
}

for (const isa of availableIsas()) {
  describe(`training ops on ${isa}`, () => {
    const [one, three] = [1, 3].map((threads) => Target.open({ isa, threads })) as [Target, Target];
    afterAll(() => [one, three].forEach((target) => target.close()));

    for (const [dtype, tolerance] of [
      ["f64", 1e-12],
      ["f32", 1e-5],
      ["bf16", 1e-5],
    ] as const)
      test(`cross-entropy of ${dtype} gives log-probabilities and log sum exp, and 0 where there is no target`, () => {
        const [R, V] = [13, 1003];
        const random = new Random(4);
        const logits = encode(random.normals(R * V, 5), dtype);
        const targets = Array.from({ length: R }, (_, r) => (r % 5 === 3 ? -1 : random.below(V)));
        const type = dtype === "f64" ? "f64" : "f32";
        const [logprobs, lse] = [zeros(R, type), zeros(R, type)];
        check(
          native.koala_cross_entropy(
            one.device,
            ptr(logprobs),
            ptr(lse),
            ptr(logits),
            one.i32(targets),
            R,
            V,
            code(dtype),
          ),
        );
        const want = logSoftmax(decode(logits, dtype), targets, R, V);
        expect(largest(decode(logprobs, type), want.logprobs)).toBeLessThan(tolerance);
        expect(largest(decode(lse, type), want.lse)).toBeLessThan(tolerance);
        expect(decode(logprobs, type)[3]).toBe(0);
      });

    test("cross-entropy of a NaN or infinite logit is NaN in its row only", () => {
      const logits = Float32Array.from({ length: 3 * 50 }, (_, i) =>
        i === 57 ? Number.NaN : i === 107 ? Infinity : i % 7,
      );
      const [logprobs, lse] = [new Float32Array(3), new Float32Array(3)];
      check(
        native.koala_cross_entropy(
          one.device,
          ptr(logprobs),
          ptr(lse),
          ptr(logits),
          one.i32([1, 1, 1]),
          3,
          50,
          code("f32"),
        ),
      );
      expect(Array.from(logprobs, Number.isNaN)).toEqual([false, true, true]);
    });

    test("dropout keeps its share, scales it, and depends on seed and place alone", () => {
      const n = 300_007;
      const drop = (
        target: Target,
        offset: number,
        length: number,
        seed: number,
        p = 0.3,
        dtype: FloatType = "f32",
      ) => {
        const [x, y] = [encode(new Float64Array(length).fill(1), dtype), zeros(length, dtype)];
        check(native.koala_dropout(target.device, ptr(y), ptr(x), offset, length, seed, p, code(dtype)));
        return y;
      };
      const y = drop(one, 0, n, 11) as Float32Array;
      const kept = y.reduce((count, v) => count + (v !== 0 ? 1 : 0), 0);
      const p = Math.fround(0.3);
      expect(Math.abs(kept / n - (1 - p))).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / n));
      expect(new Set(y)).toEqual(new Set([0, Math.fround(1 / (1 - p))]));
      expect(bits(drop(three, 0, n, 11))).toBe(bits(y));
      expect(bits(drop(one, 1234, 5000, 11))).toBe(bits(y.slice(1234, 6234)));
      expect(bits(drop(one, 0, 5000, 12))).not.toBe(bits(y.slice(0, 5000)));
      expect(Array.from(drop(one, 0, 5000, 11, 0.3, "f64"), (v) => v !== 0)).toEqual(
        Array.from(y.slice(0, 5000), (v) => v !== 0),
      );
      expect(new Set(drop(one, 0, 5000, 11, 0))).toEqual(new Set([1]));
      // Neighbours are dropped independently.
      let both = 0;
      for (let i = 0; i + 1 < n; i++) if (y[i] === 0 && y[i + 1] === 0) both++;
      expect(Math.abs(both / n - p * p)).toBeLessThan(5 * Math.sqrt((p * p) / n));
      // Places beyond 2^32 go on where those below end, and are no copy of the first ones.
      const far = drop(one, 2 ** 32 - 500, 5000, 11);
      expect(bits(drop(one, 2 ** 32, 4500, 11))).toBe(bits(far.slice(500)));
      expect(bits(far.slice(500))).not.toBe(bits(y.slice(0, 4500)));
    });

    test("sums of squares have the same bits on any threads, and show what is not finite", () => {
      const n = 300_003;
      const x = encode(new Random(8).normals(n), "f32") as Float32Array;
      const sum = (target: Target, values: Elements, dtype: FloatType) => {
        const out = new Float64Array(1);
        check(native.koala_sum_squares(target.device, ptr(out), ptr(values), values.length, code(dtype)));
        return out[0]!;
      };
      const want = x.reduce((acc, v) => acc + v * v, 0);
      expect(Math.abs(sum(one, x, "f32") / want - 1)).toBeLessThan(1e-12);
      expect(sum(three, x, "f32")).toBe(sum(one, x, "f32"));
      for (const dtype of ["f64", "bf16"] as const)
        expect(
          Math.abs(
            sum(one, encode(x, dtype), dtype) /
              decode(encode(x, dtype), dtype).reduce((acc, v) => acc + v * v, 0) -
              1,
          ),
        ).toBeLessThan(1e-12);
      for (const odd of [Number.NaN, Infinity]) {
        const broken = x.slice();
        broken[n - 2] = odd;
        expect(Number.isFinite(sum(three, broken, "f32"))).toBe(false);
      }
      const none = Float64Array.of(5);
      check(native.koala_sum_squares(one.device, ptr(none), ptr(x), 0, code("f32")));
      expect(none[0]).toBe(0);
    });

    test("conversions round to nearest even and axpby does not read what it replaces", () => {
      const values = [...new Random(6).normals(1000), 0, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -3.5];
      for (const from of ["f32", "f64", "bf16", "f16"] as const)
        for (const to of ["f32", "f64", "bf16"] as const) {
          const x = encode(values, from);
          const y = zeros(x.length, to);
          check(native.koala_cast(one.device, ptr(y), ptr(x), x.length, code(to), code(from)));
          expect(bits(y)).toBe(bits(encode(decode(x, from), to)));
        }
      const [x, y] = [encode([1, 2, 3], "f32"), Float32Array.of(Number.NaN, Infinity, 1)];
      check(native.koala_axpby(one.device, ptr(y), ptr(x), 3, 2, 0, code("f32")));
      expect(Array.from(y)).toEqual([2, 4, 6]);
      check(native.koala_axpby(one.device, ptr(y), ptr(x), 3, -1, 0.5, code("f32")));
      expect(Array.from(y)).toEqual([0, 0, 0]);
    });

    test("running sums add in float32 and round a bfloat16 sum to nearest even", () => {
      const n = 70_001;
      const x = encode(new Random(3).normals(n), "f32");
      for (const type of ["f32", "bf16"] as const) {
        const sum = encode(new Random(4).normals(n, 30), type);
        const want = Float32Array.from(decode(sum, type), (v, i) => v + (x[i] as number));
        check(native.koala_accumulate(three.device, ptr(sum), ptr(x), n, code(type)));
        expect(bits(sum)).toBe(bits(encode(want, type)));
      }
    });

    test("fresh weights are Box and Muller's pairs of the program's own draws", () => {
      const [n, seed, std] = [40_001, 2 ** 32 - 5, 0.02];
      const y = new Float32Array(n);
      check(native.koala_fill_normal(three.device, ptr(y), 1000, 0, seed, std));
      check(native.koala_fill_normal(three.device, ptr(y.subarray(1000)), n - 1000, 1000, seed, std));
      const want = Float32Array.from(y, (_, i) => {
        const pair = i - (i % 2);
        const radius = std * Math.sqrt(-2 * Math.log(1 - uniform(seed, pair)));
        return radius * Math[i % 2 ? "sin" : "cos"](2 * Math.PI * uniform(seed, pair + 1));
      });
      expect(bits(y)).toBe(bits(want));
    });

    test("gradients have the same bits on one thread and on three", () => {
      const [T, N, K, D, V] = [1100, 130, 200, 200, 50];
      const random = new Random(10);
      const [dy, x, weight] = [random.normals(T * N), random.normals(T * K), random.normals(D)].map((v) =>
        encode(v, "f32"),
      ) as [Elements, Elements, Elements];
      const tokens = one.i32(Array.from({ length: T }, () => random.below(V)));
      const order = one.i32(Array.from({ length: T }, (_, t) => T - 1 - t));
      const run = (target: Target) => {
        const [dw, dw16, db, dtable, dx, dnorm] = [N * K, N * K, N, V * D, T * D, D].map((n) =>
          new Float32Array(n).fill(0.5),
        );
        const at = (array?: Float32Array) => ptr(array!);
        for (const [out, type] of [
          [dw, "f32"],
          [dw16, "bf16"],
        ] as const)
          check(
            native.koala_matmul_weight_gradient(
              target.device,
              at(out),
              ptr(dy),
              ptr(x),
              T,
              N,
              K,
              code(type),
              code("f32"),
            ),
          );
        check(native.koala_bias_gradient(target.device, at(db), ptr(dy), T, N, code("f32")));
        check(
          native.koala_embed_backward(target.device, at(dtable), ptr(x), tokens, order, T, D, V, code("f32")),
        );
        check(
          native.koala_rms_norm_backward(
            target.device,
            at(dx),
            at(dnorm),
            ptr(x),
            ptr(x),
            ptr(weight),
            T,
            D,
            1e-5,
            1,
            code("f32"),
          ),
        );
        return [dw, dw16, db, dtable, dx, dnorm];
      };
      const [alone, shared] = [run(one), run(three)];
      alone.forEach((values, i) => expect(bits(shared[i]!)).toBe(bits(values!)));
      // Large enough for blocks of tokens: the sums are those of the formula.
      const [a, b] = [decode(dy, "f32"), decode(x, "f32")];
      const expected = new Float64Array(N * K).fill(0.5);
      for (let t = 0; t < T; t++)
        for (let n = 0; n < N; n++)
          for (let k = 0; k < K; k++) expected[n * K + k]! += a[t * N + n]! * b[t * K + k]!;
      expect(largest(alone[0]!, expected)).toBeLessThan(2e-4);
      expect(largest(alone[1]!, expected)).toBeLessThan(1);
    });
  });
}

test("sums of squares have the same bits on every instruction set", () => {
  const x = encode(new Random(12).normals(200_001), "f32");
  const sums = availableIsas().map((isa) => {
    const target = Target.open({ isa, threads: 2 });
    const out = new Float64Array(1);
    check(native.koala_sum_squares(target.device, ptr(out), ptr(x), x.length, dtypeCode.f32));
    target.close();
    return out[0];
  });
  expect(new Set(sums).size).toBe(1);
});

describe("wrong arguments give a sentence and -1:", () => {
  const target = Target.open({ threads: 1 });
  afterAll(() => target.close());
  const x = target.at(new Float32Array(64));
  const i = (...values: number[]) => target.i32(values);
  const dev = target.device;
  const adam = (step: number, precision: number, low: typeof x | null, dtype: number = dtypeCode.f32) =>
    native.koala_adamw(
      dev,
      x,
      low,
      x,
      x,
      x,
      4,
      target.at(Float64Array.of(1, 0.9, 0.9, 1, 0, 1, step, 0)),
      0,
      precision,
      dtype,
    );
  const attend = (starts: number[], forget: number | null, H = 2, drop = 0) =>
    native.koala_document_attention(
      dev,
      x,
      x,
      x,
      i(...starts),
      forget === null ? null : target.at(Float32Array.of(forget)),
      1,
      H,
      2,
      4,
      0,
      0,
      0,
      0,
      drop,
      1,
      dtypeCode.f32,
    );
  const wrong: Record<string, [() => number, RegExp]> = {
    "step 0": [() => adam(0, 0, null), /the step is 0; steps count from 1\./],
    "precision 1 without low halves": [() => adam(1, 1, null), /low is a null pointer/],
    "precision 1 in f64": [
      () => adam(1, 1, x, dtypeCode.f64),
      /dtype is 2 \(f64\); precision 1 takes f32 and bf16 gradients\./,
    ],
    "precision 2": [() => adam(1, 2, x), /precision is 2/],
    "a target outside the vocabulary": [
      () => native.koala_cross_entropy(dev, x, x, x, i(5), 1, 5, dtypeCode.f32),
      /target 5 of row 0 is outside the vocabulary of 5\./,
    ],
    "a target of -2": [
      () => native.koala_cross_entropy_backward(dev, x, x, x, i(-2), 1, 5, dtypeCode.f32),
      /target -2 of row 0/,
    ],
    "descending documents": [() => attend([3, 1], null), /document 0 runs from 3 to 1\./],
    "forgetting twice as much as all": [
      () => attend([0, 1], 2),
      /forget is 2 for document 0 and must be from 0 to 1\./,
    ],
    "dropping all weights of attention": [
      () => attend([0, 1], null, 2, 1),
      /drop is 1 and must be from 0 to below 1\./,
    ],
    "a sum in f64": [
      () => native.koala_accumulate(dev, x, x, 4, dtypeCode.f64),
      /stype is 2 \(f64\); sums are f32 or bf16\./,
    ],
    "fresh weights of a negative size": [
      () => native.koala_fill_normal(dev, x, 4, 0, 1, -1),
      /std is -1 and must not be negative\./,
    ],
    "heads that cannot be grouped": [
      () => attend([0, 1], null, 3),
      /3 query heads cannot share 2 key\/value heads evenly\./,
    ],
    "dropping everything": [
      () => native.koala_dropout(dev, x, x, 0, 4, 0, 1, dtypeCode.f32),
      /the probability is 1 and must be from 0 to below 1\./,
    ],
    "half an element": [
      () => native.koala_axpby(dev, x, x, 0.5, 1, 1, dtypeCode.f32),
      /n is 0\.5 and must be a count\./,
    ],
    "a cast to f16": [
      () => native.koala_cast(dev, x, x, 4, dtypeCode.f16, dtypeCode.f32),
      /to_type is 3 \(f16\)/,
    ],
    "products in f64 of f32": [
      () => native.koala_matmul_weight_gradient(dev, x, x, x, 1, 4, 4, dtypeCode.f64, dtypeCode.f32),
      /products in f64 need f64 activations, and these are f32\./,
    ],
    "an order outside the rows": [
      () => native.koala_embed_backward(dev, x, x, i(0), i(1), 1, 4, 4, dtypeCode.f32),
      /order\[0\] is 1, outside the 1 rows\./,
    ],
  };
  // What lies in arrays only kernels see.
  const unseen = (name: string) =>
    onGpu && ["descending documents", "forgetting twice as much as all"].includes(name);
  for (const [name, [call, sentence]] of Object.entries(wrong))
    test.skipIf(unseen(name))(`${name}${unseen(name) ? cpuOnly : ""}`, () => {
      expect(call()).toBe(-1);
      expect(String(native.koala_last_error())).toMatch(sentence);
    });
});
