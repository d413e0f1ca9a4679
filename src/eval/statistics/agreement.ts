/** How far raters agree beyond chance. A unit is one thing that was rated; `null` stands for a rating that is missing. */

/** Krippendorff's alpha for nominal values (2011, "Computing Krippendorff's Alpha-Reliability"). Rows are units.
 *  Null when no unit has two ratings, or when only one value was ever given: then chance agreement is certain. */
export function krippendorffAlpha(units: readonly (readonly (string | null)[])[]): number | null {
  const totals = new Map<string, number>();
  let observed = 0;
  let pairable = 0;
  for (const unit of units) {
    const values = unit.filter((value) => value !== null);
    if (values.length < 2) continue;
    const counts = countsOf(values);
    pairable += values.length;
    for (const [value, count] of counts) {
      totals.set(value, (totals.get(value) ?? 0) + count);
      observed += (count * (values.length - count)) / (values.length - 1);
    }
  }
  const squares = [...totals.values()].reduce((sum, total) => sum + total ** 2, 0);
  const expected = (pairable ** 2 - squares) / (pairable - 1);
  return pairable === 0 || expected === 0 ? null : 1 - observed / expected;
}

/** Fleiss' kappa (1971) of a table units x categories; every row must sum to the same number of raters, at least two. */
export function fleissKappa(table: readonly (readonly number[])[]): number | null {
  const raters = sum(table[0] ?? []);
  if (raters < 2) return null;
  const total = table.length * raters;
  const shares = table[0]!.map((_, category) => sum(table.map((row) => row[category]!)) / total);
  const chance = sum(shares.map((share) => share ** 2));
  const agreement = sum(
    table.map((row) => (sum(row.map((count) => count ** 2)) - raters) / (raters * (raters - 1))),
  );
  return chance === 1 ? null : (agreement / table.length - chance) / (1 - chance);
}

/** Share of agreeing pairs among all pairs of ratings within units. */
export function rawAgreement(units: readonly (readonly (string | null)[])[]): number | null {
  let agreeing = 0;
  let pairs = 0;
  for (const unit of units) {
    const values = unit.filter((value) => value !== null);
    pairs += (values.length * (values.length - 1)) / 2;
    for (const count of countsOf(values).values()) agreeing += (count * (count - 1)) / 2;
  }
  return pairs === 0 ? null : agreeing / pairs;
}

/** Cohen's kappa (1960) of two raters over the same units. */
export function cohenKappa(pairs: readonly (readonly [string, string])[]): number | null {
  if (pairs.length === 0) return null;
  const first = countsOf(pairs.map(([value]) => value));
  const second = countsOf(pairs.map(([, value]) => value));
  const observed = pairs.filter(([one, two]) => one === two).length / pairs.length;
  const chance =
    sum([...first].map(([value, count]) => count * (second.get(value) ?? 0))) / pairs.length ** 2;
  return chance === 1 ? null : (observed - chance) / (1 - chance);
}

/** Rows of `units` that have the most common number of ratings, as counts by category: what Fleiss' kappa is defined for. */
export function fleissTable(units: readonly (readonly (string | null)[])[]): number[][] {
  const rated = units
    .map((unit) => unit.filter((value) => value !== null))
    .filter(({ length }) => length > 1);
  const sizes = [...countsOf(rated.map(({ length }) => String(length)))].sort((x, y) => y[1] - x[1]);
  const size = Number(sizes[0]?.[0] ?? 0);
  const categories = [...new Set(rated.flat())].sort();
  return rated
    .filter(({ length }) => length === size)
    .map((values) => categories.map((category) => values.filter((value) => value === category).length));
}

export function countsOf(values: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
