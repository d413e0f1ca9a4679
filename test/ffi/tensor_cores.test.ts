/** Attention in bfloat16 (and over f8 caches) at head dims 64 and 128, which GPUs give to their tensor cores: paged and over documents, against
 *  the float64 formula; and bit for bit, whatever stands beside a row or is done by the same block before it. */
import { afterAll, describe, expect, test } from "bun:test";

import { attentionCase, AttentionRun, type AttentionShape } from "./attention_cases.ts";
import {
  attentionFormula,
  attentionGradientFormula,
  DocumentAttention,
  type DocumentShape,
} from "./document_attention.ts";
import { decode, encode, Random, Target, type Elements } from "./target.ts";

const target = Target.open({ threads: 2 });
afterAll(() => target.close());

const bits = (values: Elements) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");

/** Length of the difference over the length of what was wanted, of the elements that `chosen` names. */
function distance(
  actual: Float64Array,
  expected: Float64Array,
  chosen: (i: number) => boolean = () => true,
): number {
  let [difference, size] = [0, 0];
  expected.forEach((want, i) => {
    if (!chosen(i)) return;
    difference += (actual[i]! - want) ** 2;
    size += want ** 2;
  });
  return Math.sqrt(difference / size);
}

describe("paged attention of bfloat16 and f8 heads of 64 and 128", () => {
  const sequences = (...pairs: [queries: number, length: number][]) =>
    pairs.map(([queries, length]) => ({ queries, length }));
  // Decoded tokens of one and of several splits of keys, chunks that begin inside a tile, more tiles than blocks.
  const shapes: Omit<AttentionShape, "dtype" | "ctype">[] = [
    { sequences: sequences([1, 67], [5, 5], [1, 1], [1, 600], [70, 600]), H: 4, G: 2, E: 64, P: 32 },
    { sequences: sequences([16, 78], [33, 140], [1, 513]), H: 2, G: 2, E: 64, P: 64, window: 45 },
    { sequences: sequences([1, 100], [20, 90], [3, 40]), H: 3, G: 1, E: 128, P: 96 },
    { sequences: sequences([2, 40], [1, 33]), H: 40, G: 2, E: 64, P: 32 },
  ];
  for (const shape of shapes)
    for (const [dtype, ctype] of [
      ["bf16", "bf16"],
      ["f32", "bf16"],
      ["bf16", "f8"],
    ] as const) {
      const each = attentionCase({ ...shape, ctype, dtype });
      test(`${each.name} is the formula`, () => {
        const prepared = each.prepare(target);
        prepared.call();
        const [actual, expected] = [prepared.actual(), prepared.expected()];
        prepared.release?.();
        expect(distance(actual, expected) ** 2).toBeLessThan(each.tolerance);
      });
    }

  for (const [E, window, ctype] of [
    [64, 0, "bf16"],
    [64, 90, "bf16"],
    [128, 0, "bf16"],
    [64, 90, "f8"],
    [128, 0, "f8"],
  ] as const)
    test(`a token of a prompt is the same decoded, in a chunk and whole (E=${E}, window ${window}, cache ${ctype})`, () => {
      const [H, G, L] = [2, 1, E === 64 ? 600 : 150];
      const [width, row] = [(H + 2 * G) * E, H * E];
      const tokens = encode(new Random(L).normals(L * width), "bf16");
      const attend = (list: AttentionShape["sequences"], P: number) => {
        const shape = { sequences: list, H, G, E, P, window, ctype, dtype: "bf16" } as const;
        const run = new AttentionRun(target, shape, new Random(5), tokens);
        run.attend();
        run.release();
        return run.y;
      };
      const whole = attend([{ queries: L, length: L }], 32);
      const chunks = [[1, L], [1, 65], [9, 64], [16, 78], ...(L > 530 ? [[1, 530] as const] : [])] as const;
      for (const [queries, length] of chunks) {
        const want = bits(whole.slice((length - queries) * row, length * row));
        expect(bits(attend([{ queries, length }], 64))).toBe(want);
        const beside = attend(
          [
            { queries, length },
            { queries: 5, length: 77 },
            { queries: 1, length: 3 },
          ],
          96,
        );
        expect(bits(beside.slice(0, queries * row))).toBe(want);
      }
    });
});

test("a token behind thousands of others, where splits of keys are longer, is the same decoded and in a chunk", () => {
  const [H, G, E, L] = [1, 1, 64, 4700];
  const tokens = encode(new Random(L).normals(L * (H + 2 * G) * E), "bf16");
  const attend = (queries: number, length: number) => {
    const shape: AttentionShape = {
      sequences: [{ queries, length }],
      H,
      G,
      E,
      P: 32,
      ctype: "f8",
      dtype: "bf16",
    };
    const run = new AttentionRun(target, shape, new Random(5), tokens);
    run.attend();
    run.release();
    return { bits: bits(run.y.slice((queries - 1) * E)), y: run.result(), wanted: run.formula() };
  };
  const alone = attend(1, L);
  expect(attend(3, L).bits).toBe(alone.bits);
  expect(distance(alone.y, alone.wanted) ** 2).toBeLessThan(2e-5);
  expect(attend(2, 4097).bits).toBe(attend(1, 4097).bits);
});

