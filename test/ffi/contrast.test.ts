/** koala_contrast against the header's formula in float64, for every instruction set that this processor runs. */
import { afterAll, describe, expect, test } from "bun:test";
import { availableIsas, check, cpuOnly, native, onGpu, ptr, Random, Target } from "./target.ts";

interface Pair {
  a: number;
  b: number;
  strength: number;
  plausibility: number;
}

function contrast(target: Target, logits: Float32Array, V: number, pairs: Pair[]): Float32Array {
  const out = logits.slice();
  const status = native.koala_contrast(
    target.device,
    ptr(out),
    target.i32(pairs.flatMap(({ a, b }) => [a, b])),
    target.at(Float32Array.from([...pairs.flatMap((pair) => [pair.strength, pair.plausibility]), 0])),
    pairs.length,
    logits.length / V,
    V,
  );
  check(status);
  return out;
}

/** The header's text: plausible tokens are pushed, the others keep their order at least 1000 below. */
function formula(a: Float32Array, b: Float32Array, { strength, plausibility }: Pair): number[] {
  const top = Math.max(...a);
  const weights = Array.from(a, (logit) => Math.exp(logit - top));
  const plausible = weights.map((weight) => weight >= plausibility);
  const pushed = Array.from(a, (logit, v) => logit + strength * (logit - b[v]!));
  const least = Math.min(...pushed.filter((_, v) => plausible[v]));
  return pushed.map((value, v) => (plausible[v] ? value : least - 1000 + a[v]! - top));
}

const bits = (row: Float32Array) => Buffer.from(row.slice().buffer).toString("hex");

for (const isa of availableIsas()) {
  describe(`contrasts on ${isa}`, () => {
    const targets = [1, 2].map((threads) => Target.open({ isa, threads }));
    const target = targets[0]!;
    afterAll(() => targets.forEach((one) => one.close()));

    for (const V of [1, 7, 16, 500, 30_001]) {
      test(`${V} logits are those of the formula, and the other rows keep theirs`, () => {
        const logits = Float32Array.from(new Random(V).normals(5 * V, 3));
        const row = (values: Float32Array, r: number) => values.slice(r * V, (r + 1) * V);
        const pairs = [
          { a: 3, b: 1, strength: 0.5, plausibility: 0.1 },
          { a: 0, b: 4, strength: 2, plausibility: 0 },
        ];
        const out = contrast(target, logits, V, pairs);
        for (const pair of pairs) {
          const expected = formula(row(logits, pair.a), row(logits, pair.b), pair);
          row(out, pair.a).forEach((value, v) =>
            expect(Math.abs(value - expected[v]!)).toBeLessThan(2e-4 + 1e-6 * Math.abs(expected[v]!)),
          );
        }
        for (const r of [1, 2, 4]) expect(bits(row(out, r))).toBe(bits(row(logits, r)));
      });

      test(`a pair of ${V} logits has the same bits alone and among others, on 1 and 2 threads`, () => {
        const logits = Float32Array.from(new Random(V + 1).normals(8 * V, 3));
        const all = [0, 2, 4, 6].map((a) => ({ a, b: a + 1, strength: 1.5, plausibility: 0.1 }));
        const together = targets.map((one) => contrast(one, logits, V, all));
        expect(bits(together[1]!)).toBe(bits(together[0]!));
        const alone = contrast(target, logits.slice(4 * V, 6 * V), V, [{ ...all[0]!, a: 0, b: 1 }]);
        expect(bits(alone)).toBe(bits(together[0]!.slice(4 * V, 6 * V)));
      });
    }

    test("strength 0 without a plausibility limit changes no bit", () => {
      const logits = Float32Array.from(new Random(3).normals(2 * 1000, 3));
      const out = contrast(target, logits, 1000, [{ a: 0, b: 1, strength: 0, plausibility: 0 }]);
      expect(bits(out)).toBe(bits(logits));
    });

    test("a token that is not plausible never passes one that is, however strong the contrast", () => {
      const logits = Float32Array.of(5, 4.9, 0, 0, /* b */ 30, 30, 0, -300);
      const out = contrast(target, logits, 4, [{ a: 0, b: 1, strength: 20, plausibility: 0.1 }]);
      expect(Math.min(out[0]!, out[1]!) - Math.max(out[2]!, out[3]!)).toBeGreaterThanOrEqual(1000);
      expect(out[2]).toBe(out[3]!);
    });

    test("a NaN or an infinity in either row spoils that row and no other", () => {
      const V = 40;
      for (const [at, value] of [
        [5, Number.NaN],
        [V + 39, Number.NaN],
        [V + 3, Infinity],
        [39, Infinity],
      ] as const) {
        const logits = Float32Array.from(new Random(9).normals(4 * V, 3));
        const pairs = [0, 2].map((a) => ({ a, b: a + 1, strength: 1, plausibility: 0.1 }));
        const sound = contrast(target, logits, V, pairs);
        logits[at] = value;
        const out = contrast(target, logits, V, pairs);
        expect(out[0]).toBeNaN();
        expect(bits(out.slice(2 * V))).toBe(bits(sound.slice(2 * V)));
      }
    });
  });
}

describe("what a contrast cannot be", () => {
  const target = Target.open({ threads: 1 });
  afterAll(() => target.close());
  const fits = { a: 0, b: 1, strength: 1, plausibility: 0.1 };

  for (const [name, pair, sentence] of [
    ["a row outside", { ...fits, b: 2 }, /pair 0 names rows 0 and 2; they must be two of 2 rows\./],
    ["a row against itself", { ...fits, b: 0 }, /pair 0 names rows 0 and 0/],
    ["a strength below 0", { ...fits, strength: -1 }, /strength of pair 0 is -1; it must be 0 or more\./],
    [
      "a plausibility above 1",
      { ...fits, plausibility: 2 },
      /plausibility of pair 0 is 2; it must be from 0 to 1\./,
    ],
  ] as const) {
    // Pairs lie on the device, where only the kernel sees them.
    test.skipIf(onGpu)(`${name} gives a sentence${cpuOnly}`, () => {
      expect(() => contrast(target, new Float32Array(8), 4, [pair])).toThrow(sentence);
    });
  }
});
