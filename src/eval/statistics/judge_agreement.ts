/** Automatic judges: the swap rule of MT-bench (Zheng et al. 2023, arXiv 2306.05685), and how far judges agree with people. */
import type { Verdict, Vote } from "../comparison.ts";
import type { Judgement, Pair } from "../study_data.ts";
import { cohenKappa } from "./agreement.ts";
import { clustersOf, orient, swapped } from "./clusters.ts";

/** Both orders say the same: that; they disagree: a tie. Verdicts are by system. */
export const swapRule = (first: Verdict, second: Verdict): Verdict =>
  plain(first) === plain(second) ? first : "tie";

const plain = (verdict: Verdict): "a" | "b" | "tie" => (verdict === "both_bad" ? "tie" : verdict);

/** One vote a prompt and pair that was judged in every order asked for; a prompt with a failed call gives none. */
export function judgeVotes(judgements: readonly Judgement[]): Vote[] {
  return items(judgements).flatMap(({ ab, ba }) => {
    const one = (ab ?? ba)!;
    const verdicts = [ab, ba].filter((side) => side !== undefined).map(({ verdict }) => verdict);
    if (verdicts.includes(null)) return [];
    const [first, second] = verdicts as Verdict[];
    const { question, set, systemA, systemB, judge, time } = one;
    const vote: Vote = {
      question,
      set,
      systemA,
      systemB,
      verdict: second === undefined ? first! : swapRule(first!, second),
      left: ab === undefined ? "b" : "a",
      rater: judge,
      kind: "real",
      expected: null,
      criterion: "overall",
      dwellMs: null,
      note: null,
      time,
    };
    return [vote];
  });
}

export interface JudgeQuality {
  judge: string;
  calls: number;
  /** Calls without a verdict. */
  errors: number;
  /** Prompts and pairs judged in both orders, and those with the same verdict. */
  swapped: number;
  consistent: number;
  /** Calls that chose the answer shown first, among those that chose one. */
  firstShare: number | null;
}

export function judgeQuality(judgements: readonly Judgement[]): JudgeQuality[] {
  const latest = items(judgements).flatMap(({ ab, ba }) => [ab, ba].filter((side) => side !== undefined));
  return [...Map.groupBy(latest, ({ judge }) => judge)].map(([judge, calls]) => {
    const both = items(calls).filter(
      ({ ab, ba }) => (ab?.verdict ?? null) !== null && (ba?.verdict ?? null) !== null,
    );
    const decided = calls.filter(({ verdict }) => verdict === "a" || verdict === "b");
    const first = decided.filter(({ verdict, order }) => verdict === order[0]);
    return {
      judge,
      calls: calls.length,
      errors: calls.filter(({ verdict }) => verdict === null).length,
      swapped: both.length,
      consistent: both.filter(({ ab, ba }) => plain(ab!.verdict!) === plain(ba!.verdict!)).length,
      firstShare: decided.length === 0 ? null : first.length / decided.length,
    };
  });
}

/** The last judgement of each order, by prompt, pair and judge; systems are named in the order of the first call seen. */
function items(judgements: readonly Judgement[]): { ab?: Judgement; ba?: Judgement }[] {
  const found = new Map<string, { ab?: Judgement; ba?: Judgement }>();
  for (const judgement of judgements) {
    const { judge, question, systemA, systemB } = judgement;
    const key = JSON.stringify([judge, question, [systemA, systemB].sort()]);
    const item = found.get(key) ?? {};
    found.set(key, item);
    const before = item.ab ?? item.ba;
    const same = before === undefined || before.systemA === systemA;
    const facing = same ? judgement : turned(judgement);
    item[facing.order] = facing;
  }
  return [...found.values()];
}

function turned(judgement: Judgement): Judgement {
  const { systemA, systemB, verdict, order } = judgement;
  return {
    ...judgement,
    systemA: systemB,
    systemB: systemA,
    verdict: verdict === null ? null : swapped(verdict),
    order: order === "ab" ? "ba" : "ab",
  };
}

export interface JudgeAgreement {
  judge: string;
  pair: Pair;
  prompts: number;
  /** Judge's verdict = majority of people, ties being a verdict of their own. */
  withTies: number | null;
  /** Over prompts where both named a winner. */
  withoutTies: number | null;
  decided: number;
  kappa: number | null;
}

/** Judge against the majority of people's votes on each prompt. */
export function judgeAgreement(
  judged: readonly Vote[],
  people: readonly Vote[],
  pair: Pair,
): JudgeAgreement[] {
  const majority = new Map(
    clustersOf(people, pair).map(({ question, wins, losses }) => [
      question,
      wins > losses ? "a" : wins < losses ? "b" : "tie",
    ]),
  );
  return [...Map.groupBy(judged, ({ rater }) => rater)].map(([judge, votes]) => {
    const both = votes.flatMap((vote): [string, string][] => {
      const verdict = orient(vote, pair)?.verdict;
      const human = majority.get(vote.question);
      return verdict === undefined || human === undefined ? [] : [[plain(verdict), human]];
    });
    const decided = both.filter((verdicts) => !verdicts.includes("tie"));
    const share = (pairs: [string, string][]) =>
      pairs.length === 0 ? null : pairs.filter(([one, two]) => one === two).length / pairs.length;
    return {
      judge,
      pair,
      prompts: both.length,
      withTies: share(both),
      withoutTies: share(decided),
      decided: decided.length,
      kappa: cohenKappa(both),
    };
  });
}
