/** What is minimised: each token's weight in -sum weight * log p, for SFT and for DPO.
 *  Always: denominators are those of the whole optimizer step, so micro-batches and ranks change nothing. */
import type { MicroBatch, TrainDocument } from "./micro_batch.ts";

/** token: mean over all weighted tokens of the step. row: mean over rows of each row's mean (EasyLM). */
export type LossReduction = "token" | "row";

export interface KtoWeights {
  beta: number;
  /** Of the losses of answers labelled good, and bad. */
  desirableWeight: number;
  undesirableWeight: number;
}

/** dpo (Rafailov et al. 2023): documents 2i and 2i + 1 of a row are chosen and rejected. kto (Ethayarajh et al. 2024):
 *  document 2i is an answer with a label, 2i + 1 the same question with another record's answer. */
export type Method =
  { type: "sft"; reduction: LossReduction } | { type: "dpo"; beta: number } | ({ type: "kto" } & KtoWeights);

export interface StepDocument extends TrainDocument {
  /** DPO, KTO: sum of weighted log-probabilities under the reference model. */
  reference?: number;
  /** KTO: whether the answer is good. */
  label?: boolean;
}

/** Documents that share a row of the packed data. */
export type StepRow = StepDocument[];

/** The factor on the token weights of every document of each row; for DPO and KTO that of a pair's or an answer's loss. */
export function rowFactors(rows: readonly StepRow[], method: Method): number[] {
  if (method.type !== "sft") {
    const compared = comparedCount(rows, method);
    return rows.map(() => (compared > 0 ? 1 / compared : 0));
  }
  const weights = rows.map((row) => row.reduce((sum, document) => sum + totalWeight(document), 0));
  if (method.reduction === "token") {
    const total = weights.reduce((a, b) => a + b, 0);
    return rows.map(() => (total > 0 ? 1 / total : 0));
  }
  // EasyLM's mean counts a row without trained tokens as 0, instead of leaving it out.
  return weights.map((weight) => (weight > 0 ? 1 / (weight * rows.length) : 0));
}

/** Pairs of DPO, answers of KTO. */
export const comparedCount = (rows: readonly StepRow[], { type }: Method): number =>
  rows.reduce((sum, row) => sum + row.length, 0) / (type === "dpo" ? 2 : 1);

/** Sum of the weights of the predictions of a document. */
export function totalWeight({ weights }: TrainDocument): number {
  let sum = 0;
  for (let i = 1; i < weights.length; i++) sum += weights[i] as number;
  return sum;
}

/** Tokens of a document that the loss is on. */
export function trainedCount({ weights }: TrainDocument): number {
  let count = 0;
  for (let i = 1; i < weights.length; i++) if (weights[i] !== 0) count++;
  return count;
}

/** sum weight * log p of each document of a batch. */
export function documentSums(batch: MicroBatch, logprobs: Float64Array): Float64Array {
  const sums = new Float64Array(batch.S);
  logprobs.forEach((logprob, r) => {
    const document = batch.hostDocuments[r] as number;
    sums[document] = (sums[document] as number) + logprob * (batch.hostWeights[r] as number);
  });
  return sums;
}

export interface PairTerm {
  loss: number;
  /** Reward of the chosen answer less that of the rejected one. */
  margin: number;
  /** What multiplies the token weights of the chosen document, and negated those of a rejected one. */
  coefficient: number;
}

/** -log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected)) and its derivative. */
export function dpoTerm(beta: number, chosen: number, rejected: number): PairTerm {
  const margin = beta * (chosen - rejected);
  // softplus(-margin), without overflow
  const loss = Math.max(0, -margin) + Math.log1p(Math.exp(-Math.abs(margin)));
  return { loss, margin, coefficient: beta / (1 + Math.exp(margin)) };
}

/** w * (1 - sigmoid(z)), z = beta * (ratio - kl) for a good answer and its negative for a bad one, and its derivative; kl is
 *  a constant. `coefficient` multiplies the answer's token weights; `margin` is z. */
export function ktoTerm(
  { beta, desirableWeight, undesirableWeight }: KtoWeights,
  good: boolean,
  ratio: number,
  kl: number,
): PairTerm {
  const [weight, sign] = good ? [desirableWeight, 1] : [undesirableWeight, -1];
  const margin = sign * beta * (ratio - kl);
  const wrong = 1 / (1 + Math.exp(margin));
  return { loss: weight * wrong, margin, coefficient: sign * weight * beta * wrong * (1 - wrong) };
}
