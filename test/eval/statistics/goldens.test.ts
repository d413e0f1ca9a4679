/** Statistics against published tables, SciPy and real annotations (figures of others, never of this code). */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Vote } from "../../../src/eval/comparison.ts";
import {
  cohenKappa,
  fleissKappa,
  krippendorffAlpha,
  rawAgreement,
} from "../../../src/eval/statistics/agreement.ts";
import { percentileInterval } from "../../../src/eval/statistics/bootstrap.ts";
import { eloRatings } from "../../../src/eval/statistics/bradley_terry.ts";
import { clustersOf } from "../../../src/eval/statistics/clusters.ts";
import { normalCdf, normalQuantile } from "../../../src/eval/statistics/normal.ts";
import { RandomStream } from "../../../src/eval/statistics/random.ts";
import { holm, signTest } from "../../../src/eval/statistics/sign_test.ts";
import { winRate } from "../../../src/eval/statistics/win_rate.ts";
import { hasStories, sharedDirectory, withoutShared } from "../../support/paths.ts";
import { vote } from "../votes.ts";

test("Krippendorff's alpha of his own reliability table (2011) is 0.743", () => {
  const observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."];
  const units = Array.from({ length: 12 }, (_, unit) =>
    observers.map((row) => (row[unit] === "." ? null : row[unit]!)),
  );
  expect(krippendorffAlpha(units)).toBeCloseTo(0.743421, 6);
});

test("alpha is null where chance agreement is certain, and 1 for full agreement", () => {
  expect(
    krippendorffAlpha([
      ["a", "a"],
      ["a", null],
    ]),
  ).toBeNull();
  expect(krippendorffAlpha([["a", null]])).toBeNull();
  expect(
    krippendorffAlpha([
      ["a", "a"],
      ["b", "b"],
    ]),
  ).toBe(1);
});

test("Fleiss' kappa of the table of 1971 is 0.210", () => {
  const table = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
  ];
  expect(fleissKappa(table)).toBeCloseTo(0.209931, 6);
});

test("Cohen's kappa of the textbook table (20, 5, 10, 15) is 0.4, and raw agreement counts pairs", () => {
  const cells = [
    [20, "yes", "yes"],
    [5, "yes", "no"],
    [10, "no", "yes"],
    [15, "no", "no"],
  ] as const;
  const pairs = cells.flatMap(([count, one, two]) =>
    Array.from({ length: count }, (): [string, string] => [one, two]),
  );
  expect(cohenKappa(pairs)).toBeCloseTo(0.4, 12);
  // One unit with pairs aa, ab, ab; one with aa.
  expect(
    rawAgreement([
      ["a", "a", "b"],
      ["a", null, "a"],
    ]),
  ).toBeCloseTo(2 / 4, 12);
});

test("Bradley–Terry ratings equal those of the MM algorithm in NumPy", () => {
  const ratings = eloRatings([
    [0, 8, 9, 5],
    [4, 0, 7, 3],
    [3, 5, 0, 2],
    [7, 9, 10, 0],
  ]);
  [1063.5318, 936.4682, 869.4736, 1130.5264].forEach((rating, index) =>
    expect(ratings[index]).toBeCloseTo(rating, 4),
  );
});

test("two systems have the closed form: 400 log10 of the odds apart", () => {
  const [one, two] = eloRatings([
    [0, 30.5],
    [9.5, 0],
  ]);
  expect(one! - two!).toBeCloseTo(400 * Math.log10(30.5 / 9.5), 9);
  const [strong, weak] = eloRatings([
    [0, 100_000],
    [0.5, 0],
  ]);
  expect(strong! - weak!).toBeCloseTo(400 * Math.log10(200_000), 6);
});

test("the sign test equals SciPy's binomtest", () => {
  expect(signTest(90, 60)).toBeCloseTo(0.0175977, 7);
  expect(signTest(5, 0)).toBeCloseTo(0.0625, 12);
  expect(signTest(0, 0)).toBe(1);
  expect(signTest(7, 7)).toBe(1);
  // The tail of 3 000 coins, where factorials no longer fit into a number: scipy.stats.binomtest(1600, 3000).pvalue.
  expect(signTest(1600, 1400) / 0.00027856396103923366).toBeCloseTo(1, 9);
});

test("Holm's adjustment of the example 0.01, 0.04, 0.03, 0.005", () => {
  const adjusted = holm([0.01, 0.04, 0.03, 0.005]);
  [0.03, 0.06, 0.06, 0.02].forEach((p, index) => expect(adjusted[index]).toBeCloseTo(p, 12));
  expect(holm([0.9, 0.8])).toEqual([1, 1]);
});

test("the normal distribution has its table values", () => {
  expect(normalCdf(1.959963985)).toBeCloseTo(0.975, 6);
  expect(normalCdf(-3)).toBeCloseTo(0.001349898, 8);
  expect(normalQuantile(0.8)).toBeCloseTo(0.8416212, 5);
});

test("percentiles lie between neighbours as NumPy's do", () => {
  // numpy.percentile(range(1, 11), [2.5, 97.5])
  const [low, high] = percentileInterval([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  expect(low).toBeCloseTo(1.225, 12);
  expect(high).toBeCloseTo(9.775, 12);
});

const annotations = join(sharedDirectory, "data", "alpacaeval_alpaca-7b_gpt4_annotations.json");

test.skipIf(!hasStories)(
  `the 805 real annotations of AlpacaEval give the leaderboard's win rate (${withoutShared} otherwise)`,
  () => {
    const rows = JSON.parse(readFileSync(annotations, "utf8")) as { preference: number; dataset: string }[];
    const verdicts = { 0: "tie", 1: "b", 2: "a" } as const;
    const votes = rows.map(({ preference, dataset }, index): Vote =>
      vote({ question: `${dataset}/${index}`, set: dataset, verdict: verdicts[preference as 0 | 1 | 2] }),
    );
    const rate = (set: string | null) =>
      winRate(
        clustersOf(votes, ["x", "y"]).filter((cluster) => set === null || cluster.set === set),
        { draws: 2000, random: new RandomStream(1, "test") },
      )!;
    const all = rate(null);
    expect(100 * all.score).toBeCloseTo(26.459627329192543, 10);
    expect(100 * all.standardError!).toBeCloseTo(1.5357, 4);
    expect(100 * rate("koala").score).toBeCloseTo(27.88, 2);
    expect(100 * rate("selfinstruct").score).toBeCloseTo(26.59, 2);
    expect(all.majorities).toEqual({ wins: 205, losses: 584, ties: 16 });
    // The percentile interval of 805 single votes lies where the normal one does: 1.96 standard errors each way.
    const [low, high] = all.scoreInterval!;
    expect(Math.abs(100 * (high - low) - 2 * 1.96 * 1.5357)).toBeLessThan(0.35);
  },
);
