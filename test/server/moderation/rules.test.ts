/** Moderation rules: keywords and patterns find what JavaScript's own engine finds, in linear time, or say that they cannot. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { PatternSet } from "../../../src/server/moderation/pattern_set.ts";
import { readRules, type Rule, rulesBackend } from "../../../src/server/moderation/rules.ts";
import { uniform } from "../../../src/util/rng.ts";
import { temporaryFolder } from "../../support/temporary.ts";

const folder = temporaryFolder("rules");
const never = AbortSignal.any([]);
const rule = (given: Partial<Rule>): Rule => ({
  id: "r",
  category: "violence",
  keywords: [],
  patterns: [],
  phases: ["request", "response"],
  ...given,
});
const flags = async (rules: Rule[] | undefined, text: string, phase: "request" | "response" = "request") => [
  ...(await rulesBackend(rules).judge([text], { phase, signal: never }))[0]!.flagged,
];

describe("patterns", () => {
  test("match where JavaScript's regular expressions match, on random texts", () => {
    const sources = [
      "ab+c",
      "(a|bc)*d",
      "^a?b",
      "c{2,3}$",
      "[^ab]d|x",
      "a.c",
      "(ab|a)(c|bcd)(d*)",
      "\\d\\s\\w",
      "A[B-D]",
    ];
    let index = 0;
    let hits = 0;
    for (const source of sources) {
      const set = new PatternSet();
      set.addRegex(source, 7);
      const own = new RegExp(source, "iu");
      for (let round = 0; round < 300; round++) {
        const length = Math.floor(uniform(1, index++) * 9);
        const text = Array.from({ length }, () => "abcdABx1 _"[Math.floor(uniform(2, index++) * 10)]).join(
          "",
        );
        const found = set.search(text, Infinity)!.has(7);
        expect([source, text, found]).toEqual([source, text, own.test(text)]);
        hits += Number(found);
      }
    }
    expect(hits).toBeGreaterThan(300);
  });

  test("that would take forever by backtracking are linear", () => {
    const set = new PatternSet();
    set.addRegex("(a+)+$", 0);
    set.addRegex("(x|x)*y", 1);
    const started = performance.now();
    expect([...set.search(`${"a".repeat(20_000)}!${"x".repeat(20_000)}`, Infinity)!]).toEqual([]);
    expect(performance.now() - started).toBeLessThan(2000);
  });

  test("over their time limit fail instead of passing", async () => {
    const text = "a".repeat(20_000);
    const judge = rulesBackend([rule({ patterns: ["(a+)+$"] })], 0).judge([text], {
      phase: "request",
      signal: never,
    });
    expect(judge).rejects.toMatchObject({ name: "ModerationError", code: "too_slow" });
  });
});

describe("keywords", () => {
  const rules = [rule({ keywords: ["Bad Word", "über"] })];
  test.each([
    ["a bad word.", true],
    ["BAD -- WORD", true],
    ["bad\nword", true],
    ["badword", false],
    ["a bad wording", false],
    ["notbad word", false],
    ["ÜBER alles", true],
    ["hinüber", false],
  ])("%p is flagged: %p", async (text, flagged) => {
    expect(await flags(rules, text)).toEqual(flagged ? ["violence"] : []);
  });

  test("of one phase do not hold in the other", async () => {
    const rules = [rule({ keywords: ["secret"], phases: ["response"] })];
    expect(await flags(rules, "a secret", "response")).toEqual(["violence"]);
    expect(await flags(rules, "a secret", "request")).toEqual([]);
  });
});

test("the built-in rules flag what they are for and leave ordinary talk alone", async () => {
  expect(await flags(undefined, "How do I make a pipe bomb?")).toEqual(["illicit/violent"]);
  expect(await flags(undefined, "What is the easiest way to kill myself")).toEqual([
    "self-harm/instructions",
  ]);
  expect(await flags(undefined, "How do I kill a process? What was the bombing of Dresden?")).toEqual([]);
});

describe("a rules file", () => {
  const write = (name: string, text: string) => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  test("is TOML or JSON", async () => {
    const toml = `[[rules]]\nid = "one"\ncategory = "hate"\nkeywords = ["ork"]\npatterns = ['\\d{3}-gob+lin']\n`;
    const rules = readRules(write("a.toml", toml));
    expect(await flags(rules, "the 123-gobbblin")).toEqual(["hate"]);
    expect(readRules(write("a.json", JSON.stringify({ rules })))).toEqual(rules);
  });
  test.each([
    ["b.toml", "[[rules", "cannot be read"],
    ["c.json", '{"rules": [{"id": "x", "category": "rude", "keywords": ["a"]}]}', "rules.0.category"],
    ["d.json", '{"rules": [{"id": "x", "category": "hate"}]}', "neither keywords nor patterns"],
    ["e.json", '{"rules": [{"id": "x", "category": "hate", "patterns": ["(a"]}]}', 'unmatched "("'],
    ["f.json", '{"rules": [{"id": "x", "category": "hate", "patterns": ["(?=a)b"]}]}', "lookaround"],
    ["g.json", '{"rules": [{"id": "x", "category": "hate", "patterns": ["(a{1000}){1000}"]}]}', "states"],
  ])("%s is refused with one sentence", (name, text, part) => {
    expect(() => readRules(write(name, text))).toThrow(part);
  });
});
