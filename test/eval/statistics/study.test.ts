/** Statistics of whole studies: bootstrap, simulated raters with known preferences, refusals, exclusions, fragility. */
import { expect, test } from "bun:test";
import type { Verdict, Vote } from "../../../src/eval/comparison.ts";
import { coverage } from "../../../src/eval/coverage.ts";
import { simulateVotes } from "../../../src/eval/simulate.ts";
import { bradleyTerry, winMatrix } from "../../../src/eval/statistics/bradley_terry.ts";
import { clustersOf, latestVotes } from "../../../src/eval/statistics/clusters.ts";
import { votesToFlipFirst, votesToFlipPair } from "../../../src/eval/statistics/flip.ts";
import { judgeAgreement, swapRule } from "../../../src/eval/statistics/judge_agreement.ts";
import { lengthControl, logistic } from "../../../src/eval/statistics/length_control.ts";
import { orderBias } from "../../../src/eval/statistics/order_bias.ts";
import { detectableScore, power } from "../../../src/eval/statistics/power.ts";
import { RandomStream } from "../../../src/eval/statistics/random.ts";
import { intraRater, keptVotes, raterRecords } from "../../../src/eval/statistics/raters.ts";
import { defaultRaterRule } from "../../../src/eval/study_data.ts";
import { vote } from "../votes.ts";

const options = (draws = 500) => ({ draws, random: new RandomStream(1, "test") });
const prompts = (count: number) =>
  Array.from({ length: count }, (_, index) => ({ id: `q/${index}`, set: "q" }));
/** Votes by verdict letters, one prompt each. */
const votesOf = (verdicts: readonly Verdict[], part: Partial<Vote> = {}): Vote[] =>
  verdicts.map((verdict, index) => vote({ question: `q/${index}`, verdict, ...part }));

test("over 300 simulated studies the 95 % interval holds the true score in 92 to 98 %", () => {
  const found = coverage({
    prompts: 180,
    ratings: 3,
    raters: 100,
    trueScore: 0.551,
    runs: 300,
    draws: 200,
    seed: 7,
  });
  expect(found.covered).toBeGreaterThanOrEqual(0.92);
  expect(found.covered).toBeLessThanOrEqual(0.98);
  expect(Math.abs(found.meanScore - 0.551)).toBeLessThan(0.004);
  // The independent simulation of the study design: ±4.3 points, power .64.
  expect(Math.abs(found.meanHalfWidth - 0.043)).toBeLessThan(0.002);
  expect(Math.abs(found.excludesHalf - 0.64)).toBeLessThan(0.08);
});

test("equal systems are called different in at most 8 % of 300 studies", () => {
  const found = coverage({
    prompts: 180,
    ratings: 3,
    raters: 100,
    trueScore: 0.5,
    runs: 300,
    draws: 200,
    seed: 11,
  });
  expect(found.excludesHalf).toBeLessThanOrEqual(0.08);
  expect(found.signTestBelow05).toBeLessThanOrEqual(0.08);
  expect(found.signTestBelow05).toBeGreaterThan(0);
});

test("without drawn sides two equal systems differ by the left bias: 56.7 % for the one on the left", () => {
  const simulated = (drawSides: boolean) =>
    simulateVotes({
      questions: prompts(4000),
      pairs: [{ pair: ["x", "y"], gap: 0 }],
      raters: 400,
      ratings: 2,
      seed: 3,
      drawSides,
    });
  const fixed = orderBias(simulated(false), options(200));
  expect(fixed.firstOnLeft).toBe(1);
  expect(Math.abs(fixed.leftScore! - 0.567)).toBeLessThan(0.015);
  const drawn = orderBias(simulated(true), options(200));
  expect(Math.abs(drawn.firstOnLeft! - 0.5)).toBeLessThan(0.02);
  expect(Math.abs(drawn.leftScore! - 0.567)).toBeLessThan(0.015);
  const [low, high] = drawn.leftShareInterval!;
  expect(low).toBeGreaterThan(0.5);
  expect(low < drawn.leftShare! && drawn.leftShare! < high).toBe(true);
});

