/** Bradley–Terry strengths (1952) of several systems from their duels, on the Elo scale with mean 1000; a tie is half a win each.
 *  Always: refused in words where no finite estimate exists (Ford, 1957: some group never lost to, or never met, the others). */
import type { Vote } from "../comparison.ts";
import { type Interval, percentileInterval } from "./bootstrap.ts";
import { solve } from "./linear.ts";
import type { RandomStream } from "./random.ts";

export type BradleyTerry =
  | {
      systems: readonly string[];
      ratings: number[];
      intervals: Interval[];
      /** Resamples without a finite estimate: left out of the intervals. */
      failedDraws: number;
      draws: number;
    }
  | { systems: readonly string[]; refusal: string };

const eloPerLogit = 400 / Math.LN10;
/** More resamples than this share without a finite estimate: an interval from the rest would look too narrow. */
const failedShareMax = 0.05;

/** Ratings over all real votes among `systems`, with intervals by resampling prompts. */
export function bradleyTerry(
  votes: readonly Vote[],
  systems: readonly string[],
  options: { draws: number; random: RandomStream },
): BradleyTerry {
  const byPrompt = winsByPrompt(votes, systems);
  const all = addUp(byPrompt, systems.length);
  const refusal = refusalOf(all, systems);
  if (refusal !== null) return { systems, refusal };
  const samples: number[][] = [];
  let failedDraws = 0;
  for (let draw = 0; draw < options.draws; draw++) {
    const wins = addUp(
      byPrompt.map(() => byPrompt[options.random.below(byPrompt.length)]!),
      systems.length,
    );
    if (refusalOf(wins, systems) === null) samples.push(eloRatings(wins));
    else failedDraws++;
  }
  if (failedDraws > failedShareMax * options.draws) {
    return {
      systems,
      refusal: `${failedDraws} of ${options.draws} resamples of the prompts have no finite Bradley–Terry estimate, so an interval would mislead: collect more votes.`,
    };
  }
  const intervals = systems.map((_, index) =>
    percentileInterval(Float64Array.from(samples, (sample) => sample[index]!).sort()),
  );
  return { systems, ratings: eloRatings(all), intervals, failedDraws, draws: options.draws };
}

/** Maximum-likelihood ratings of a matrix wins[i][j] (i over j) by Newton's method; `refusalOf` must be null. */
export function eloRatings(wins: readonly (readonly number[])[]): number[] {
  const size = wins.length;
  let strengths = wins.map(() => 0);
  for (let iteration = 0; iteration < 200; iteration++) {
    const { gradient, hessian } = derivatives(wins, strengths);
    const step = solve(hessian, gradient);
    // The likelihood is concave, but a full step may overshoot far from the top: never move by more than two logits.
    const longest = Math.max(...step.map(Math.abs));
    const scale = Math.min(1, 2 / longest);
    strengths = strengths.map((strength, index) => strength + scale * step[index]!);
    if (longest < 1e-12) break;
  }
  const center = strengths.reduce((sum, strength) => sum + strength, 0) / size;
  return strengths.map((strength) => 1000 + eloPerLogit * (strength - center));
}

function derivatives(wins: readonly (readonly number[])[], strengths: readonly number[]) {
  const size = wins.length;
  const gradient = strengths.map(() => 0);
  // One in every place removes the free common shift and leaves the solution with sum zero.
  const hessian = strengths.map(() => strengths.map(() => 1));
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      if (i === j) continue;
      const duels = wins[i]![j]! + wins[j]![i]!;
      const p = 1 / (1 + Math.exp(strengths[j]! - strengths[i]!));
      gradient[i]! += wins[i]![j]! - duels * p;
      hessian[i]![i]! += duels * p * (1 - p);
      hessian[i]![j]! -= duels * p * (1 - p);
    }
  }
  return { gradient, hessian };
}

/** A sentence when no finite estimate exists, else null. */
export function refusalOf(wins: readonly (readonly number[])[], systems: readonly string[]): string | null {
  const met = reachable(wins, (i, j) => wins[i]![j]! + wins[j]![i]! > 0);
  const names = (inside: boolean[], wanted: boolean) =>
    systems.filter((_, index) => inside[index] === wanted).join(", ");
  if (met.includes(false)) {
    return `The comparison graph is disconnected: no votes link ${names(met, true)} with ${names(met, false)}. Compare across the groups, or rate them apart.`;
  }
  const beaten = reachable(wins, (i, j) => wins[i]![j]! > 0);
  if (beaten.includes(false)) {
    return `${names(beaten, true)} never won or tied against ${names(beaten, false)}, so no finite Bradley–Terry rating exists; collect more votes.`;
  }
  const beating = reachable(wins, (i, j) => wins[j]![i]! > 0);
  if (beating.includes(false)) {
    return `${names(beating, true)} never lost or tied against ${names(beating, false)}, so no finite Bradley–Terry rating exists; collect more votes.`;
  }
  return null;
}

/** Which systems the first one leads to, over edges i -> j. */
function reachable(wins: readonly unknown[], edge: (i: number, j: number) => boolean): boolean[] {
  const seen = wins.map((_, index) => index === 0);
  const queue = [0];
  for (const from of queue) {
    for (let to = 0; to < wins.length; to++) {
      if (seen[to] || !edge(from, to)) continue;
      seen[to] = true;
      queue.push(to);
    }
  }
  return seen;
}

/** wins[i][j] of each prompt. */
function winsByPrompt(votes: readonly Vote[], systems: readonly string[]): number[][][] {
  const prompts = new Map<string, number[][]>();
  for (const { question, systemA, systemB, verdict, kind } of votes) {
    const a = systems.indexOf(systemA);
    const b = systems.indexOf(systemB);
    if (kind !== "real" || a < 0 || b < 0 || a === b) continue;
    const wins = prompts.get(question) ?? systems.map(() => systems.map(() => 0));
    prompts.set(question, wins);
    wins[a]![b]! += verdict === "a" ? 1 : verdict === "b" ? 0 : 0.5;
    wins[b]![a]! += verdict === "b" ? 1 : verdict === "a" ? 0 : 0.5;
  }
  return [...prompts.values()];
}

function addUp(matrices: readonly number[][][], size: number): number[][] {
  const sum = Array.from({ length: size }, () => Array.from({ length: size }, () => 0));
  for (const matrix of matrices) {
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) sum[i]![j]! += matrix[i]![j]!;
  }
  return sum;
}

export const winMatrix = (votes: readonly Vote[], systems: readonly string[]): number[][] =>
  addUp(winsByPrompt(votes, systems), systems.length);
