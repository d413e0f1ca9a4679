import { describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Dialogue } from "../../../src/data/dialogue.ts";
import { findDrops, whyText } from "../../../src/data/filters/drops.ts";
import { parseFilters } from "../../../src/data/filters/registry.ts";
import { filterTable } from "../../../src/data/filters/report.ts";
import type { LeakReport } from "../../../src/data/leak/leak_report.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { asked, dialogue, filtersOf, run } from "./dialogues.ts";

const folder = temporaryFolder("pipeline");

const tables = [
  { rule: "artefacts" },
  { rule: "empty_turns" },
  { rule: "dedup" },
  { rule: "near_dedup", text: "first-query" },
  { rule: "split", unit: "characters", max: 60 },
];

function* generated(count: number): Generator<Dialogue> {
  for (let i = 0; i < count; i++) {
    const question = `Question ${i % 300} about ${["rivers", "bread", "stars"][i % 3]}`;
    const answer = i % 50 === 49 ? " " : `Answer ${"x".repeat(i % 90)}`;
    const source = i % 4 === 0 ? "other" : "made";
    yield { ...dialogue(i, `u: ${question}`, `a: ${answer}`, "u: More?", `a: ${answer}`), source };
  }
}

describe("the pipeline", () => {
  test("accounts for every dialogue at every rule and source, and equal input gives equal output", async () => {
    const once = await run(generated(1000), await filtersOf(tables), folder);
    const again = await run(generated(1000), await filtersOf(tables), folder);
    expect(JSON.stringify(again)).toBe(JSON.stringify(once));
    let flowing = 1000;
    for (const rule of once.report.rules) {
      expect(rule.in).toBe(flowing);
      if (rule.rule !== "split") expect(rule.in).toBe(rule.out + rule.dropped);
      expect(Object.values(rule.reasons).reduce((a, b) => a + b, 0)).toBe(rule.dropped);
      const sources = Object.values(rule.sources);
      for (const key of ["in", "out", "changed", "dropped"] as const)
        expect(sources.reduce((sum, one) => sum + one[key], 0)).toBe(rule[key]);
      flowing = rule.out;
    }
    expect(once.kept).toHaveLength(flowing);
    expect(once.report.output).toBe(flowing);
    // 20 empty answers, which are all there is of 6 of the 300 questions.
    expect(once.report.rules.map(({ dropped }) => dropped).slice(1, 3)).toEqual([20, 980 - 294]);
    expect(once.report.rules[4]!.changed).toBeGreaterThan(10);
    // Each one ends once: kept (whole or in pieces) or dropped.
    const ends = [
      ...once.kept.map(({ line }) => line),
      ...once.drops.map(({ id }) => Number(id.split(":")[1])),
    ];
    expect(new Set(ends).size).toBe(1000);
  });

  test("leaves no file behind, also where the input fails in the middle", async () => {
    const work = join(folder, "work");
    async function* broken(): AsyncGenerator<Dialogue> {
      yield* generated(5);
      throw new Error("the disk is gone");
    }
    await expect(run(broken(), await filtersOf([{ rule: "dedup" }]), work)).rejects.toThrow(
      "the disk is gone",
    );
    expect(readdirSync(work)).toEqual([]);
  });

  test("prints a table with the reasons below their rule", async () => {
    const { report } = await run(generated(100), await filtersOf(tables.slice(0, 2)), folder);
    expect(filterTable(report).split("\n")).toEqual([
      "rule                                 in  changed  dropped  out",
      "artefacts                           100        0        0  100",
      "empty_turns                         100        0        2   98",
      "  a turn of the assistant is empty                      2",
      "all                                 100                     98",
    ]);
  });
});

describe("recipes", () => {
  test("unknown rules, unknown keys and wrong values are errors that name the table", () => {
    expect(() => parseFilters([{ rule: "dedup" }, { rule: "dedpu" }])).toThrow(/\[\[filters\]\] 2: .*rule/);
    expect(() => parseFilters([{ rule: "dedup", keys: "first-query" }])).toThrow(/\[\[filters\]\] 1: .*keys/);
    expect(() => parseFilters([{ rule: "split", max: 0 }])).toThrow(/max/);
  });

  test("a missing question file is named", async () => {
    const table = { rule: "leakage", questions: [{ path: "none.jsonl" }] };
    await expect(filtersOf([table], { directory: folder })).rejects.toThrow(/no question file .*none\.jsonl/);
  });

  test("languages that the model does not know are refused with those it knows", async () => {
    await expect(filtersOf([{ rule: "language", languages: ["xx"] }])).rejects.toThrow(
      /"xx"; it knows .*\ben\b/,
    );
  });
});

