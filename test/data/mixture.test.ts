import { describe, expect, test } from "bun:test";
import { mix, questionGroup, type MixtureItem, type MixtureOptions } from "../../src/data/mixture.ts";

const items = (source: string, count: number): MixtureItem[] =>
  Array.from({ length: count }, (_, i) => ({
    id: `${source}/f:${i + 1}`,
    source,
    group: questionGroup(`Question ${i} of ${source}?`),
  }));

const plain: Pick<MixtureOptions, "seed" | "repeatBeforeSplit"> = { seed: 1, repeatBeforeSplit: false };
const ids = (all: readonly MixtureItem[], part: Uint32Array): string[] => Array.from(part, (i) => all[i]!.id);
const counts = (all: readonly MixtureItem[], part: Uint32Array): { [source: string]: number } => {
  const found: { [source: string]: number } = {};
  for (const i of part) found[all[i]!.source] = (found[all[i]!.source] ?? 0) + 1;
  return found;
};

describe("the evaluation part", () => {
  const all = items("a", 2000);
  const source = { name: "a", evalShare: 0.1, repeat: 5 };

  test("is taken before anything is repeated, so that nothing of it is trained on", () => {
    const { train, eval: evaluation } = mix(all, { ...plain, sources: [source] });
    const trained = new Set(train);
    expect([...evaluation].filter((i) => trained.has(i))).toEqual([]);
    // 200 expected; four standard deviations of a binomial are 54.
    expect(Math.abs(evaluation.length - 200)).toBeLessThan(54);
    expect(train.length).toBe(5 * (2000 - evaluation.length));
  });

  test("in compatibility mode is taken from the copies, and nearly all of it is trained on, too", () => {
    const { train, eval: evaluation } = mix(all, { ...plain, repeatBeforeSplit: true, sources: [source] });
    const trained = new Set(train);
    const leaked = [...evaluation].filter((i) => trained.has(i)).length;
    // All five copies fall on one side with a chance of 0.1^4 for a copy that is in it.
    expect(leaked / evaluation.length).toBeGreaterThan(0.99);
    expect(train.length + evaluation.length).toBe(10_000);
  });

  test("keeps dialogues with the same first question together", () => {
    const twins = items("a", 300).flatMap((item, i) => [
      item,
      { ...item, id: `${item.id}#2`, group: questionGroup(`  QUESTION\n${i} of a?`) },
    ]);
    const { train, eval: evaluation } = mix(twins, { ...plain, sources: [{ name: "a", evalShare: 0.3 }] });
    const asked = new Set(ids(twins, train).map((id) => id.split("#")[0]));
    expect(ids(twins, evaluation).filter((id) => asked.has(id.split("#")[0]))).toEqual([]);
    expect(evaluation.length % 2).toBe(0);
  });
});

describe("repeats and caps", () => {
  test.each([
    [1, 100],
    [3, 300],
    [2.5, 250],
    [0.5, 50],
    [0.25, 25],
  ])("a repeat of %d takes %d of 100 dialogues", (repeat, expected) => {
    const all = items("a", 100);
    const { train, left } = mix(all, { ...plain, sources: [{ name: "a", evalShare: 0, repeat }] });
    expect(train.length).toBe(expected);
    const perItem = Object.values(Object.groupBy(train, String)).map((same) => same!.length);
    expect(Math.max(...perItem) - Math.min(...perItem)).toBeLessThanOrEqual(1);
    expect(left.length).toBe(repeat < 1 ? 100 - expected : 0);
  });

  test("a cap draws by the seed, whatever the order of the data, and names what it leaves out", () => {
    const all = items("a", 100);
    const options = { ...plain, sources: [{ name: "a", evalShare: 0, max: 30 }] };
    const first = mix(all, options);
    const turned = all.toReversed();
    const second = mix(turned, options);
    expect(ids(turned, second.train)).toEqual(ids(all, first.train));
    expect(first.train.length).toBe(30);
    expect(first.left.length).toBe(70);
    expect(first.left[0]!.reason).toBe("over the 30 dialogues that the recipe takes of a");
    expect(ids(all, mix(all, { ...options, seed: 2 }).train)).not.toEqual(ids(all, first.train));
  });
});

describe("weights", () => {
  const all = [...items("small", 50), ...items("large", 1000)];
  const weighted = (small: number, large: number) => [
    { name: "small", evalShare: 0, weight: small },
    { name: "large", evalShare: 0, weight: large },
  ];

  test("are shares of the mixture, and without a size no dialogue is repeated", () => {
    const { train } = mix(all, { ...plain, sources: weighted(1, 3) });
    expect(counts(all, train)).toEqual({ small: 50, large: 150 });
    expect(new Set(train).size).toBe(200);
  });

  test("repeat a small source where the size asks for more", () => {
    const { train } = mix(all, { ...plain, size: 400, sources: weighted(1, 1) });
    expect(counts(all, train)).toEqual({ small: 200, large: 200 });
  });
});

test("the order is shuffled by the seed: sources are mixed from the first dialogue on", () => {
  const all = [...items("a", 500), ...items("b", 500)];
  const options = {
    ...plain,
    sources: [
      { name: "a", evalShare: 0 },
      { name: "b", evalShare: 0 },
    ],
  };
  const { train } = mix(all, options);
  const firstHalf = counts(all, train.slice(0, 500));
  // 250 expected; the hypergeometric deviation is 7.9.
  expect(Math.abs(firstHalf.a! - 250)).toBeLessThan(40);
  expect(mix(all, options).train).toEqual(train);
});
