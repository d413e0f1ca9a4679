/** What a filter is: a named rule that keeps, changes, splits or drops dialogues, one pass over the stream.
 *  Always: a filter is deterministic in its options, its seed and the order of its input; everything it drops is reported. */
import type { Dialogue } from "../dialogue.ts";

/** What became of one dialogue. */
export type Outcome =
  | {
      kept: Dialogue[];
      /** What was changed, in equal words for equal changes; none: untouched. */ changes: string[];
      /** What was seen and left as it is, such as an e-mail address where the rule only reports; counted like changes. */
      notes?: string[];
    }
  | { dropped: { reason: string; detail: string | null } };

export interface Filter {
  readonly name: string;
  /** Looks at one dialogue. Filters that must have seen all of them first (dedup that keeps the longest) prepare before. */
  apply(dialogue: Dialogue): Outcome;
  /** Called with every dialogue in order before the first `apply`, where the filter declares it. `apply` is then called with
   *  the same dialogues in the same order. */
  prepare?(dialogues: AsyncIterable<Dialogue>): Promise<void>;
  /** What the filter found out beyond its counts, for the stage's report: plain JSON. */
  report?(): unknown;
}

export const kept = (dialogue: Dialogue, notes?: string[]): Outcome =>
  notes && notes.length > 0 ? { kept: [dialogue], changes: [], notes } : { kept: [dialogue], changes: [] };

export const changed = (dialogue: Dialogue, ...changes: string[]): Outcome => ({ kept: [dialogue], changes });

export const dropped = (reason: string, detail: string | null = null): Outcome => ({
  dropped: { reason, detail },
});
