/** How the report writes figures: one way for each kind, so that columns line up. */
import type { Interval } from "../statistics/bootstrap.ts";

/** 0.551 -> "55.1" */
export const percent = (share: number | null, digits = 1): string =>
  share === null ? "–" : (100 * share).toFixed(digits);

export const percentInterval = (interval: Interval | null): string =>
  interval === null ? "–" : `${percent(interval[0])} to ${percent(interval[1])}`;

/** "0.018"; "< 0.001" */
export const pValue = (p: number): string => (p < 0.001 ? "< 0.001" : p.toFixed(3));

export const fixed = (value: number | null, digits: number): string =>
  value === null ? "–" : signed(value.toFixed(digits));

/** A real minus sign, and no "-0". */
const signed = (text: string): string => text.replace(/^-(?=0*\.?0*$)/, "").replace("-", "−");
