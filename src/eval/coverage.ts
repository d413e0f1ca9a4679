/** Many simulated studies of one size: whether the statistics keep their promises where the truth is known. */
import { simulateVotes } from "./simulate.ts";
import { clustersOf } from "./statistics/clusters.ts";
import { orderBias } from "./statistics/order_bias.ts";
import { RandomStream } from "./statistics/random.ts";
import { gapForScore, type RaterModel } from "./statistics/rater_model.ts";
import { winRate } from "./statistics/win_rate.ts";
import type { Pair } from "./study_data.ts";

export interface CoverageOptions {
  prompts: number;
  ratings: number;
  raters: number;
  trueScore: number;
  runs: number;
  /** Resamples of each bootstrap. */
  draws: number;
  seed: number;
  model?: RaterModel;
  onProgress?(done: number, total: number): void;
}

/** Shares of the runs, and means over them. */
export interface Coverage {
  /** The 95 % interval holds the true score: should be near 0.95. */
  covered: number;
  /** The interval excludes one half: the power, or with equal systems the rate of false alarms. */
  excludesHalf: number;
  signTestBelow05: number;
  meanHalfWidth: number;
  meanScore: number;
  meanLeftScore: number;
}

export function coverage(options: CoverageOptions): Coverage {
  const { prompts, ratings, raters, trueScore, runs, draws, seed, model } = options;
  const pair: Pair = ["a", "b"];
  const questions = Array.from({ length: prompts }, (_, index) => ({
    id: `simulated/${index + 1}`,
    set: "simulated",
  }));
  const gap = gapForScore(trueScore, model);
  const sums = {
    covered: 0,
    excludesHalf: 0,
    signTestBelow05: 0,
    meanHalfWidth: 0,
    meanScore: 0,
    meanLeftScore: 0,
  };
  for (let run = 0; run < runs; run++) {
    const random = new RandomStream(seed, `bootstrap of run ${run}`);
    const runSeed = new RandomStream(seed, `run ${run}`).below(2 ** 31);
    const votes = simulateVotes({ questions, pairs: [{ pair, gap }], raters, ratings, seed: runSeed, model });
    const { score, scoreInterval, signTestP } = winRate(clustersOf(votes, pair), { draws, random })!;
    const [low, high] = scoreInterval!;
    sums.covered += Number(low <= trueScore && trueScore <= high);
    sums.excludesHalf += Number(low > 0.5 || high < 0.5);
    sums.signTestBelow05 += Number(signTestP < 0.05);
    sums.meanHalfWidth += (high - low) / 2;
    sums.meanScore += score;
    sums.meanLeftScore += orderBias(votes, { draws: 1, random }).leftScore!;
    options.onProgress?.(run + 1, runs);
  }
  return Object.fromEntries(
    Object.entries(sums).map(([name, sum]) => [name, sum / runs]),
  ) as unknown as Coverage;
}
