/** AdamW against the float64 formula; masters split and joined without loss; moments rounded without bias. */
import { afterAll, describe, expect, test } from "bun:test";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import {
  availableIsas,
  check,
  decode,
  encode,
  native,
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
const HYPER = { lr: 1e-2, b1: 0.9, b2: 0.95, eps: 1e-8, decay: 0.1, scale: 0.5 };

/** Loshchilov and Hutter's algorithm 2, in float64. */
function adamwFormula(
  w: Float64Array,
  m: Float64Array,
  v: Float64Array,
  gradient: Float64Array,
  step: number,
): void {
  const { lr, b1, b2, eps, decay, scale } = HYPER;
  for (let i = 0; i < w.length; i++) {
    const g = gradient[i]! * scale;
    m[i] = b1 * m[i]! + (1 - b1) * g;
    v[i] = b2 * v[i]! + (1 - b2) * g * g;
    w[i]! -= lr * (m[i]! / (1 - b1 ** step) / (Math.sqrt(v[i]! / (1 - b2 ** step)) + eps) + decay * w[i]!);
  }
}

interface State {
  w: Elements;
  low: Uint16Array | null;
  m: Elements;
  v: Elements;
}

function adamw(
  target: Target,
  { w, low, m, v }: State,
  g: Elements,
  step: number,
  { seed = 1, index = 0, dtype = "f32" as FloatType } = {},
): void {
  const { lr, b1, b2, eps, decay, scale } = HYPER;
  const scalars = Float64Array.of(lr, b1, b2, eps, decay, scale, step, seed);
  check(
    native.koala_adamw(
      target.device,
      ptr(w),
      low && ptr(low),
      ptr(m),
      ptr(v),
      ptr(g),
      g.length,
      ptr(scalars),
      index,
      low ? 1 : 0,
      code(dtype),
    ),
  );
}

function split(target: Target, master: Float32Array): { w: Uint16Array; low: Uint16Array } {
  const [w, low] = [new Uint16Array(master.length), new Uint16Array(master.length)];
  check(native.koala_master_split(target.device, ptr(w), ptr(low), ptr(master), master.length));
  return { w, low };
}

function joined(target: Target, w: Elements, low: Uint16Array): Float32Array {
  const master = new Float32Array(w.length);
  check(native.koala_master_join(target.device, ptr(master), ptr(w), ptr(low), w.length));
  return master;
}

function largest(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return Array.from(expected, (want, i) => Math.abs(actual[i]! - want)).reduce((a, b) => Math.max(a, b), 0);
}

for (const isa of availableIsas()) {
  describe(`the optimizer on ${isa}`, () => {
    const [one, three] = [1, 3].map((threads) => Target.open({ isa, threads })) as [Target, Target];
    afterAll(() => [one, three].forEach((target) => target.close()));

    for (const [dtype, tolerance] of [
      ["f64", 1e-13],
      ["f32", 2e-6],
    ] as const)
      test(`twenty AdamW steps of ${dtype} are those of the float64 formula`, () => {
        const n = 1003;
        const random = new Random(5);
        const start = decode(encode(random.normals(n), "f32"), "f32");
        const state = { w: encode(start, dtype), low: null, m: zeros(n, dtype), v: zeros(n, dtype) };
        const [w, m, v] = [start.slice(), new Float64Array(n), new Float64Array(n)];
        for (let step = 1; step <= 20; step++) {
          const g = decode(encode(random.normals(n), "f32"), "f32");
          adamw(one, state, encode(g, dtype), step, { dtype });
          adamwFormula(w, m, v, g, step);
        }
        expect(largest(decode(state.w, dtype), w)).toBeLessThan(tolerance);
        expect(largest(w, start)).toBeGreaterThan(0.02);
      });

    test("masters are split and joined bit for bit, and w is the master rounded half up", () => {
      const random = new Random(9);
      const special = [
        0,
        -0,
        1,
        -1,
        1 + 2 ** -8,
        1 + 2 ** -8 + 2 ** -23,
        -1 - 2 ** -8,
        1e-45,
        3.3e38,
        Infinity,
        -Infinity,
        2 ** -126,
        1.9999999,
      ];
      const master = Float32Array.from([...special, ...random.normals(50_000, 0.02)]);
      const { w, low } = split(three, master);
      expect(bits(joined(three, w, low))).toBe(bits(master));
      const words = new Uint32Array(master.buffer);
      expect(Array.from(w)).toEqual(Array.from(words, (word) => ((word + 0x8000) >>> 16) & 0xffff));
    });

    test("with equal moments the split master takes every step of a float32 master, bit for bit", () => {
      const n = 999;
      const random = new Random(2);
      const master = Float32Array.from(random.normals(n, 0.02));
      const plain = {
        w: master.slice() as Elements,
        low: null,
        m: new Float32Array(n),
        v: new Float32Array(n),
      };
      const mixed = { ...split(one, master), m: new Uint16Array(n), v: new Uint16Array(n) };
      for (let step = 1; step <= 30; step++) {
        const g = Float32Array.from(random.normals(n, 1e-3));
        // The float32 path starts each step from the other's rounded moments: all else must be the same arithmetic.
        plain.m = Float32Array.from(decode(mixed.m, "bf16"));
        plain.v = Float32Array.from(decode(mixed.v, "bf16"));
        // Every second step with a bfloat16 gradient.
        const half = encode(g, "bf16");
        const [rounded, dtype] = step % 2 ? [g, "f32" as const] : [half, "bf16" as const];
        adamw(one, plain, Float32Array.from(decode(rounded, dtype)), step);
        adamw(one, mixed, rounded, step, { dtype });
        expect(bits(joined(one, mixed.w, mixed.low))).toBe(bits(plain.w));
      }
      expect(bits(plain.w)).not.toBe(bits(master));
    });

    test("moments are rounded without bias, to one of the two neighbours, by seed, step and index", () => {
      const n = 200_000;
      const fresh = () => ({
        ...split(three, new Float32Array(n)),
        m: new Uint16Array(n),
        v: new Uint16Array(n),
      });
      const g = new Float32Array(n).fill(0.7777);
      const state = fresh();
      adamw(three, state, g, 1, { seed: 3 });
      for (const [moments, exact] of [
        [state.m, Math.fround(1 - HYPER.b1) * 0.7777 * 0.5],
        [state.v, Math.fround(1 - HYPER.b2) * (0.7777 * 0.5) ** 2],
      ] as const) {
        const values = decode(moments, "bf16");
        const [low, high] = [
          values.reduce((a, b) => Math.min(a, b)),
          values.reduce((a, b) => Math.max(a, b)),
        ];
        expect(new Set(values).size).toBe(2);
        expect(low).toBeLessThan(exact);
        expect(high).toBeGreaterThan(exact);
        const mean = values.reduce((a, b) => a + b, 0) / n;
        // Five standard errors of a mean of two values.
        expect(Math.abs(mean - exact)).toBeLessThan((5 * (high - low)) / 2 / Math.sqrt(n));
      }
      const run = (seed: number, step: number, index: number) => {
        const again = fresh();
        adamw(one, again, g, step, { seed, index });
        return bits(again.m);
      };
      expect(run(3, 1, 0)).toBe(bits(state.m));
      expect(new Set([run(3, 1, 0), run(4, 1, 0), run(3, 1, 1), run(3, 1, 2 ** 32)]).size).toBe(4);
      const parts = fresh();
      const cut = 77_777;
      for (const [from, to] of [
        [0, cut],
        [cut, n],
      ] as const) {
        const part = {
          w: parts.w.subarray(from, to),
          low: parts.low.subarray(from, to),
          m: parts.m.subarray(from, to),
          v: parts.v.subarray(from, to),
        };
        adamw(one, part, g.subarray(from, to), 1, { seed: 3, index: from });
      }
      expect(bits(parts.m)).toBe(bits(state.m));
    });

    test("a step that is not finite leaves moments that are not finite, never quietly finite ones", () => {
      const state = { ...split(one, Float32Array.of(1, 1, 1)), m: new Uint16Array(3), v: new Uint16Array(3) };
      adamw(one, state, Float32Array.of(Number.NaN, Infinity, 1), 1);
      const [first, second, third] = decode(state.m, "bf16");
      expect([first, second]).toEqual([Number.NaN, Infinity]);
      expect(Number.isFinite(third)).toBe(true);
      expect(Number.isFinite(joined(one, state.w, state.low)[2]!)).toBe(true);
    });
  });
}
