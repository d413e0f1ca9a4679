/** Attention over documents against the float64 formula: alone and packed, on any threads, with keys hidden. */
import { afterAll, describe, expect, test } from "bun:test";

import {
  attentionFormula,
  attentionGradientFormula,
  DocumentAttention,
  type DocumentShape,
} from "./document_attention.ts";
import { availableIsas, cpuOnly, decode, encode, onGpu, Random, Target } from "./target.ts";

const bits = (values: NodeJS.TypedArray) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
function largest(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return Array.from(expected, (want, i) => Math.abs(actual[i]! - want)).reduce((a, b) => Math.max(a, b), 0);
}

// Longer than a chunk of keys, with windows inside one chunk and across its border.
const gradients = (
  [
    [0, [0, 45, 640]],
    [20, [0, 530]],
    [600, [0, 700]],
  ] as const
).map(([window, starts]) => {
  const o: DocumentShape = { starts: [...starts], H: 2, G: 1, E: 12, window };
  const T = o.starts.at(-1)!;
  const [qkv, dy] = [new Random(8).normals(T * 4 * 12), new Random(9).normals(T * 2 * 12)];
  return {
    o,
    qkv,
    dy,
    want: attentionGradientFormula(
      qkv,
      dy,
      attentionFormula(qkv, o, () => true),
      o,
    ),
  };
});

for (const isa of availableIsas()) {
  describe(`attention over documents on ${isa}`, () => {
    const [one, three] = [1, 3].map((threads) => Target.open({ isa, threads })) as [Target, Target];
    afterAll(() => [one, three].forEach((target) => target.close()));

    const shapes: DocumentShape[] = [
      { starts: [0, 1, 1, 30, 130], H: 4, G: 2, E: 16 },
      { starts: [0, 77], H: 2, G: 1, E: 40, window: 20 },
      { starts: [0, 300], H: 1, G: 1, E: 8 },
    ];
    for (const o of shapes)
      for (const [dtype, tolerance] of [
        ["f64", 1e-12],
        ["f32", 1e-5],
        ["bf16", 3e-2],
      ] as const)
        test.skipIf(onGpu && dtype === "f64")(
          `attention of documents ${o.starts} H=${o.H} G=${o.G} E=${o.E} of ${dtype} is the formula${dtype === "f64" ? cpuOnly : ""}`,
          () => {
            const qkv = encode(new Random(1).normals(o.starts.at(-1)! * (o.H + 2 * o.G) * o.E), dtype);
            const { y, lse } = new DocumentAttention(one, o).forward(qkv, dtype);
            const want = attentionFormula(decode(qkv, dtype), o, () => true);
            expect(largest(decode(y, dtype), want.y)).toBeLessThan(tolerance);
            expect(largest(decode(lse, dtype === "f64" ? "f64" : "f32"), want.lse)).toBeLessThan(
              dtype === "f64" ? tolerance : 1e-5,
            );
          },
        );

    for (const { o, qkv, dy, want } of gradients)
      test(`the gradient of attention of documents ${o.starts} with window ${o.window} is the formula`, () => {
        const attention = new DocumentAttention(three, o);
        for (const [dtype, tolerance] of [
          ["f64", 1e-12],
          ["f32", 2e-5],
        ] as const) {
          if (onGpu && dtype === "f64") continue;
          const x = encode(qkv, dtype);
          const gradient = attention.backward(encode(dy, dtype), attention.forward(x, dtype), x, dtype);
          expect(largest(decode(gradient, dtype), want)).toBeLessThan(tolerance);
        }
      });

    test("documents in one batch attend and differentiate as they do alone", () => {
      const o = { H: 4, G: 2, E: 12, window: 17 };
      const starts = [0, 40, 41, 41, 111];
      const width = (o.H + 2 * o.G) * o.E;
      const [qkv, dy] = [
        encode(new Random(3).normals(111 * width), "f32"),
        encode(new Random(4).normals(111 * o.H * o.E), "f32"),
      ];
      const pass = (list: number[], from: number, to: number) => {
        const attention = new DocumentAttention(three, { ...o, starts: list });
        const x = qkv.slice(from * width, to * width);
        const forward = attention.forward(x, "f32");
        return [
          forward.y,
          forward.lse,
          attention.backward(dy.slice(from * o.H * o.E, to * o.H * o.E), forward, x, "f32"),
        ];
      };
      const whole = pass(starts, 0, 111);
      for (const [from, to] of [
        [0, 40],
        [40, 41],
        [41, 111],
      ] as const)
        pass([0, to - from], from, to).forEach((alone, i) => {
          const row = whole[i]!.length / 111;
          expect(bits(alone)).toBe(bits(whole[i]!.slice(from * row, to * row)));
        });
    });

    test("attention and its gradient have the same bits on one thread and on three", () => {
      // More panels than one wave of work holds, on one thread or on three.
      const o: DocumentShape = {
        starts: [0, 200, 200, 331],
        H: 8,
        G: 4,
        E: 64,
        window: 150,
        forget: { seed: 3, rates: [0.1, 0, 0] },
      };
      const [qkv, dy] = [
        encode(new Random(6).normals(331 * 1024), "f32"),
        encode(new Random(7).normals(331 * 512), "f32"),
      ];
      const [alone, shared] = [one, three].map((target) => {
        const attention = new DocumentAttention(target, o);
        const forward = attention.forward(qkv, "f32");
        return [forward.y, forward.lse, attention.backward(dy, forward, qkv, "f32")].map(bits);
      });
      expect(alone!.map((part, i) => part === shared![i])).toEqual([true, true, true]);
    });
  });
}

