/** Whether raters prefer a side: with sides drawn at random, the left one should win half of the decided votes. */
import type { Vote } from "../comparison.ts";
import { type Interval, percentileInterval } from "./bootstrap.ts";
import type { RandomStream } from "./random.ts";

export interface OrderBias {
  votes: number;
  left: number;
  right: number;
  /** Left among the votes that chose a side. */
  leftShare: number | null;
  leftShareInterval: Interval | null;
  /** Left wins plus half the ties, over all votes: what equal systems would score if one always stood on the left. */
  leftScore: number | null;
  /** How often the first system of a vote stood on the left: one half when sides were balanced. */
  firstOnLeft: number | null;
}

/** Over real votes; the interval resamples prompts. */
export function orderBias(
  votes: readonly Vote[],
  options: { draws: number; random: RandomStream },
): OrderBias {
  const prompts = new Map<string, { left: number; right: number }>();
  const real = votes.filter(({ kind }) => kind === "real");
  for (const { question, verdict, left } of real) {
    const counts = prompts.get(question) ?? { left: 0, right: 0 };
    prompts.set(question, counts);
    if (verdict === left) counts.left++;
    else if (verdict === "a" || verdict === "b") counts.right++;
  }
  const rows = [...prompts.values()];
  const left = rows.reduce((sum, row) => sum + row.left, 0);
  const right = rows.reduce((sum, row) => sum + row.right, 0);
  return {
    votes: real.length,
    left,
    right,
    leftShare: left + right === 0 ? null : left / (left + right),
    leftShareInterval: left + right === 0 || rows.length < 2 ? null : interval(rows, options),
    leftScore: real.length === 0 ? null : (left + (real.length - left - right) / 2) / real.length,
    firstOnLeft: real.length === 0 ? null : real.filter((vote) => vote.left === "a").length / real.length,
  };
}

function interval(
  rows: readonly { left: number; right: number }[],
  { draws, random }: { draws: number; random: RandomStream },
): Interval {
  const shares = new Float64Array(draws);
  for (let draw = 0; draw < draws; draw++) {
    let left = 0;
    let decided = 0;
    for (let row = 0; row < rows.length; row++) {
      const chosen = rows[random.below(rows.length)]!;
      left += chosen.left;
      decided += chosen.left + chosen.right;
    }
    shares[draw] = decided === 0 ? 0.5 : left / decided;
  }
  return percentileInterval(shares.sort());
}
