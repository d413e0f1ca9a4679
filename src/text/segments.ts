/** Token segments: the core value from curation to serving. Prompts are lists of these, never one long string. */
export interface Segment {
  ids: number[];
  /** Trained on (1) or not (0); fractions weigh a turn. */
  loss: number;
  /** What wrote it: "template", "system", "user", "assistant", "tool". */
  source: string;
  /** Index of the message it came from; -1 for text of the template's own. */
  turn: number;
}

export const idsOf = (segments: readonly Segment[]): number[] => segments.flatMap((segment) => segment.ids);
