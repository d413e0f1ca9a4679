/** What an f8 cache keeps of a head, number by number: all codes, the middles between them and what lies beside these, against
 *  a table made from the definition. A sequence of one token attends to itself alone, so its output is its value, read back. */
import { afterAll, describe, expect, test } from "bun:test";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { e4m3Values, toE4m3 } from "./e4m3.ts";
import { availableIsas, check, decode, encode, native, onGpu, Random, Target, zeros } from "./target.ts";

/** Values as they come back: each head in a page of its own, keys and query zero. */
function readBack(target: Target, heads: number[][], E: number): number[][] {
  const [T, P] = [heads.length, 32];
  const qkv = encode(
    heads.flatMap((head) => [...new Float64Array(2 * E), ...head]),
    "f32",
  );
  const bytes = target.size((out) =>
    native.koala_cache_page_bytes(target.device, out, P, 1, E, dtypeCode.f8),
  );
  const [keys, values] = [target.allocate(bytes * T), target.allocate(bytes * T)];
  const rows = heads.map((_, t) => t);
  const y = zeros(T * E, "f32");
  const [at, input] = [target.at(y), target.at(qkv)];
  const { f8, f32 } = dtypeCode;
  const slots = target.i32(rows.map((t) => t * P));
  check(native.koala_cache_write(target.device, keys, values, input, slots, T, 1, 1, E, P, f8, f32));
  const starts = target.i32([...rows, T]);
  const [lengths, pages] = [target.i32(rows.map(() => 1)), target.i32(rows)];
  check(
    native.koala_attention(
      target.device,
      at,
      input,
      keys,
      values,
      starts,
      lengths,
      pages,
      T,
      1,
      P,
      1,
      1,
      E,
      0,
      1,
      f8,
      f32,
    ),
  );
  for (const memory of [keys, values]) check(native.koala_memory_free(target.device, memory, bytes * T));
  const found = Array.from(decode(y, "f32"));
  return rows.map((t) => found.slice(t * E, (t + 1) * E));
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
/** The next float32 away from 0 (or towards it). */
function next(x: number, step: 1 | -1): number {
  float[0] = x;
  bits[0]! += step;
  return float[0]!;
}
const bf16 = (x: number): number => decode(encode([x], "bf16"), "bf16")[0]!;

for (const isa of availableIsas())
  describe(`an f8 cache on ${isa}`, () => {
    const target = Target.open({ isa, threads: 1 });
    afterAll(() => target.close());

    // On a GPU, heads of 64 and 128 go to tensor cores and 40 does not.
    for (const E of onGpu ? [64, 128, 40] : [64, 40])
      test(`keeps all 254 numbers and rounds 252 middles and what lies beside them to nearest even (E=${E})`, () => {
        const positive = e4m3Values.slice(0, 127);
        expect(positive.length + e4m3Values.slice(128, 255).length).toBe(254);
        const middles = positive.slice(1).map((value, i) => (value + positive[i]!) / 2);
        const wanted = [
          ...positive,
          ...middles.flatMap((middle) => [next(middle, -1), middle, next(middle, 1)]),
        ];
        const numbers = [...wanted, ...wanted.map((value) => -value)];
        const heads: number[][] = [];
        // The largest number of each head is 448, so that its scale is 1.
        for (let i = 0; i < numbers.length; i += E - 1) {
          const head = [448, ...numbers.slice(i, i + E - 1)];
          heads.push([...head, ...Array.from({ length: E - head.length }, () => 0)]);
        }
        const found = readBack(target, heads, E);
        heads.forEach((head, t) => expect(found[t]).toEqual(head.map((value) => toE4m3(value) + 0)));
        // A power of two times all of it is that power of two times the result.
        const tiny = readBack(
          target,
          heads.map((head) => head.map((value) => value * 2 ** -40)),
          E,
        );
        expect(tiny).toEqual(found.map((head) => head.map((value) => value * 2 ** -40)));
      });

    test("divides a head by a 448th of its largest magnitude", () => {
      const [E, random] = [64, new Random(11)];
      const heads = Array.from({ length: 40 }, (_, t) => [
        ...Float32Array.from(random.normals(E, 10 ** ((t % 9) - 4))),
      ]);
      const found = readBack(target, heads, E);
      heads.forEach((head, t) => {
        const scale = Math.fround(Math.max(...head.map(Math.abs)) / 448);
        // The scale goes to the weight of 1, which is rounded to bfloat16 as weights are.
        expect(found[t]).toEqual(
          head.map((value) => Math.fround(toE4m3(Math.fround(value / scale)) * bf16(scale)) + 0),
        );
      });
    });

    test("reads a head of zeros as zeros, and one with an infinity or NaN as NaN, its neighbours unharmed", () => {
      const head = (at: number, value: number) =>
        Array.from({ length: 64 }, (_, e) => (e === at ? value : e % 3));
      const heads = [
        Array.from({ length: 64 }, () => 0),
        head(5, Number.NaN),
        head(9, 2),
        head(63, Number.NEGATIVE_INFINITY),
        Array.from({ length: 64 }, () => 1e-45),
        head(0, Number.POSITIVE_INFINITY),
        head(1, -1),
      ];
      const found = readBack(target, heads, 64);
      for (const t of [0, 4]) expect(found[t]).toEqual(Array.from({ length: 64 }, () => 0));
      for (const t of [1, 3, 5]) expect(found[t]!.every(Number.isNaN)).toBe(true);
      for (const t of [2, 6]) found[t]!.forEach((value, e) => expect(value).toBeCloseTo(heads[t]![e]!, 1));
    });
  });