describe("leakage in the pipeline", () => {
  const question =
    "Write a short letter to the harbour master and ask whether two boats may stay over the winter";
  const input = [
    asked(1, "How do I bake bread without any yeast at home?"),
    dialogue(2, "u: Hello", "a: Hi", `u: ${question}`, "a: Dear ..."),
    asked(3, `${"Please read this carefully before you start. ".repeat(12)}${question}. Thanks!`),
    asked(4, question.toUpperCase()),
  ];
  const table = { rule: "leakage", questions: [{ path: "questions.jsonl", set: "own" }] };
  const filters = async (more: object) => {
    await Bun.write(
      join(folder, "questions.jsonl"),
      `${JSON.stringify({ id: 7, prompt: `2 / 2${question}` })}\n${JSON.stringify({ id: 8, prompt: "What is love?" })}\n`,
    );
    return filtersOf([{ ...table, ...more }], { directory: folder });
  };

  test("drops the dialogue and names question, score, rule and turn", async () => {
    const ran = await run(input, await filters({}), folder);
    expect(ran.kept.map(({ line }) => line)).toEqual([1]);
    expect(ran.drops.map(({ reason, detail }) => [reason, detail])).toEqual([
      ["a user turn holds an evaluation question (bleu)", "own/7: BLEU 100.0, user turn 2"],
      [
        "a user turn holds an evaluation question (containment-8)",
        "own/7: 100 % of its 8-grams, user turn 1",
      ],
      [
        "a user turn holds an evaluation question (containment-8)",
        "own/7: 100 % of its 8-grams, user turn 1",
      ],
    ]);
    const report = ran.report.rules[0]!.report as LeakReport;
    expect([report.questions, report.leaked, report.dialogues]).toEqual([2, 1, 3]);
    expect(report.rows[0]!.closest.bleu).toMatchObject({
      score: expect.closeTo(100, 9),
      dialogue: "made/made.jsonl:2",
      turn: 2,
    });
    expect(report.rows[1]).toMatchObject({ question: "own/8", leaks: false, closest: {} });
  });

  test("drops nothing from training where the test side goes, or nothing shall", async () => {
    for (const drop of ["test", "none"]) {
      const ran = await run(input, await filters({ drop }), folder);
      expect(ran.kept).toEqual(input);
      expect((ran.report.rules[0]!.report as LeakReport).rows.map(({ leaks }) => leaks)).toEqual([
        true,
        false,
      ]);
    }
  });
});

test("dropped records are found by id, by part of the id and by words, and explained", async () => {
  const { drops } = await run(
    [asked(1, "Hi", "Hello"), asked(2, "hi", "Hello you"), asked(12, "x", "Too many requests in 1 hour.")],
    await filtersOf([{ rule: "artefacts" }, { rule: "dedup" }]),
    folder,
  );
  const stages = temporaryFolder("drops");
  await mkdir(join(stages, "curate"));
  await Bun.write(
    join(stages, "curate", "dropped.jsonl"),
    drops.map((drop) => `${JSON.stringify(drop)}\n`).join(""),
  );
  const find = async (word: string): Promise<string[]> =>
    (await findDrops(stages, word)).drops.map(({ id }) => id);
  expect(await find("made/made.jsonl:1")).toEqual(["made/made.jsonl:1"]);
  expect(await find("made.jsonl:12")).toEqual(["made/made.jsonl:12"]);
  expect(await find("DUPLICATE")).toEqual(["made/made.jsonl:1"]);
  expect(await find("nothing like it")).toEqual([]);
  const [drop] = (await findDrops(stages, "made.jsonl:1")).drops;
  expect(whyText(drop!)).toBe(
    "made/made.jsonl:1 was dropped by the filter dedup: a duplicate of a dialogue that is kept.\n" +
      "  kept: made/made.jsonl:2\n  It begins: Hi",
  );
  await expect(findDrops(temporaryFolder("empty"), "x")).rejects.toThrow(/no dropped\.jsonl/);
});
