/** Keywords and regular expressions that flag a text, from a file or the few that come with Koala.
 *  Always: a search takes linear time, and ends with a ModerationError when it is over its limit. */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { categories, type Category } from "../../eval/moderation/categories.ts";
import { UsageError } from "../../util/errors.ts";
import { type Backend, type Judgement, ModerationError } from "./backend.ts";
import { PatternSet } from "./pattern_set.ts";

const ruleSchema = z
  .strictObject({
    id: z.string().min(1).max(100),
    category: z.enum(categories),
    keywords: z.array(z.string().min(1).max(200)).default([]),
    patterns: z.array(z.string().min(1)).default([]),
    phases: z.array(z.enum(["request", "response"])).default(["request", "response"]),
  })
  .refine(({ keywords, patterns }) => keywords.length + patterns.length > 0, {
    error: "has neither keywords nor patterns",
  });
const fileSchema = z.strictObject({ rules: z.array(ruleSchema).min(1).max(2000) });
export type Rule = z.output<typeof ruleSchema>;

const defaultLimitMs = 100;

export function rulesBackend(rules: readonly Rule[] = builtinRules, limitMs = defaultLimitMs): Backend {
  const patterns = new PatternSet();
  rules.forEach((rule, index) => {
    for (const keyword of rule.keywords) patterns.addKeywords(keyword, index);
    for (const pattern of rule.patterns) patterns.addRegex(pattern, index);
  });
  const judge = (text: string, answered: boolean): Judgement => {
    const found = patterns.search(text, performance.now() + limitMs);
    if (found === null)
      throw new ModerationError("too_slow", `The moderation rules took more than ${limitMs} ms for a text.`);
    const phase = answered ? "response" : "request";
    const flagged = new Set<Category>();
    for (const index of found) if (rules[index]!.phases.includes(phase)) flagged.add(rules[index]!.category);
    return { flagged, scores: new Map(known.map((category) => [category, flagged.has(category) ? 1 : 0])) };
  };
  const known = [...new Set(rules.map(({ category }) => category))];
  return {
    name: "rules",
    categories: known,
    charsMax: 20_000,
    judge: async (texts, { phase }) => texts.map((text) => judge(text, phase !== "request")),
  };
}

/** A TOML or JSON file: rules = [{ id, category, keywords, patterns, phases }]. Every fault is a UsageError. */
export function readRules(path: string): Rule[] {
  let value: unknown;
  try {
    const text = readFileSync(path, "utf8");
    value = path.endsWith(".json") ? JSON.parse(text) : Bun.TOML.parse(text);
  } catch (error) {
    throw new UsageError(
      `The rules file ${path} cannot be read: ${(error as Error).message.replace(/\.$/, "")}.`,
    );
  }
  const checked = fileSchema.safeParse(value);
  if (!checked.success) {
    const issue = checked.error.issues[0]!;
    throw new UsageError(`The rules file ${path}: ${issue.path.join(".") || "the file"}: ${issue.message}.`);
  }
  try {
    rulesBackend(checked.data.rules);
  } catch (error) {
    throw new UsageError(`The rules file ${path}: ${(error as Error).message}`);
  }
  return checked.data.rules;
}

const rule = (id: string, category: Category, patterns: string[]): Rule => ({
  id,
  category,
  patterns,
  keywords: [],
  phases: ["request", "response"],
});

/** A few phrases that hardly ever are harmless, for categories that the linear classifier does not know. */
const builtinRules: readonly Rule[] = [
  rule("weapons", "illicit/violent", [
    "(how (to|do i|can i|would i)|steps to|instructions (for|to)) (build|make|building|making|assemble) (a |an |the |my own )?(home-?made |pipe |nail |dirty |car |letter |fertilizer |nuclear )*(bomb|explosives?|grenade|ied|molotov|nerve agent|chemical weapon)",
  ]),
  rule("drugs", "illicit", [
    "(how (to|do i|can i|would i)|steps to|recipe for|instructions (for|to)) (cook|make|synthesi[sz]e|cooking|making|synthesi[sz]ing) (crystal )?(meth|methamphetamine|heroin|fentanyl|crack cocaine)",
  ]),
  rule("suicide method", "self-harm/instructions", [
    "(how (to|do i|can i|would i|should i)|best way to|easiest way to|painless way to) (kill myself|kill yourself|commit suicide|end my (own )?life|hang myself)",
  ]),
  rule("suicide intent", "self-harm/intent", [
    "i( a|')m (going to|about to|planning to) (kill myself|commit suicide|end my (own )?life|hang myself)",
  ]),
  rule("death threat", "harassment/threatening", [
    "(i will|i'll|i am going to|i'm going to|we will|we'll) (kill|murder|rape|stab|shoot) (you|your (family|kids|children|wife|mother))",
  ]),
  rule("child abuse material", "sexual/minors", ["child (porn|pornography)", "kiddie porn"]),
];
