/** Fits the linear classifier: one logistic regression a category, by AdaGrad (Duchi et al., 2011) over shuffled samples.
 *  Always: the same samples and seed give the same weights, bit for bit; an unknown label teaches nothing. */
import { RandomStream } from "../statistics/random.ts";
import { labelled } from "./categories.ts";
import { bucketCount, features, rarity, type SparseVector, weigh } from "./features.ts";
import { LinearModel, quantize } from "./linear_model.ts";
import type { Sample } from "./samples.ts";

/** Chosen by 5-fold cross validation on OpenAI's 1680 samples. */
const epochs = 12;
const rate = 10;
/** So large that AdaGrad only slows the commonest buckets; at 0.01 the area under the curve is 0.07 less. */
const damping = 10;
const balance = 0.75;
/** Share of unflagged samples that may be flagged at a score of 0.5. */
export const falseAlarms = 0.01;

export interface Prepared extends Sample {
  vector: SparseVector;
}

/** With the rarities that weighed them. */
export interface PreparedSet {
  idf: Uint8Array;
  samples: Prepared[];
}

/** Rarity is taken from these texts, labels unseen. */
export function prepare(samples: readonly Sample[]): PreparedSet {
  const vectors = samples.map(({ text }) => features(text));
  const idf = rarity(vectors);
  return { idf, samples: samples.map((sample, i) => ({ ...sample, vector: weigh(vectors[i]!, idf) })) };
}

/** Weights and bias of one category. */
export interface Fit {
  weights: Float64Array;
  bias: number;
}

/** null where a category has no positive sample or no negative one. */
export function fitCategory(samples: readonly Prepared[], category: number, seed: number): Fit | null {
  const known = samples.filter(({ labels }) => labels[category] !== null);
  const positive = known.filter(({ labels }) => labels[category] === 1).length;
  if (positive === 0 || positive === known.length) return null;
  // Rare categories would otherwise be answered with "no" for everything.
  const weightOfPositive = ((known.length - positive) / positive) ** balance;
  const fit: Fit = { weights: new Float64Array(bucketCount), bias: 0 };
  const squares = new Float64Array(bucketCount);
  let biasSquares = 0;
  const random = new RandomStream(seed, `order ${category}`);
  for (let epoch = 0; epoch < epochs; epoch++) {
    for (const place of random.sample(known.length, known.length)) {
      const { vector, labels } = known[place]!;
      const target = labels[category]!;
      const error = (1 / (1 + Math.exp(-logitOf(fit, vector))) - target) * (target ? weightOfPositive : 1);
      step(fit.weights, squares, vector, error);
      biasSquares += error * error;
      fit.bias -= (rate * error) / (Math.sqrt(biasSquares) + damping);
    }
  }
  return fit;
}

function step(weights: Float64Array, squares: Float64Array, vector: SparseVector, error: number): void {
  const { indices, values } = vector;
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i]!;
    const gradient = error * values[i]!;
    squares[index]! += gradient * gradient;
    weights[index]! -= (rate * gradient) / (Math.sqrt(squares[index]!) + damping);
  }
}

export function logitOf({ weights, bias }: Fit, { indices, values }: SparseVector): number {
  let sum = bias;
  for (let i = 0; i < indices.length; i++) sum += weights[indices[i]!]! * values[i]!;
  return sum;
}

/** The logit that `falseAlarms` of the unflagged samples exceed. */
export function flaggingPoint(logits: readonly number[], labels: readonly (0 | 1)[]): number {
  const unflagged = logits.filter((_, i) => labels[i] === 0).toSorted((a, b) => b - a);
  return unflagged[Math.floor(unflagged.length * falseAlarms)] ?? 0;
}

/** The whole model. `points`: where each category is flagged, measured on samples that the fit had not seen. */
export function trainModel(
  { idf, samples }: PreparedSet,
  points: readonly (number | null)[],
  { seed, onCategory }: { seed: number; onCategory?: (done: number) => void },
): LinearModel {
  return new LinearModel(
    idf,
    new Map(
      labelled.flatMap((category, i) => {
        const fit = fitCategory(samples, i, seed);
        onCategory?.(i + 1);
        const point = points[i];
        if (fit === null || point === null || point === undefined) return [];
        return [[category, quantize(fit.weights, fit.bias - point)] as const];
      }),
    ),
  );
}
