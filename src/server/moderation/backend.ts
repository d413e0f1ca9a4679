/** One judge of texts, as the chain of the Moderator sees it.
 *  Always: one judgement a text, in order; a category that it does not know is absent, not 0. */
import type { Category } from "../../eval/moderation/categories.ts";

/** request: what a client sent; response: a whole answer; stream: an answer so far, of which part is still held back. */
export type Phase = "request" | "response" | "stream";

export interface Judgement {
  /** 0 to 1. */
  scores: ReadonlyMap<Category, number>;
  /** Flagged whatever the thresholds are: by a rule, or by a remote service's own decision. */
  flagged: ReadonlySet<Category>;
}

export interface Backend {
  readonly name: string;
  /** What it can tell apart. */
  readonly categories: readonly Category[];
  /** Longer texts come in overlapping pieces. */
  readonly charsMax: number;
  judge(texts: readonly string[], of: { phase: Phase; signal: AbortSignal }): Promise<Judgement[]>;
  close?(): Promise<void>;
}

/** What a back end could not do; the sentence is for the operator and for the one who asked. */
export class ModerationError extends Error {
  override name = "ModerationError";
  constructor(
    readonly code: "timeout" | "unavailable" | "bad_answer" | "too_slow",
    message: string,
  ) {
    super(message);
  }
}