test("power figures equal those of an independent simulation of the same model", () => {
  // 200 simulated studies a cell: ±0.07. Columns: true score 52.5, 55.1, 57.6, 62.2 %.
  const table: [prompts: number, ratings: number, ...powers: number[]][] = [
    [180, 1, 0.1, 0.36, 0.69, 0.99],
    [180, 3, 0.27, 0.64, 0.93, 1],
    [180, 5, 0.28, 0.73, 0.96, 1],
    [360, 1, 0.19, 0.6, 0.93, 1],
    [360, 5, 0.41, 0.94, 1, 1],
  ];
  for (const [count, ratings, ...powers] of table) {
    [0.525, 0.551, 0.576, 0.622].forEach((trueScore, column) => {
      const found = power({ prompts: count, ratings, trueScore }).power;
      expect(Math.abs(found - powers[column]!)).toBeLessThan(0.08);
    });
  }
  expect(power({ prompts: 180, ratings: 1, trueScore: 0.551 }).halfWidth).toBeCloseTo(0.061, 2);
  const smallest = detectableScore({ prompts: 180, ratings: 3 });
  expect(power({ prompts: 180, ratings: 3, trueScore: smallest }).power).toBeCloseTo(0.8, 4);
});

test("the same seed gives the same votes, another seed others", () => {
  const cast = (seed: number) =>
    simulateVotes({
      questions: prompts(5),
      pairs: [{ pair: ["x", "y"], gap: 0.2 }],
      raters: 9,
      ratings: 3,
      seed,
    });
  expect(cast(5)).toEqual(cast(5));
  expect(cast(5)).not.toEqual(cast(6));
  for (const { id } of prompts(5)) {
    const raters = cast(5)
      .filter(({ question }) => question === id)
      .map(({ rater }) => rater);
    expect(new Set(raters).size).toBe(3);
  }
});

test("Bradley–Terry is refused on a disconnected graph, and where somebody never won or never lost", () => {
  const duel = (systemA: string, systemB: string, ...verdicts: Verdict[]) =>
    votesOf(verdicts, { systemA, systemB });
  const refusal = (votes: Vote[], systems: string[]) => {
    const fit = bradleyTerry(votes, systems, options(100));
    return "refusal" in fit ? fit.refusal : "";
  };
  expect(refusal([...duel("k", "l", "a", "b"), ...duel("m", "n", "a", "b")], ["k", "l", "m", "n"])).toContain(
    "disconnected: no votes link k, l with m, n",
  );
  expect(refusal(duel("k", "l", "a", "a"), ["k", "l"])).toContain("k never lost or tied against l");
  expect(refusal(duel("k", "l", "b", "b"), ["k", "l"])).toContain("k never won or tied against l");
  expect(refusal(duel("k", "l", "a", "b"), ["k", "l"])).toContain("resamples of the prompts have no finite");
});

test("Bradley–Terry intervals hold the ratings, and votes may name a pair either way round", () => {
  const verdicts = Array.from({ length: 90 }, (_, index): Verdict => (index % 3 === 0 ? "b" : "a"));
  const forwards = bradleyTerry(votesOf(verdicts), ["x", "y"], options());
  const turned = votesOf(
    verdicts.map((verdict) => (verdict === "a" ? "b" : "a")),
    { systemA: "y", systemB: "x", left: "b" },
  );
  expect(bradleyTerry(turned, ["x", "y"], options())).toEqual(forwards);
  expect(clustersOf(turned, ["x", "y"])).toEqual(clustersOf(votesOf(verdicts), ["x", "y"]));
  if ("refusal" in forwards) throw new Error(forwards.refusal);
  expect(forwards.ratings[0]! - forwards.ratings[1]!).toBeCloseTo(400 * Math.log10(2), 9);
  const [low, high] = forwards.intervals[0]!;
  expect(low < forwards.ratings[0]! && forwards.ratings[0]! < high && low > 1000).toBe(true);
});

test("votes to flip: 12 wins against 9 losses need 3, dropped by hand", () => {
  const verdicts: Verdict[] = [...Array<Verdict>(12).fill("a"), ...Array<Verdict>(9).fill("b")];
  const votes = votesOf(verdicts);
  expect(votesToFlipPair(clustersOf(votes, ["x", "y"]))).toEqual({ votes: 3, share: 3 / 21 });
  // The other system leads as much when the pair is turned, and nobody leads an even split.
  expect(votesToFlipPair(clustersOf(votes, ["y", "x"]))).toEqual({ votes: 3, share: 3 / 21 });
  expect(votesToFlipPair(clustersOf(votesOf(["a", "b"]), ["x", "y"]))?.votes).toBe(0);
  // First place must be lost, not shared: one vote more.
  expect(votesToFlipFirst(winMatrix(votes, ["x", "y"]), ["x", "y"])).toEqual({ votes: 4, share: 4 / 21 });
});

