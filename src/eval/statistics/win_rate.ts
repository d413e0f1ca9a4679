/** The headline of a comparison: how often one system wins, ties and loses, with intervals over prompts.
 *  Always: every prompt weighs the same, however many votes it got. */
import { bootstrapMeans, type Interval, percentileInterval } from "./bootstrap.ts";
import { type Cluster, clusterScore, mean } from "./clusters.ts";
import type { RandomStream } from "./random.ts";
import { signTest } from "./sign_test.ts";

export interface WinRate {
  prompts: number;
  votes: number;
  /** Shares of 1. */
  win: number;
  tie: number;
  loss: number;
  /** win + tie / 2 */
  score: number;
  scoreInterval: Interval | null;
  /** Standard deviation of the prompts' scores over the root of their number. */
  standardError: number | null;
  /** win + tie: the measure of Koala's authors. */
  exceedsOrTies: number;
  exceedsOrTiesInterval: Interval | null;
  /** Prompts whose majority went to the first, to the second, to neither. */
  majorities: { wins: number; losses: number; ties: number };
  /** Two-sided, exact, on the prompts' majorities. */
  signTestP: number;
}

/** Null without clusters. One prompt alone has no interval. */
export function winRate(
  clusters: readonly Cluster[],
  options: { draws: number; random: RandomStream },
): WinRate | null {
  if (clusters.length === 0) return null;
  const scores = Float64Array.from(clusters, clusterScore);
  const share = (count: (cluster: Cluster) => number) =>
    Float64Array.from(clusters, (cluster) => count(cluster) / votesOf(cluster));
  const exceeds = share(({ wins, ties }) => wins + ties);
  const enough = clusters.length > 1;
  const [score, exceedsOrTies] = enough
    ? bootstrapMeans([scores, exceeds], options.draws, options.random).map((sorted) =>
        percentileInterval(sorted),
      )
    : [null, null];
  const majorities = majoritiesOf(clusters);
  return {
    prompts: clusters.length,
    votes: clusters.reduce((sum, cluster) => sum + votesOf(cluster), 0),
    win: mean(share(({ wins }) => wins)),
    tie: mean(share(({ ties }) => ties)),
    loss: mean(share(({ losses }) => losses)),
    score: mean(scores),
    scoreInterval: score ?? null,
    standardError: enough ? standardError(scores) : null,
    exceedsOrTies: mean(exceeds),
    exceedsOrTiesInterval: exceedsOrTies ?? null,
    majorities,
    signTestP: signTest(majorities.wins, majorities.losses),
  };
}

const votesOf = ({ wins, ties, losses }: Cluster): number => wins + ties + losses;

function majoritiesOf(clusters: readonly Cluster[]): WinRate["majorities"] {
  const count = (sign: number) =>
    clusters.filter(({ wins, losses }) => Math.sign(wins - losses) === sign).length;
  return { wins: count(1), losses: count(-1), ties: count(0) };
}

export function standardError(values: Float64Array): number {
  const center = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - center) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1) / values.length);
}
