/** The agreement figures of a study: between raters on the same item, and of raters with themselves. */
import type { Vote } from "../comparison.ts";
import { fleissKappa, fleissTable, krippendorffAlpha, rawAgreement } from "../statistics/agreement.ts";
import { intraRater, winnerOf } from "../statistics/raters.ts";

export interface Agreement {
  /** Prompts and pairs with at least two ratings. */
  items: number;
  krippendorffAlpha: number | null;
  /** Over the items with the most common number of ratings, which Fleiss' kappa needs to be the same. */
  fleissKappa: number | null;
  fleissItems: number;
  fleissRatings: number;
  raw: number | null;
  /** Pairs of ratings that both name a winner. */
  rawWithoutTies: number | null;
  repeats: number;
  repeatsSame: number;
}

/** Values are the winner's name or "tie"; both kinds of ties are one. */
export function agreementOf(votes: readonly Vote[]): Agreement {
  const items = Map.groupBy(
    votes.filter(({ kind }) => kind === "real"),
    ({ question, systemA, systemB }) => JSON.stringify([question, [systemA, systemB].sort()]),
  );
  const winners = [...items.values()].map((item) => item.map(winnerOf));
  // Every pair of systems has its own names, so that values of different pairs would never meet: a, b by sorted name.
  const units = [...items.values()].map((item) =>
    item.map((vote) => {
      const winner = winnerOf(vote);
      return winner === null ? "tie" : winner < other(vote, winner) ? "first" : "second";
    }),
  );
  const table = fleissTable(units);
  const { repeats, same } = intraRater(votes);
  return {
    items: units.filter(({ length }) => length > 1).length,
    krippendorffAlpha: krippendorffAlpha(units),
    fleissKappa: fleissKappa(table),
    fleissItems: table.length,
    fleissRatings: (table[0] ?? []).reduce((sum, count) => sum + count, 0),
    raw: rawAgreement(units),
    rawWithoutTies: rawAgreement(winners),
    repeats,
    repeatsSame: same,
  };
}

const other = ({ systemA, systemB }: Vote, winner: string): string =>
  winner === systemA ? systemB : systemA;
