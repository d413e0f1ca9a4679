/** A study as its report sees it: what was asked, who answered, who voted. Everything in a report is a function of this.
 *  Always: answers, votes and judgements name questions and systems of the same study. */
import type { Answer, Question, Verdict, Vote } from "./comparison.ts";

/** Two systems that are compared: scores are those of the first. */
export type Pair = readonly [a: string, b: string];

export interface StudyData {
  study: StudyPlan;
  answers: readonly Answer[];
  votes: readonly Vote[];
  judgements: readonly Judgement[];
}

/** What was fixed before the first vote, and what was found out about the material. study.json holds it. */
export interface StudyPlan {
  title: string;
  questions: readonly Question[];
  systems: readonly StudySystem[];
  pairs: readonly Pair[];
  seed: number;
  /** Fixed before the first vote. */
  raterRule: RaterRule;
  /** Command lines that made the study, in order. */
  commands: readonly string[];
  /** File or weights -> sha256. */
  hashes: Readonly<Record<string, string>>;
  /** Question id -> topic, where the set has topics. */
  topics: Readonly<Record<string, string>>;
  /** Questions found in training data; null: nobody looked. */
  leaks: readonly QuestionLeak[] | null;
  /** What users or raters reported about answers. */
  flags: readonly AnswerFlag[];
}

export interface StudySystem {
  id: string;
  /** As the report prints it. */
  label: string;
  /** Weights, decoding, template, … as name and value. */
  details: Readonly<Record<string, string>>;
}

/** A rater with fewer right golds or a shorter median dwell is left out of the main analysis. */
export interface RaterRule {
  goldShareMin: number;
  medianDwellMsMin: number;
}

export const defaultRaterRule: RaterRule = { goldShareMin: 0.7, medianDwellMsMin: 5000 };

export interface QuestionLeak {
  question: string;
  /** "bleu", "containment", … */
  rule: string;
  score: number;
  /** Where in the training data. */
  source: string;
}

export interface AnswerFlag {
  question: string;
  system: string;
  category: string;
  note: string;
}

/** One call of an automatic judge about one pair in one order. */
export interface Judgement {
  question: string;
  set: string;
  systemA: string;
  systemB: string;
  judge: string;
  /** ab: the answer of a was shown first. */
  order: "ab" | "ba";
  /** By system, not by place; null: the call failed or its text holds no clear verdict. */
  verdict: Verdict | null;
  /** Why there is no verdict. */
  error: string | null;
  /** What the judge wrote. */
  raw: string;
  /** Of the question, both answers and the judge's instructions: a changed answer is judged again. */
  fingerprint: string;
  /** Milliseconds since 1970. */
  time: number;
}

export const pairName = ([a, b]: Pair): string => `${a} vs ${b}`;
