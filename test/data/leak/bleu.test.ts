import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { bleuOfCounts, sentenceBleu, tokenize13a } from "../../../src/data/leak/bleu.ts";
import { WordReader } from "../../../src/data/leak/word_reader.ts";

/** sacrebleu's own scores (test/golden/leak/make_bleu.py): hypothesis, reference, score, unsmoothed, lower-cased. */
type Row = [string, string, number, number, number];
const golden = (await Bun.file(join(import.meta.dir, "../../golden/leak/bleu.json")).json()) as {
  signature: string;
  rows: Row[];
};
const distance = (pairs: [number, number][]): number => Math.max(...pairs.map(([a, b]) => Math.abs(a - b)));

describe("sentence BLEU", () => {
  test("equals sacrebleu 2.6.0 on 1000 pairs, within rounding of the last bits", () => {
    expect(golden.signature).toBe("nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:2.6.0");
    expect(golden.rows).toHaveLength(1000);
    expect(distance(golden.rows.map(([h, r, score]) => [sentenceBleu(h, r), score]))).toBeLessThan(1e-11);
  });

  test("equals sacrebleu without smoothing and lower-cased", () => {
    expect(
      distance(golden.rows.map(([h, r, , rough]) => [sentenceBleu(h, r, { smooth: false }), rough])),
    ).toBeLessThan(1e-11);
    expect(
      distance(golden.rows.map(([h, r, , , low]) => [sentenceBleu(h, r, { lowercase: true }), low])),
    ).toBeLessThan(1e-11);
  });

  test("the fixture covers all ranges of the score", () => {
    const scores = golden.rows.map(([, , score]) => score);
    for (const [low, high] of [
      [-1, 0],
      [0, 20],
      [20, 60],
      [60, 100.1],
    ] as const)
      expect(scores.filter((score) => score > low && score <= high).length).toBeGreaterThan(20);
  });

  test("the formula by hand: 3 of 4 words, 1 of 3 bigrams, two empty orders, no penalty", () => {
    const byHand = (75 * (100 / 3) * (100 / (2 * 2)) * (100 / (4 * 1))) ** 0.25;
    expect(bleuOfCounts([3, 1, 0, 0], 4, 4)).toBeCloseTo(byHand, 10);
    expect(sentenceBleu("What is love?", "What is rust?")).toBeCloseTo(byHand, 10);
  });
});

test("the fast tokens are those of the regular expressions", () => {
  const reader = new WordReader();
  for (const row of golden.rows)
    for (const text of row.slice(0, 2) as string[])
      expect(reader.words.slice(0, reader.read(text))).toEqual(tokenize13a(text));
});