describe("attention over documents of bfloat16 heads of 64 and 128", () => {
  const inputs = (o: DocumentShape) => {
    const T = o.starts.at(-1)!;
    return {
      qkv: encode(new Random(8).normals(T * (o.H + 2 * o.G) * o.E), "bf16"),
      dy: encode(new Random(9).normals(T * o.H * o.E), "bf16"),
    };
  };
  const shapes: DocumentShape[] = [
    { starts: [0, 5, 5, 133, 150], H: 4, G: 2, E: 64 },
    { starts: [0, 140], H: 2, G: 1, E: 64, window: 50 },
    { starts: [0, 1, 100], H: 3, G: 1, E: 128 },
  ];
  for (const o of shapes)
    test(`attention of documents ${o.starts} H=${o.H} G=${o.G} E=${o.E} window ${o.window ?? 0} and its gradient are the formula`, () => {
      const { qkv, dy } = inputs(o);
      const attention = new DocumentAttention(target, o);
      const forward = attention.forward(qkv, "bf16");
      const [x, slopes] = [decode(qkv, "bf16"), decode(dy, "bf16")];
      const want = attentionFormula(x, o, () => true);
      expect(distance(decode(forward.y, "bf16"), want.y)).toBeLessThan(4e-3);
      decode(forward.lse, "f32").forEach((lse, i) => expect(Math.abs(lse - want.lse[i]!)).toBeLessThan(1e-5));
      const gradient = decode(attention.backward(dy, forward, qkv, "bf16"), "bf16");
      const expected = attentionGradientFormula(x, slopes, want, o);
      const head = (i: number) => Math.floor((i % ((o.H + 2 * o.G) * o.E)) / o.E);
      for (const [from, to] of [
        [0, o.H],
        [o.H, o.H + o.G],
        [o.H + o.G, o.H + 2 * o.G],
      ] as const)
        expect(distance(gradient, expected, (i) => head(i) >= from && head(i) < to)).toBeLessThan(5e-3);
    });

  test("each of many documents has the bits that it has alone", () => {
    const lengths = Array.from({ length: 24 }, (_, i) => [100, 1, 70, 30][i % 4]!);
    const starts = lengths.reduce((list, n) => [...list, list.at(-1)! + n], [0]);
    const shape = { H: 2, G: 2, E: 64, forget: { seed: 3, rates: lengths.map(() => 0) } };
    const { qkv, dy } = inputs({ ...shape, starts });
    const pass = (list: number[], from: number, to: number) => {
      const [width, row] = [(shape.H + 2 * shape.G) * shape.E, shape.H * shape.E];
      const attention = new DocumentAttention(target, { ...shape, starts: list });
      const x = qkv.slice(from * width, to * width);
      const forward = attention.forward(x, "bf16");
      return [forward.y, forward.lse, attention.backward(dy.slice(from * row, to * row), forward, x, "bf16")];
    };
    const whole = pass(starts, 0, starts.at(-1)!);
    for (const s of [0, 1, 2, 21, 22, 23]) {
      const [from, to] = [starts[s]!, starts[s + 1]!];
      pass([0, to - from], from, to).forEach((alone, i) => {
        const row = whole[i]!.length / starts.at(-1)!;
        expect(bits(alone)).toBe(bits(whole[i]!.slice(from * row, to * row)));
      });
    }
  });

  test("hides and drops what float32 hides and drops, forward and in the gradient", () => {
    const o: DocumentShape = {
      starts: [0, 60, 130],
      H: 4,
      G: 2,
      E: 64,
      first: 40,
      window: 50,
      forget: { seed: 1, rates: [0.15, 0.5] },
      drop: { seed: 5, probability: 0.25 },
    };
    const { qkv, dy } = inputs(o);
    const attention = new DocumentAttention(target, o);
    const forward = attention.forward(qkv, "bf16");
    const [sees, keeps] = [attention.mask(), Array.from({ length: o.H }, (_, h) => attention.keeps(h))];
    const want = attentionFormula(
      decode(qkv, "bf16"),
      o,
      (i, j) => sees[i]![j]!,
      (i, j, h) => (keeps[h]![i]![j] ? 1 / 0.75 : 0),
    );
    expect(distance(decode(forward.y, "bf16"), want.y)).toBeLessThan(4e-3);
    const gradient = attention.backward(dy, forward, qkv, "bf16");
    const [x, slopes] = [encode(decode(qkv, "bf16"), "f32"), encode(decode(dy, "bf16"), "f32")];
    const precise = attention.backward(slopes, attention.forward(x, "f32"), x, "f32");
    expect(distance(decode(gradient, "bf16"), decode(precise, "f32"))).toBeLessThan(6e-3);
  });
});
