/** Significance of wins against losses, and of several such tests together. */

/** Exact two-sided sign test: P of a split at least this uneven when both sides are as likely; ties are left out. */
export function signTest(wins: number, losses: number): number {
  const count = wins + losses;
  if (Math.abs(wins - losses) <= 1) return 1;
  let logChoose = 0;
  let tail = 0;
  for (let k = 0; k <= Math.min(wins, losses); k++) {
    tail += Math.exp(logChoose - count * Math.LN2);
    logChoose += Math.log(count - k) - Math.log(k + 1);
  }
  return Math.min(1, 2 * tail);
}

/** Holm's step-down adjustment (1979): family-wise error over all of `pValues`, in their order. */
export function holm(pValues: readonly number[]): number[] {
  const order = pValues.map((_, index) => index).sort((i, j) => pValues[i]! - pValues[j]!);
  const adjusted = pValues.map(() => 1);
  let largest = 0;
  order.forEach((index, rank) => {
    largest = Math.max(largest, Math.min(1, (pValues.length - rank) * pValues[index]!));
    adjusted[index] = largest;
  });
  return adjusted;
}