test("the logistic fit is the closed form for two groups, and separation is refused", () => {
  const x = Float64Array.from({ length: 40 }, (_, index) => (index < 20 ? 0 : 1));
  const y = Float64Array.from({ length: 40 }, (_, index) =>
    index < 20 ? Number(index < 5) : Number(index < 35),
  );
  const fit = logistic(x, y)!;
  expect(fit.intercept).toBeCloseTo(Math.log(5 / 15), 9);
  expect(fit.intercept + fit.slope).toBeCloseTo(Math.log(15 / 5), 9);
  expect(logistic(x, x)).toBeNull();
});

test("length control removes a preference for length and keeps one for quality", () => {
  const random = new RandomStream(2, "lengths");
  const points = (shift: number, quality: number) =>
    Array.from({ length: 3000 }, () => {
      const difference = random.normal(shift, 300);
      // The deviation that lengthControl finds is close to 300.
      const p = 1 / (1 + Math.exp(-(quality + 1.5 * Math.tanh(difference / 300))));
      return { difference, score: Number(random.next() < p) };
    });
  const longer = points(200, 0);
  const found = lengthControl(longer, options(200));
  if ("refusal" in found) throw new Error(found.refusal);
  expect(longer.reduce((sum, { score }) => sum + score, 0) / 3000).toBeGreaterThan(0.6);
  expect(Math.abs(found.score - 0.5)).toBeLessThan(0.04);
  expect(Math.abs(found.slope - 1.5)).toBeLessThan(0.25);
  const better = lengthControl(points(-200, 0.6), options(200));
  if ("refusal" in better) throw new Error(better.refusal);
  expect(Math.abs(better.score - 1 / (1 + Math.exp(-0.6)))).toBeLessThan(0.04);
  expect(lengthControl([{ score: 1, difference: 3 }], options())).toHaveProperty("refusal");
});

test("raters with wrong golds or hasty votes are excluded with the reason, and both kinds of ties answer a tie", () => {
  const gold = (rater: string, verdict: Verdict, expected: Verdict, dwellMs = 9000) =>
    vote({ rater, verdict, expected, dwellMs, kind: "gold" });
  const votes = [
    ...[1, 2, 3].map(() => gold("good", "both_bad", "tie")),
    ...(["a", "a", "b"] as const).map((verdict) => gold("wrong", verdict, "a")),
    gold("hasty", "a", "a", 1200),
    vote({ rater: "unchecked", dwellMs: null }),
  ];
  const records = raterRecords(votes, defaultRaterRule);
  expect(Object.fromEntries(records.map(({ rater, excluded }) => [rater, excluded]))).toEqual({
    good: [],
    hasty: ["median dwell 1.2 s"],
    unchecked: [],
    wrong: ["2 of 3 golds right"],
  });
  expect(new Set(keptVotes(votes, records).map(({ rater }) => rater))).toEqual(
    new Set(["good", "unchecked"]),
  );
});

test("of several votes of one rater the last counts, and repeats are compared by system", () => {
  const first = vote({ time: 1, verdict: "a" });
  const corrected = vote({ time: 2, verdict: "b" });
  expect(latestVotes([corrected, first])).toEqual([corrected]);
  const repeat = vote({ kind: "repeat", systemA: "y", systemB: "x", verdict: "a", left: "b" });
  expect(intraRater([corrected, repeat])).toEqual({ repeats: 1, same: 1 });
  expect(intraRater([first, repeat])).toEqual({ repeats: 1, same: 0 });
});

test("a judge that changes its mind with the sides has called a tie, and is compared with the majority", () => {
  expect(swapRule("a", "a")).toBe("a");
  expect(swapRule("a", "b")).toBe("tie");
  expect(swapRule("b", "tie")).toBe("tie");
  const people = [...votesOf(["a", "a", "b", "tie"]), ...votesOf(["a", "a", "b", "a"], { rater: "r2" })];
  const judged = votesOf(["a", "b", "b", "tie"], { rater: "judge" });
  expect(judgeAgreement(judged, people, ["x", "y"])).toMatchObject([
    { judge: "judge", prompts: 4, withTies: 2 / 4, withoutTies: 2 / 3, decided: 3 },
  ]);
});
