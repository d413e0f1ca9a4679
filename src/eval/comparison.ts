/** A blind comparison: one prompt, two answers whose systems are hidden, and the verdicts on them.
 *  Always: `left` and `right` are places on a page, `a` and `b` are systems; verdicts are stored by system. */

export type { Question } from "../data/question_sets.ts";

/** What one system answered. */
export interface Answer {
  question: string;
  system: string;
  text: string;
  /** stop, length, error. */
  finish: string;
}

export type Verdict = "a" | "b" | "tie" | "both_bad";

/** One rating of one pair by one rater (a person, or a judge model). */
export interface Vote {
  question: string;
  set: string;
  systemA: string;
  systemB: string;
  verdict: Verdict;
  /** Which system stood on the left. */
  left: "a" | "b";
  rater: string;
  /** real; gold: the right verdict is known; repeat: asked again with sides swapped. */
  kind: "real" | "gold" | "repeat";
  /** Of golds. */
  expected: Verdict | null;
  /** "overall", or the name of a criterion. */
  criterion: string;
  dwellMs: number | null;
  note: string | null;
  /** Milliseconds since 1970. */
  time: number;
}

/** 1 for a, 0 for b, one half for ties of both kinds. */
export const scoreOf = (verdict: Verdict): number => (verdict === "a" ? 1 : verdict === "b" ? 0 : 0.5);
