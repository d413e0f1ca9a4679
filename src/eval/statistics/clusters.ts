/** Votes of one pair gathered by prompt: the unit of every interval here, because raters of one prompt agree with each other.
 *  Always: wins are those of the pair's first system, whichever way round a vote was stored; both_bad counts as a tie. */
import type { Verdict, Vote } from "../comparison.ts";
import type { Pair } from "../study_data.ts";

export interface Cluster {
  question: string;
  set: string;
  wins: number;
  ties: number;
  losses: number;
}

/** One cluster a prompt that has at least one real vote on the pair, in the order of the votes. */
export function clustersOf(votes: readonly Vote[], pair: Pair): Cluster[] {
  const clusters = new Map<string, Cluster>();
  for (const vote of votes) {
    if (vote.kind !== "real") continue;
    const oriented = orient(vote, pair);
    if (oriented === null) continue;
    const { question, set } = vote;
    const cluster = clusters.get(question) ?? { question, set, wins: 0, ties: 0, losses: 0 };
    clusters.set(question, cluster);
    if (oriented.verdict === "a") cluster.wins++;
    else if (oriented.verdict === "b") cluster.losses++;
    else cluster.ties++;
  }
  return [...clusters.values()];
}

/** The vote with the pair's first system as a; null when it is about other systems. */
export function orient(vote: Vote, [a, b]: Pair): Vote | null {
  if (vote.systemA === a && vote.systemB === b) return vote;
  if (vote.systemA !== b || vote.systemB !== a) return null;
  return {
    ...vote,
    systemA: a,
    systemB: b,
    verdict: swapped(vote.verdict),
    left: vote.left === "a" ? "b" : "a",
    expected: vote.expected === null ? null : swapped(vote.expected),
  };
}

export const swapped = (verdict: Verdict): Verdict =>
  verdict === "a" ? "b" : verdict === "b" ? "a" : verdict;

/** Votes are never changed: a correction is a new row, and the last one of a rater on a pair, side and criterion counts. */
export function latestVotes(votes: readonly Vote[]): Vote[] {
  const latest = new Map<string, Vote>();
  for (const vote of votes) {
    const pair = [vote.systemA, vote.systemB].sort();
    const key = JSON.stringify([vote.rater, vote.question, pair, vote.criterion, vote.kind]);
    const before = latest.get(key);
    if (before === undefined || vote.time >= before.time) latest.set(key, vote);
  }
  return [...latest.values()];
}

/** Share of a prompt's votes that the first system won, plus half its ties. */
export const clusterScore = ({ wins, ties, losses }: Cluster): number =>
  (wins + ties / 2) / (wins + ties + losses);

export const mean = (values: ArrayLike<number>): number => {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += values[index]!;
  return sum / values.length;
};
