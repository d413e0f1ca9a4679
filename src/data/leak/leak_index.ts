/** The evaluation questions, indexed to find them in training texts by three rules: BLEU, BLEU of lower-cased text, and
 *  containment of word n-grams. Always: exact for the rules as stated, whatever the order of the texts. */
import type { Question } from "../question_sets.ts";
import { tokenize13a } from "./bleu.ts";
import { BleuIndex } from "./bleu_index.ts";
import { ContainmentIndex } from "./containment_index.ts";
import { WordReader } from "./word_reader.ts";

export const leakRules = ["bleu", "bleu-lower", "containment-8", "containment-13"] as const;
export type LeakRule = (typeof leakRules)[number];

export interface LeakOptions {
  /** A BLEU above this is a hit (Koala's post: 20 %). */
  threshold: number;
  /** Questions of fewer 13a tokens are no hits by BLEU, whose smoothing gives "What is love?" and "What is rust?" 35. */
  minTokens: number;
  /** A share of the question's n-grams above this is a hit. */
  containmentShare: number;
  /** Rules that are looked at; each costs its time. */
  rules: readonly LeakRule[];
}

export const leakDefaults: LeakOptions = {
  threshold: 20,
  minTokens: 5,
  containmentShare: 0.5,
  rules: leakRules,
};

export interface LeakHit {
  question: Question;
  rule: LeakRule;
  /** BLEU from 0 to 100, or the contained share from 0 to 1. */
  score: number;
  /** Of BLEU rules: the score without smoothing. */
  unsmoothed: number | null;
  /** Above the rule's threshold; contained shares below it are reported too. */
  leaks: boolean;
}

export class LeakIndex {
  private readonly reader = new WordReader();
  private readonly bleu: BleuIndex | null;
  private readonly bleuLower: BleuIndex | null;
  private readonly containment: { rule: LeakRule; index: ContainmentIndex }[];
  private readonly lengths: number[];

  static build(questions: readonly Question[], options: Partial<LeakOptions> = {}): LeakIndex {
    return new LeakIndex(questions, { ...leakDefaults, ...options });
  }

  private constructor(
    readonly questions: readonly Question[],
    readonly options: LeakOptions,
  ) {
    const uses = (rule: LeakRule): boolean => options.rules.includes(rule);
    const words = questions.map(({ text }) => tokenize13a(text));
    const lower = questions.map(({ text }) => tokenize13a(text.toLowerCase()));
    this.lengths = words.map((list) => list.length);
    this.bleu = uses("bleu") ? new BleuIndex(words, options.threshold) : null;
    this.bleuLower = uses("bleu-lower") ? new BleuIndex(lower, options.threshold) : null;
    this.containment = ([8, 13] as const)
      .filter((n) => uses(`containment-${n}`))
      .map((n) => ({ rule: `containment-${n}`, index: new ContainmentIndex(lower, n) }));
  }

  /** What `text` shares with the questions. */
  check(text: string): LeakHit[] {
    const count = this.reader.read(text);
    const { words } = this.reader;
    const hits: LeakHit[] = [];
    if (this.bleu) this.addBleu(hits, "bleu", this.bleu, words, count);
    if (!this.bleuLower && this.containment.length === 0) return hits;
    // The text, not its tokens, as sacrebleu does: `&AMP;` is an entity only in lower case, a final sigma depends on its line.
    const lowerCount = this.reader.read(text.toLowerCase());
    if (this.bleuLower) this.addBleu(hits, "bleu-lower", this.bleuLower, words, lowerCount);
    for (const { rule, index } of this.containment)
      for (const { query, share } of index.check(words, lowerCount))
        hits.push({
          question: this.questions[query]!,
          rule,
          score: share,
          unsmoothed: null,
          leaks: share > this.options.containmentShare,
        });
    return hits;
  }

  private addBleu(hits: LeakHit[], rule: LeakRule, index: BleuIndex, words: string[], count: number): void {
    for (const { query, score, unsmoothed } of index.check(words, count)) {
      const leaks = this.lengths[query]! >= this.options.minTokens;
      hits.push({ question: this.questions[query]!, rule, score, unsmoothed, leaks });
    }
  }
}
