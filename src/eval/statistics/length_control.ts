/** Length control: what the score would be if both answers were equally long (after AlpacaEval 2, Dubois et al. 2024,
 *  arXiv 2404.04475: logistic regression on tanh of the standardised length difference; its term for the difficulty of
 *  each instruction, which needs many systems on the same prompts, is left out). */
import { type Interval, percentileInterval } from "./bootstrap.ts";
import { mean } from "./clusters.ts";
import type { RandomStream } from "./random.ts";

/** One prompt: its score, and by how many characters the first system's answer is longer. */
export interface LengthPoint {
  score: number;
  difference: number;
}

export type LengthControl =
  | {
      /** At difference 0. */
      score: number;
      interval: Interval;
      /** Logits for a difference of one standard deviation under tanh; positive: longer answers win. */
      slope: number;
      meanDifference: number;
      deviation: number;
    }
  | { refusal: string };

/** More resamples than this share without a finite fit: an interval from the rest would look too narrow. */
const failedShareMax = 0.05;

export function lengthControl(
  points: readonly LengthPoint[],
  { draws, random }: { draws: number; random: RandomStream },
): LengthControl {
  if (points.length < 3) {
    return { refusal: `${points.length} prompts are too few for a regression on length.` };
  }
  const meanDifference = mean(points.map(({ difference }) => difference));
  const deviation = Math.sqrt(mean(points.map(({ difference }) => (difference - meanDifference) ** 2)));
  if (deviation === 0) return { refusal: "All length differences are the same, so length explains nothing." };
  const y = Float64Array.from(points, ({ score }) => score);
  const x = Float64Array.from(points, ({ difference }) => Math.tanh(difference / deviation));
  const fit = logistic(x, y);
  const failure = "has no finite estimate: length or the winner is too one-sided in these votes.";
  if (fit === null) return { refusal: `The regression on length ${failure}` };
  const scores: number[] = [];
  const xDrawn = new Float64Array(x.length);
  const yDrawn = new Float64Array(x.length);
  for (let draw = 0; draw < draws; draw++) {
    for (let row = 0; row < x.length; row++) {
      const chosen = random.below(x.length);
      xDrawn[row] = x[chosen]!;
      yDrawn[row] = y[chosen]!;
    }
    const drawn = logistic(xDrawn, yDrawn);
    if (drawn !== null) scores.push(sigmoid(drawn.intercept));
  }
  if (draws - scores.length > failedShareMax * draws)
    return { refusal: `A resample of the regression ${failure}` };
  return {
    score: sigmoid(fit.intercept),
    interval: percentileInterval(Float64Array.from(scores).sort()),
    slope: fit.slope,
    meanDifference,
    deviation,
  };
}

const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));

/** Maximum likelihood of y ~ sigmoid(intercept + slope x) for y in [0, 1], by Newton's method; null without a finite maximum. */
export function logistic(x: Float64Array, y: Float64Array): { intercept: number; slope: number } | null {
  let intercept = 0;
  let slope = 0;
  for (let iteration = 0; iteration < 50; iteration++) {
    let [g0, g1, h00, h01, h11] = [0, 0, 0, 0, 0];
    for (let row = 0; row < x.length; row++) {
      const p = sigmoid(intercept + slope * x[row]!);
      const rest = y[row]! - p;
      const weight = p * (1 - p);
      g0 += rest;
      g1 += rest * x[row]!;
      h00 += weight;
      h01 += weight * x[row]!;
      h11 += weight * x[row]! ** 2;
    }
    const determinant = h00 * h11 - h01 ** 2;
    // Perfect separation: the maximum lies at infinity, and the curvature vanishes on the way.
    if (determinant < 1e-12 * x.length ** 2) return null;
    const step0 = (h11 * g0 - h01 * g1) / determinant;
    const step1 = (h00 * g1 - h01 * g0) / determinant;
    const scale = Math.min(1, 4 / Math.max(Math.abs(step0), Math.abs(step1)));
    intercept += scale * step0;
    slope += scale * step1;
    if (Math.max(Math.abs(step0), Math.abs(step1)) < 1e-10) return { intercept, slope };
  }
  return null;
}
