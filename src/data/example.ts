/** What the trainer learns from: one document as token segments, or a pair of answers to one prompt.
 *  Always: `loss` of a segment is the weight of predicting each of its ids; the first id of a
 *  document, which nothing predicts, has none. */
import type { Segment } from "../text/segments.ts";

/** Supervised fine-tuning, preference conditioning and plain text. */
export interface DocumentExample {
  segments: Segment[];
}

/** DPO: `chosen` and `rejected` both continue `prompt`, whose loss is 0. */
export interface PairExample {
  prompt: Segment[];
  chosen: Segment[];
  rejected: Segment[];
}

/** KTO: an answer with a label. `prompt` has no loss. */
export interface LabelledExample {
  prompt: Segment[];
  answer: Segment[];
  good: boolean;
}

export type Example = DocumentExample | PairExample | LabelledExample;

export const isPair = (example: Example): example is PairExample => "chosen" in example;
export const isLabelled = (example: Example): example is LabelledExample => "answer" in example;

/** The documents of an example, as they lie in a dataset: one, or chosen and rejected with the prompt in front of each. */
export function documentsOf(example: Example): Segment[][] {
  if (isLabelled(example)) return [[...example.prompt, ...example.answer]];
  if (!isPair(example)) return [example.segments];
  return [
    [...example.prompt, ...example.chosen],
    [...example.prompt, ...example.rejected],
  ];
}

export const tokenCount = (segments: readonly Segment[]): number =>
  segments.reduce((sum, segment) => sum + segment.ids.length, 0);
