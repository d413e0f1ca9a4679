/** Votes of tests, with defaults for what a test does not look at. */
import type { Vote } from "../../src/eval/comparison.ts";

export const vote = (part: Partial<Vote>): Vote => ({
  question: "set/1",
  set: "set",
  systemA: "x",
  systemB: "y",
  verdict: "a",
  left: "a",
  rater: "r1",
  kind: "real",
  expected: null,
  criterion: "overall",
  dwellMs: 10_000,
  note: null,
  time: 0,
  ...part,
});