describe("forgetful causal masking", () => {
  const target = Target.open({ threads: 1 });
  afterAll(() => target.close());
  const shape = { starts: [0, 200, 260], H: 1, G: 1, E: 8 };
  const maskOf = (seed: number, rates: number[], starts = shape.starts) =>
    new DocumentAttention(target, { ...shape, starts, forget: { seed, rates } }).mask();

  test("hides its share of keys, never the first of a document or the query's own", () => {
    const mask = maskOf(1, [0.15, 0.9]);
    for (const [start, end, rate] of [
      [0, 200, 0.15],
      [200, 260, 0.9],
    ] as const) {
      let [hidden, pairs] = [0, 0];
      for (let i = start; i < end; i++) {
        expect(mask[i]![start] && mask[i]![i]).toBe(true);
        for (let j = start + 1; j < i; j++, pairs++) if (!mask[i]![j]) hidden++;
      }
      expect(Math.abs(hidden / pairs - rate)).toBeLessThan(5 * Math.sqrt((rate * (1 - rate)) / pairs));
    }
  });

  test("follows the place in the step, wherever the batch begins", () => {
    const late = { ...shape, starts: [0, 60], first: 200, forget: { seed: 1, rates: [0.5] } };
    const alone = new DocumentAttention(target, late).mask();
    const whole = maskOf(1, [0.5, 0.5]);
    alone.forEach((row, i) => expect(row).toEqual(whole[200 + i]!.slice(200)));
  });

  test("follows the seed and the rows of the batch", () => {
    expect(maskOf(1, [0.5, 0.5])).toEqual(maskOf(1, [0.5, 0.5]));
    expect(maskOf(1, [0.5, 0.5])).not.toEqual(maskOf(2, [0.5, 0.5]));
    const [split, whole] = [maskOf(1, [0.5, 0.5]), maskOf(1, [0.5], [0, 260])];
    for (let i = 203; i < 260; i++) expect(split[i]!.slice(201, i)).toEqual(whole[i]!.slice(201, i));
  });

  test("hides the same keys on every instruction set", () => {
    for (const isa of availableIsas()) {
      const other = Target.open({ isa, threads: 2 });
      expect(
        new DocumentAttention(other, { ...shape, forget: { seed: 4, rates: [0.4, 0.2] } }).mask(),
      ).toEqual(maskOf(4, [0.4, 0.2]));
      other.close();
    }
  });
});

describe("dropout of attention's weights", () => {
  const probability = 0.25;
  const o: DocumentShape = { starts: [0, 150, 200], H: 4, G: 2, E: 8, drop: { seed: 5, probability } };
  const target = Target.open({ threads: 2 });
  afterAll(() => target.close());
  const masks = (on: Target, shape = o) =>
    Array.from({ length: shape.H }, (_, h) => new DocumentAttention(on, shape).keeps(h));

  test("keeps its share of every head's weights, each head its own, the same on every instruction set", () => {
    const heads = masks(target);
    for (const mask of heads) {
      let [kept, pairs] = [0, 0];
      for (let i = 0; i < 200; i++)
        for (let j = i < 150 ? 0 : 150; j <= i; j++, pairs++) kept += mask[i]![j] ? 1 : 0;
      const room = 5 * Math.sqrt((probability * (1 - probability)) / pairs);
      expect(Math.abs(kept / pairs - (1 - probability))).toBeLessThan(room);
    }
    expect(new Set(heads.map((mask) => JSON.stringify(mask))).size).toBe(4);
    for (const isa of availableIsas()) {
      const other = Target.open({ isa, threads: 1 });
      expect(masks(other)).toEqual(heads);
      other.close();
    }
  });

  test("drops the same of a document wherever its batch begins, and leaves log sum exp alone", () => {
    const alone = masks(target, { ...o, starts: [0, 50], first: 150 });
    masks(target).forEach((mask, h) =>
      expect(alone[h]!).toEqual(mask.slice(150).map((row) => row.slice(150))),
    );
    const qkv = encode(new Random(2).normals(200 * 8 * 8), "f32");
    const { drop: _, ...plain } = o;
    const [dropped, whole] = [o, plain].map((shape) =>
      new DocumentAttention(target, shape).forward(qkv, "f32"),
    );
    expect(bits(dropped!.lse)).toBe(bits(whole!.lse));
    expect(bits(dropped!.y)).not.toBe(bits(whole!.y));
  });
});
