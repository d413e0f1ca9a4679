/** How well the linear classifier tells texts apart: cross validation, average precision and area under the ROC curve.
 *  Always: a sample is scored only by a fit that has not seen it; ties share their rank. */
import { RandomStream } from "../statistics/random.ts";
import { type Category, labelled } from "./categories.ts";
import { fitCategory, flaggingPoint, logitOf, type Prepared } from "./train.ts";

export interface CategoryFigures {
  category: Category | "any";
  positive: number;
  judged: number;
  /** Area under the precision-recall curve, as average precision; chance is positive / judged. */
  auprc: number;
  auc: number;
  /** Of the positives, at 5 % of the negatives flagged. */
  recallAt5: number;
  /** At the point where a score is 0.5. */
  recall: number;
  precision: number;
}

export interface Validation {
  figures: CategoryFigures[];
  /** Per category: the logit at which it is flagged; null where it cannot be trained. */
  points: (number | null)[];
}

export function crossValidate(
  samples: readonly Prepared[],
  options: { seed: number; folds: number; onFit?: (done: number, total: number) => void },
): Validation {
  const { seed, folds } = options;
  const order = new RandomStream(seed, "folds").sample(samples.length, samples.length);
  const foldOf = Int32Array.from({ length: samples.length });
  order.forEach((sample, place) => (foldOf[sample] = place % folds));
  const logits = labelled.map(() => new Float64Array(samples.length).fill(Number.NaN));
  for (let fold = 0; fold < folds; fold++)
    labelled.forEach((_, category) => {
      const fit = fitCategory(
        samples.filter((_, i) => foldOf[i] !== fold),
        category,
        seed,
      );
      samples.forEach((sample, i) => {
        if (fit !== null && foldOf[i] === fold) logits[category]![i] = logitOf(fit, sample.vector);
      });
      options.onFit?.(fold * labelled.length + category + 1, folds * labelled.length);
    });
  return summary(samples, logits);
}

function summary(samples: readonly Prepared[], logits: readonly Float64Array[]): Validation {
  const points: (number | null)[] = [];
  const figures = labelled.flatMap((category, c): CategoryFigures[] => {
    const known = samples.flatMap((_, i) =>
      samples[i]!.labels[c] === null || Number.isNaN(logits[c]![i]!) ? [] : [i],
    );
    const labels = known.map((i) => samples[i]!.labels[c] as 0 | 1);
    const scores = known.map((i) => logits[c]![i]!);
    const point = known.length === 0 ? null : flaggingPoint(scores, labels);
    points.push(point);
    return point === null ? [] : [figuresOf(category, { scores, labels, point })];
  });
  const anyLabels = samples.map(({ labels }) => (labels.includes(1) ? 1 : 0));
  const anyScores = samples.map((_, i) =>
    Math.max(...labelled.map((_, c) => (points[c] === null ? -Infinity : logits[c]![i]! - points[c]!))),
  );
  return {
    points,
    figures: [...figures, figuresOf("any", { scores: anyScores, labels: anyLabels, point: 0 })],
  };
}

function figuresOf(
  category: CategoryFigures["category"],
  { scores, labels, point }: { scores: readonly number[]; labels: readonly (0 | 1)[]; point: number },
): CategoryFigures {
  const positive = labels.filter((label) => label === 1).length;
  const flagged = labels.filter((_, i) => scores[i]! > point);
  const found = flagged.filter((label) => label === 1).length;
  return {
    category,
    positive,
    judged: labels.length,
    auprc: averagePrecision(scores, labels),
    auc: areaUnderRoc(scores, labels),
    recallAt5: recallAt(scores, labels, 0.05),
    recall: found / positive,
    precision: flagged.length === 0 ? 0 : found / flagged.length,
  };
}

/** Sum over thresholds of (recall gained) x precision: sklearn.metrics.average_precision_score. */
export function averagePrecision(scores: readonly number[], labels: readonly (0 | 1)[]): number {
  const positive = labels.filter((label) => label === 1).length;
  let seen = 0;
  let found = 0;
  let sum = 0;
  for (const { size, hits } of thresholds(scores, labels)) {
    seen += size;
    found += hits;
    sum += (hits / positive) * (found / seen);
  }
  return sum;
}

/** The chance that a positive scores higher than a negative; ties count half (Mann and Whitney, 1947). */
export function areaUnderRoc(scores: readonly number[], labels: readonly (0 | 1)[]): number {
  const positive = labels.filter((label) => label === 1).length;
  const negative = labels.length - positive;
  let above = 0;
  let sum = 0;
  for (const { size, hits } of thresholds(scores, labels)) {
    sum += (size - hits) * (above + hits / 2);
    above += hits;
  }
  return sum / (positive * negative);
}

function recallAt(scores: readonly number[], labels: readonly (0 | 1)[], falsePositives: number): number {
  const negatives = scores.filter((_, i) => labels[i] === 0).toSorted((a, b) => b - a);
  const limit = negatives[Math.floor(negatives.length * falsePositives)] ?? -Infinity;
  const positives = scores.filter((_, i) => labels[i] === 1);
  return positives.filter((score) => score > limit).length / positives.length;
}

/** Distinct scores from the highest down: how many have it, and how many of those are positive. */
function thresholds(scores: readonly number[], labels: readonly (0 | 1)[]): { size: number; hits: number }[] {
  const order = scores.map((_, i) => i).toSorted((a, b) => scores[b]! - scores[a]!);
  const steps: { size: number; hits: number }[] = [];
  order.forEach((place, rank) => {
    if (rank === 0 || scores[place] !== scores[order[rank - 1]!]) steps.push({ size: 0, hits: 0 });
    const step = steps.at(-1)!;
    step.size++;
    step.hits += labels[place]!;
  });
  return steps;
}
