/** What preference losses make of the log-probabilities of a micro-batch: each document's part of the loss, and what multiplies
 *  its token weights in backward.
 *  Always: a term depends on its own documents and on figures of the whole step, never on the micro-batch it lies in. */
import { dpoTerm, ktoTerm, type Method, type StepDocument, type StepRow } from "./loss.ts";

export interface PreferenceTerm {
  /** Places in the micro-batch, and what multiplies the token weights there. */
  coefficients: [document: number, value: number][];
  loss: number;
  /** Of which the sum over the step is reported. */
  margin: number;
  /** The loss would call it right: chosen above rejected, or an answer on its label's side of the reference. */
  wins: boolean;
}

/** Of the whole step. */
export interface StepFigures {
  /** KTO: mean log-ratio of the model to its reference on answers to other questions, at least 0. */
  kl: number;
  /** KTO: answers labelled good, and bad. */
  good: number;
  bad: number;
}

export function stepFigures(rows: readonly StepRow[], kl: number): StepFigures {
  const answers = rows.flat();
  const good = answers.filter(({ label }) => label === true).length;
  return { kl, good, bad: answers.length - good };
}

/** `ratio`: log-probability under the model less that under the reference, by place in the micro-batch. */
export function preferenceTerms(
  method: Exclude<Method, { type: "sft" }>,
  documents: readonly StepDocument[],
  ratio: (document: number) => number,
  { kl, good, bad }: StepFigures,
): PreferenceTerm[] {
  if (method.type === "dpo")
    return Array.from({ length: documents.length >> 1 }, (_, pair): PreferenceTerm => {
      const { loss, margin, coefficient } = dpoTerm(method.beta, ratio(2 * pair), ratio(2 * pair + 1));
      const coefficients: PreferenceTerm["coefficients"] = [
        [2 * pair, coefficient],
        [2 * pair + 1, -coefficient],
      ];
      return { coefficients, loss, margin, wins: margin > 0 };
    });
  return documents.map(({ label }, d): PreferenceTerm => {
    const { loss, coefficient, margin } = ktoTerm(method, label === true, ratio(d), kl);
    const reward = method.beta * ratio(d);
    // Summed over the step: the mean reward of good answers less that of bad ones.
    const share = label === true ? reward / good : -reward / bad;
    return { coefficients: [[d, coefficient]], loss, margin: share, wins: margin > 0 };
  });
}

/** The trained documents of each row: under KTO the answers, without the answers to other questions behind each. */
export const trainedRows = (rows: readonly StepRow[], { type }: Method): readonly StepRow[] =>
  type === "kto" ? rows.map((row) => row.filter((_, d) => d % 2 === 0)) : rows;

/** KTO's answers to other questions. */
export const mismatchedRows = (rows: readonly StepRow[]): StepRow[] =>
  rows.map((row) => row.filter((_, d) => d % 2 === 1));
