import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { sentenceBleu } from "../../../src/data/leak/bleu.ts";
import { requiredOrder } from "../../../src/data/leak/bleu_index.ts";
import { LeakIndex, type LeakRule } from "../../../src/data/leak/leak_index.ts";
import type { Question } from "../../../src/data/question_sets.ts";
import { uniform } from "../../../src/util/rng.ts";

const rows = (
  (await Bun.file(join(import.meta.dir, "../../golden/leak/bleu.json")).json()) as {
    rows: [string, string, number, number, number][];
  }
).rows;
const question = (text: string, id: number): Question => ({ id: `own/${id}`, set: "own", text });

describe("the index of queries", () => {
  const queries = rows
    .filter((_, i) => i % 12 === 3 || i % 12 === 6 || i < 4)
    .map(([text], i) => question(text, i));
  const texts = rows.map(([, text]) => text);

  for (const [rule, lowercase] of [
    ["bleu", false],
    ["bleu-lower", true],
  ] as const)
    for (const threshold of [20, 45])
      test(`finds the pairs that all-pairs sentence BLEU finds (${rule}, above ${threshold})`, () => {
        const index = LeakIndex.build(queries, { rules: [rule], threshold });
        let above = 0;
        for (const text of texts.filter((_, i) => i % 40 === 3 || i % 40 === 4 || i % 40 === 6)) {
          const wanted = queries.flatMap(({ id, text: query }) => {
            const score = sentenceBleu(query, text, { lowercase });
            return score > threshold ? [[id, score]] : [];
          });
          above += wanted.length;
          const found = index.check(text).map(({ question: { id }, score }) => [id, score]);
          expect(found.toSorted()).toEqual(wanted.toSorted());
        }
        expect(above).toBeGreaterThan(5);
      });

  test("the order that must be shared is that of the published bounds: 5 words a bigram, 12 a trigram, 316 a 4-gram", () => {
    // eval-data.md §4.2.
    expect([4, 5, 11, 12, 315, 316].map((length) => requiredOrder(length, 20))).toEqual([1, 2, 2, 3, 3, 4]);
  });
});

describe("planted leaks", () => {
  const asked =
    "Write a short letter to the harbour master of a small island and ask whether two sailing boats may stay over winter";
  const vocabulary =
    "sun moon river stone bread winter letter ask small two of the a and sailing who when".split(" ");
  const noise = (seed: number, words: number): string =>
    Array.from(
      { length: words },
      (_, i) => vocabulary[Math.floor(uniform(seed, i) * vocabulary.length)],
    ).join(" ");
  const questions = [
    asked,
    "What is love?",
    "How do magnets work, and why do some of them lose their strength over time?",
  ];
  const index = LeakIndex.build(questions.map(question));
  const rulesThatLeak = (text: string): [string, LeakRule][] =>
    index
      .check(text)
      .flatMap((hit): [string, LeakRule][] => (hit.leaks ? [[hit.question.id, hit.rule]] : []));

  test("a verbatim copy is found by every rule", () => {
    expect(rulesThatLeak(asked)).toEqual([
      ["own/0", "bleu"],
      ["own/0", "bleu-lower"],
      ["own/0", "containment-8"],
      ["own/0", "containment-13"],
    ]);
  });

  test("a copy inside a long text escapes BLEU and is found by containment", () => {
    const text = `${noise(1, 60)}. ${asked}! ${noise(2, 80)}`;
    expect(sentenceBleu(asked, text)).toBeLessThan(1);
    expect(rulesThatLeak(text)).toEqual([
      ["own/0", "containment-8"],
      ["own/0", "containment-13"],
    ]);
  });

  test("an edited copy is found by BLEU, and its score is the sentence BLEU", () => {
    const text = asked
      .replace("harbour", "port")
      .replace("two sailing", "three fishing")
      .replace("short ", "");
    const hit = index.check(text).find(({ rule }) => rule === "bleu");
    expect(hit?.leaks).toBeTrue();
    expect(hit?.score).toBe(sentenceBleu(asked, text));
    expect(hit?.unsmoothed).toBe(sentenceBleu(asked, text, { smooth: false }));
  });

  test("an upper-case copy escapes BLEU and is found lower-cased and by containment", () => {
    const rules = rulesThatLeak(asked.toUpperCase()).map(([, rule]) => rule);
    expect(rules).toEqual(["bleu-lower", "containment-8", "containment-13"]);
  });

  test("short questions leak as whole texts only, in any case and punctuation", () => {
    expect(rulesThatLeak("what is LOVE")).toEqual([
      ["own/1", "containment-8"],
      ["own/1", "containment-13"],
    ]);
    // 35 by BLEU, which the minimum length keeps from counting.
    expect(index.check("What is rust?").map(({ rule, leaks }) => [rule, leaks])).toEqual([
      ["bleu", false],
      ["bleu-lower", false],
    ]);
    expect(rulesThatLeak("I asked my father: what is love? He said that he did not know it either.")).toEqual(
      [],
    );
  });

  test("texts of the same words in another order do not leak", () => {
    for (let seed = 10; seed < 60; seed++) expect(rulesThatLeak(noise(seed, 25))).toEqual([]);
  });

  test("the contained share is that of the distinct n-grams", () => {
    const half = asked.split(" ").slice(0, 14).join(" ");
    const hits = index.check(`${half} ${noise(3, 90)}`).filter(({ rule }) => rule === "containment-8");
    // 22 words hold 15 8-grams, the first 14 words 7.
    expect(hits.map(({ score, leaks }) => [score, leaks])).toEqual([[7 / 15, false]]);
  });
});
