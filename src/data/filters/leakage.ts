/** Drops training dialogues whose user turns hold a question of an evaluation, and reports the closest text of each question.
 *  Always: each user turn is compared alone, in one direction: the question is BLEU's hypothesis, the turn its reference. */
import { z } from "zod";
import { type Dialogue, userTurns } from "../dialogue.ts";
import { leakDefaults, LeakIndex, leakRules, type LeakHit } from "../leak/leak_index.ts";
import { LeakReporter, type LeakReport } from "../leak/leak_report.ts";
import { questionViews, type Question } from "../question_sets.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";

const rules = z.array(z.enum(leakRules)).min(1);

export const leakageOptions = z.strictObject({
  rule: z.literal("leakage"),
  /** Question files, and what their sets are called. */
  questions: z
    .array(
      z.strictObject({
        path: z.string().min(1),
        set: z.string().min(1).optional(),
        view: z.enum(questionViews).default("clean"),
      }),
    )
    .min(1),
  /** BLEU above this. */
  threshold: z.number().min(1).max(100).default(leakDefaults.threshold),
  /** Questions of fewer tokens are no hits by BLEU. */
  min_tokens: z.int().min(1).default(leakDefaults.minTokens),
  /** Contained share above this. */
  containment: z.number().min(0).max(1).default(leakDefaults.containmentShare),
  /** Rules that are computed and reported. */
  report: rules.default([...leakRules]),
  /** Rules that drop. */
  decide: rules.default(["bleu", "containment-8"]),
  /** train: the dialogue; test: the question, which the report lists; none: report only. */
  drop: z.enum(["train", "test", "none"]).default("train"),
});

type Options = z.output<typeof leakageOptions>;

export class Leakage implements Filter {
  readonly name = "leakage";
  private readonly index: LeakIndex;
  private readonly reporter: LeakReporter;

  constructor(
    questions: readonly Question[],
    private readonly options: Options,
  ) {
    const { threshold, report, decide } = options;
    this.index = LeakIndex.build(questions, {
      threshold,
      minTokens: options.min_tokens,
      containmentShare: options.containment,
      rules: leakRules.filter((rule) => report.includes(rule) || decide.includes(rule)),
    });
    this.reporter = new LeakReporter(questions);
  }

  apply(dialogue: Dialogue): Outcome {
    let worst: { hit: LeakHit; turn: number } | null = null;
    for (const [i, text] of userTurns(dialogue).entries())
      for (const found of this.index.check(text)) {
        const leaks = found.leaks && this.options.decide.includes(found.rule);
        const hit = { ...found, leaks };
        this.reporter.add(hit, dialogue.id, { number: i + 1, text });
        if (leaks && (worst === null || share(hit) > share(worst.hit))) worst = { hit, turn: i + 1 };
      }
    if (worst === null) return kept(dialogue);
    this.reporter.countDialogue();
    const { hit, turn } = worst;
    const reason = `a user turn holds an evaluation question (${hit.rule})`;
    const detail = `${hit.question.id}: ${scoreText(hit)}, user turn ${turn}`;
    return this.options.drop === "train" ? dropped(reason, detail) : kept(dialogue, [reason]);
  }

  report(): LeakReport {
    return this.reporter.report();
  }
}

/** Of both kinds of rules, from 0 to 1. */
const share = ({ rule, score }: LeakHit): number => (rule.startsWith("bleu") ? score / 100 : score);

const scoreText = ({ rule, score }: LeakHit): string =>
  rule.startsWith("bleu")
    ? `${rule === "bleu" ? "BLEU" : "lower-cased BLEU"} ${score.toFixed(1)}`
    : `${(score * 100).toFixed(0)} % of its ${rule.slice("containment-".length)}-grams`;
