/** KTO's reference point: each labelled answer gets, as a second document, its question with the answer of the record before it
 *  (TRL does the same within a batch). Here it is a property of the data set, so that no batch or rank changes it.
 *  Always: documents come in pairs (answer, mismatched answer); every answer is once the mismatched one of another. */
import type { Segment } from "../text/segments.ts";
import { tokenCount, type LabelledExample } from "./example.ts";

export interface LabelledPair {
  answer: Segment[];
  mismatched: Segment[];
  good: boolean;
}

export class Mismatcher {
  private first: LabelledExample | null = null;
  private before: LabelledExample | null = null;

  /** `sequenceLength`: what does not fit of a mismatched answer is cut off, as nothing is learned from it. */
  constructor(private readonly sequenceLength: number) {}

  /** The pair of `example`; none for the first one, which waits for the last. */
  add(example: LabelledExample): LabelledPair[] {
    const { before } = this;
    this.before = example;
    this.first ??= example;
    return before ? [this.pair(example, before)] : [];
  }

  /** The first example with the last one's answer. */
  finish(): LabelledPair[] {
    const { first, before } = this;
    return first && before ? [this.pair(first, before)] : [];
  }

  private pair({ prompt, answer, good }: LabelledExample, other: LabelledExample): LabelledPair {
    let room = this.sequenceLength - tokenCount(prompt);
    const mismatched = other.answer.map((segment) => {
      const ids = segment.ids.slice(0, room);
      room -= ids.length;
      return { ...segment, ids };
    });
    return { answer: [...prompt, ...answer], mismatched: [...prompt, ...mismatched], good };
  }
}
