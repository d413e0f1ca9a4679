/** The model of raters behind power figures and simulated studies: prompt i has a latent gap g ~ N(gap, gapDeviation);
 *  a rater adds a liking for the left side and noise, and calls a tie when the sum is small; some raters click at random. */
import { normalCdf } from "./normal.ts";

export interface RaterModel {
  /** Spread of the gap over prompts. */
  gapDeviation: number;
  leftBias: number;
  leftBiasDeviation: number;
  /** Half-width of the band that a rater calls a tie. */
  tieBand: number;
  tieBandDeviation: number;
  /** Of one vote. */
  noise: number;
  /** Share of raters who click at random. */
  clickers: number;
}

/** About 27 % ties and a left side that is worth 6.7 points. */
export const defaultRaterModel: RaterModel = {
  gapDeviation: 0.8,
  leftBias: 0.25,
  leftBiasDeviation: 0.15,
  tieBand: 0.45,
  tieBandDeviation: 0.15,
  noise: 1,
  clickers: 0.1,
};

export interface ScoreMoments {
  /** Expected win + tie / 2. */
  score: number;
  tie: number;
  /** Of a prompt's expected score, over prompts. */
  varianceBetween: number;
  /** Of one vote around its prompt's expected score, mean over prompts. */
  varianceWithin: number;
}

/** Moments of a vote with sides drawn at random, integrated on grids over gap and tie band (no simulation). */
export function scoreMoments(gap: number, model: RaterModel = defaultRaterModel): ScoreMoments {
  let [score, tie, square, within] = [0, 0, 0, 0];
  for (const [z, weight] of normalGrid(61)) {
    const { win, loss } = chances(gap + model.gapDeviation * z, model);
    const expected = win + (1 - win - loss) / 2;
    score += weight * expected;
    tie += weight * (1 - win - loss);
    square += weight * expected ** 2;
    within += weight * (win + (1 - win - loss) / 4 - expected ** 2);
  }
  return { score, tie, varianceBetween: square - score ** 2, varianceWithin: within };
}

/** The gap at which the expected score is `score`. */
export function gapForScore(score: number, model: RaterModel = defaultRaterModel): number {
  let [low, high] = [-8, 8];
  for (let step = 0; step < 40; step++) {
    const middle = (low + high) / 2;
    if (scoreMoments(middle, model).score < score) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function chances(gap: number, model: RaterModel): { win: number; loss: number } {
  const deviation = Math.hypot(model.noise, model.leftBiasDeviation);
  let [win, loss] = [0, 0];
  for (const [z, weight] of normalGrid(13)) {
    const band = Math.abs(model.tieBand + model.tieBandDeviation * z);
    for (const side of [-1, 1]) {
      const center = gap + side * model.leftBias;
      win += (weight / 2) * normalCdf((center - band) / deviation);
      loss += (weight / 2) * normalCdf((-center - band) / deviation);
    }
  }
  const honest = 1 - model.clickers;
  return { win: honest * win + model.clickers / 3, loss: honest * loss + model.clickers / 3 };
}

/** Points and weights of a standard normal between -4.5 and 4.5. */
function normalGrid(count: number): (readonly [number, number])[] {
  const points = Array.from({ length: count }, (_, index) => -4.5 + (9 * index) / (count - 1));
  const weights = points.map((z) => Math.exp((-z * z) / 2));
  const sum = weights.reduce((all, weight) => all + weight, 0);
  return points.map((z, index) => [z, weights[index]! / sum]);
}
