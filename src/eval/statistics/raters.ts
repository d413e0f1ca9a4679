/** What each rater did, and who is left out of the main analysis by the rule that was fixed before the study. */
import { scoreOf, type Vote } from "../comparison.ts";
import type { RaterRule } from "../study_data.ts";
import { median } from "./bootstrap.ts";

export interface RaterRecord {
  rater: string;
  votes: number;
  golds: number;
  goldsRight: number;
  medianDwellMs: number | null;
  /** Reasons for leaving the rater out; empty: kept. */
  excluded: string[];
}

/** One record a rater, sorted by name. Golds of any criterion count; a tie of either kind answers an expected tie. */
export function raterRecords(votes: readonly Vote[], rule: RaterRule): RaterRecord[] {
  const byRater = Map.groupBy(votes, ({ rater }) => rater);
  return [...byRater]
    .sort(([one], [two]) => (one < two ? -1 : 1))
    .map(([rater, own]) => {
      const golds = own.filter(({ kind, expected }) => kind === "gold" && expected !== null);
      const right = golds.filter(({ verdict, expected }) => scoreOf(verdict) === scoreOf(expected!));
      const dwells = own.map(({ dwellMs }) => dwellMs).filter((dwell) => dwell !== null);
      const record = {
        rater,
        votes: own.length,
        golds: golds.length,
        goldsRight: right.length,
        medianDwellMs: median(dwells),
      };
      return { ...record, excluded: reasons(record, rule) };
    });
}

function reasons(record: Omit<RaterRecord, "excluded">, rule: RaterRule): string[] {
  const { golds, goldsRight, medianDwellMs } = record;
  const found: string[] = [];
  if (golds > 0 && goldsRight / golds < rule.goldShareMin) {
    found.push(`${goldsRight} of ${golds} golds right`);
  }
  if (medianDwellMs !== null && medianDwellMs < rule.medianDwellMsMin) {
    found.push(`median dwell ${(medianDwellMs / 1000).toFixed(1)} s`);
  }
  return found;
}

/** Votes of raters that the rule keeps. */
export function keptVotes(votes: readonly Vote[], records: readonly RaterRecord[]): Vote[] {
  const excluded = new Set(records.filter((record) => record.excluded.length > 0).map(({ rater }) => rater));
  return votes.filter(({ rater }) => !excluded.has(rater));
}

/** Of repeats: how often a rater gave the verdict of the first time, sides swapped. */
export function intraRater(votes: readonly Vote[]): { repeats: number; same: number } {
  const key = (vote: Vote) =>
    JSON.stringify([vote.rater, vote.question, [vote.systemA, vote.systemB].sort(), vote.criterion]);
  const first = new Map(votes.filter(({ kind }) => kind === "real").map((vote) => [key(vote), vote]));
  const pairs = votes
    .filter(({ kind }) => kind === "repeat")
    .map((repeat) => [repeat, first.get(key(repeat))] as const)
    .filter((pair): pair is readonly [Vote, Vote] => pair[1] !== undefined);
  return {
    repeats: pairs.length,
    same: pairs.filter(([two, one]) => winnerOf(two) === winnerOf(one)).length,
  };
}

/** By name, so that it does not matter which system a vote calls a. */
export const winnerOf = ({ verdict, systemA, systemB }: Vote): string | null =>
  verdict === "a" ? systemA : verdict === "b" ? systemB : null;
