/** How fragile a result is: the fewest votes whose removal turns it round (after arXiv 2508.11847, which found that
 *  dropping very few votes can change the first place of a leaderboard). Found greedily: the true minimum may be smaller, never larger. */
import { eloRatings, refusalOf } from "./bradley_terry.ts";
import type { Cluster } from "./clusters.ts";

export interface Flip {
  votes: number;
  /** Of all votes. */
  share: number;
}

/** Votes to drop until the leader of a pair no longer leads by score; 0 when nobody leads, null when dropping cannot turn it. */
export function votesToFlipPair(clusters: readonly Cluster[]): Flip | null {
  const rows = clusters.map(({ wins, ties, losses }) => ({ up: wins, even: ties, down: losses }));
  const total = rows.reduce((sum, row) => sum + sizeOf(row), 0);
  if (lead(rows) < 0) for (const row of rows) [row.up, row.down] = [row.down, row.up];
  let dropped = 0;
  let sum = rows.reduce((all, row) => all + rowLead(row), 0);
  while (sum > 1e-9) {
    const best = bestDrop(rows);
    if (best === null) return null;
    best.row[best.outcome]--;
    sum += best.change;
    dropped++;
  }
  return total === 0 ? null : { votes: dropped, share: dropped / total };
}

interface Row {
  up: number;
  even: number;
  down: number;
}

const sizeOf = ({ up, even, down }: Row): number => up + even + down;
/** The prompt's score minus one half; an emptied prompt leaves the study. */
const rowLead = (row: Row): number => (sizeOf(row) === 0 ? 0 : (row.up - row.down) / sizeOf(row) / 2);
const lead = (rows: readonly Row[]): number => rows.reduce((sum, row) => sum + rowLead(row), 0);

function bestDrop(rows: readonly Row[]): { row: Row; outcome: "up" | "even"; change: number } | null {
  let best: { row: Row; outcome: "up" | "even"; change: number } | null = null;
  for (const row of rows) {
    for (const outcome of ["up", "even"] as const) {
      if (row[outcome] === 0) continue;
      const change = rowLead({ ...row, [outcome]: row[outcome] - 1 }) - rowLead(row);
      if (change < (best?.change ?? 0)) best = { row, outcome, change };
    }
  }
  return best;
}

/** Votes to drop until another system has the highest Bradley–Terry rating; null when that does not happen while ratings exist. */
export function votesToFlipFirst(
  wins: readonly (readonly number[])[],
  systems: readonly string[],
): Flip | null {
  if (refusalOf(wins, systems) !== null) return null;
  const left = wins.map((row) => [...row]);
  const total = left.flat().reduce((sum, count) => sum + count, 0);
  const first = leaderOf(eloRatings(left));
  for (let dropped = 1; dropped < total; dropped++) {
    const drop = closestDrop(left, systems, first);
    if (drop === null) return null;
    left[drop.winner]![drop.loser]!--;
    if (drop.margin < 0) return { votes: dropped, share: dropped / total };
  }
  return null;
}

/** The whole win whose removal leaves the first system the smallest margin before the best of the others. */
function closestDrop(wins: number[][], systems: readonly string[], first: number) {
  let best: { winner: number; loser: number; margin: number } | null = null;
  for (let winner = 0; winner < wins.length; winner++) {
    for (let loser = 0; loser < wins.length; loser++) {
      // Wins of the first, or losses of a rival: others cannot help.
      if (wins[winner]![loser]! < 1 || loser === first) continue;
      wins[winner]![loser]!--;
      const margin = refusalOf(wins, systems) === null ? marginOf(eloRatings(wins), first) : Infinity;
      wins[winner]![loser]!++;
      if (margin < (best?.margin ?? Infinity)) best = { winner, loser, margin };
    }
  }
  return best;
}

const leaderOf = (ratings: readonly number[]): number => ratings.indexOf(Math.max(...ratings));

const marginOf = (ratings: readonly number[], first: number): number =>
  ratings[first]! - Math.max(...ratings.filter((_, index) => index !== first));
