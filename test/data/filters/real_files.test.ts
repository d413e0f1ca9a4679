import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Dialogue } from "../../../src/data/dialogue.ts";
import type { FilterReport } from "../../../src/data/filters/report.ts";
import { LeakIndex } from "../../../src/data/leak/leak_index.ts";
import { readQuestions } from "../../../src/data/question_sets.ts";
import { readDialogues } from "../../../src/data/sources/read.ts";
import { sharedDirectory, withoutShared } from "../../support/paths.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { asked, filtersOf, run } from "./dialogues.ts";

const data = join(sharedDirectory, "data");
const folder = temporaryFolder("real");

async function* dialogues(name: string): AsyncGenerator<Dialogue> {
  for await (const one of readDialogues(join(data, name))) if (one.verdict !== "dropped") yield one.dialogue;
}
const filtered = async (name: string, table: object): Promise<FilterReport> =>
  (await run(dialogues(name), await filtersOf([table]), folder)).report;
const dummy = "fastchat_dummy_conversation.json";

describe.skipIf(!existsSync(data))(`real files (${withoutShared})`, () => {
  // koala-spec §1.7 and §1.1, measured apart from this code.
  for (const [key, count] of [
    ["first-query", 52],
    ["all-queries", 154],
    ["fastchat", 334],
  ] as const)
    test(`500 dummy conversations are ${count} by ${key}`, async () => {
      expect((await filtered(dummy, { rule: "dedup", key })).output).toBe(count);
    });

  test("the original's keywords drop 84 of them", async () => {
    const report = await filtered(dummy, { rule: "keywords", match: "substring" });
    expect(report.rules[0]!.dropped).toBe(84);
  });

  test("by language every English dialogue and question is kept, and no Chinese one", async () => {
    const kept = async (name: string): Promise<[kept: number, of: number]> => {
      const { output, input } = await filtered(name, { rule: "language" });
      return [output, input];
    };
    expect(await kept("llamafactory_alpaca_en_demo.json")).toEqual([999, 999]);
    expect(await kept("llamafactory_alpaca_zh_demo.json")).toEqual([0, 1000]);
    expect(await kept(dummy)).toEqual([500, 500]);
    const [harmless, all] = await kept("hh_harmless_base_a.jsonl.gz");
    expect(harmless).toBe(all);
    // One asks in English about Hindi, in Hindi's script; one is answered in Indonesian.
    expect(await kept("llamafactory_dpo_en_demo.json")).toEqual([298, 300]);
  });

  test("by language every question of the evaluations is kept", async () => {
    for (const [name, count] of [
      ["koala_test_set.jsonl", 180],
      ["self_instruct_user_oriented_252.jsonl", 252],
      ["fastchat_vicuna_bench_80.jsonl", 80],
    ] as const) {
      const questions = await readQuestions(join(data, name));
      const input = questions.map(({ text }, i) => asked(i, text, ""));
      const { kept } = await run(input, await filtersOf([{ rule: "language" }]), folder);
      expect([name, kept.length]).toEqual([name, count]);
    }
  });

  test("13 Koala prompts have a page counter, and the clean view is what AlpacaEval made of them", async () => {
    const path = join(data, "koala_test_set.jsonl");
    const [raw, clean] = [await readQuestions(path), await readQuestions(path, { view: "clean" })];
    const changed = raw.flatMap(({ id, text }, i) => (text === clean[i]!.text ? [] : [id.split("_").at(-1)]));
    // koala-spec §4 lists them.
    expect(changed).toEqual("12 16 19 49 62 90 100 103 114 115 123 131 176".split(" "));
    const outputs = (await Bun.file(join(data, "alpacaeval_alpaca-7b.json")).json()) as {
      instruction: string;
      dataset: string;
    }[];
    const theirs = outputs.filter(({ dataset }) => dataset === "koala").map(({ instruction }) => instruction);
    const among = (texts: string[]): number => theirs.filter((text) => texts.includes(text)).length;
    // 144 are byte-identical to the raw prompts. Of the other 12, 11 lost their counter; one lost a "#2. ", which is none.
    expect([theirs.length, among(raw.map(({ text }) => text))]).toEqual([156, 144]);
    expect(among(clean.map(({ text }) => text))).toBe(155);
  });

  test("self-instruct's instructions and inputs are joined as in AlpacaEval", async () => {
    const questions = await readQuestions(join(data, "self_instruct_user_oriented_252.jsonl"), {
      set: "alpaca",
    });
    expect([questions.length, questions[0]!.id]).toEqual([252, "alpaca/user_oriented_task_0"]);
    const outputs = (await Bun.file(join(data, "alpacaeval_alpaca-7b.json")).json()) as {
      instruction: string;
    }[];
    const theirs = new Set(outputs.map(({ instruction }) => instruction));
    expect(questions.filter(({ text }) => theirs.has(text)).length).toBeGreaterThan(200);
  });

  test("AlpacaEval's prompts leak both test sets: all it took of Koala's and all of self-instruct's", async () => {
    const outputs = (await Bun.file(join(data, "alpacaeval_alpaca-7b.json")).json()) as {
      instruction: string;
    }[];
    for (const [name, least] of [
      ["koala_test_set.jsonl", 156],
      ["self_instruct_user_oriented_252.jsonl", 252],
    ] as const) {
      const index = LeakIndex.build(await readQuestions(join(data, name)), { minTokens: 1 });
      const leaked = new Set(
        outputs.flatMap(({ instruction }) =>
          index.check(instruction).flatMap((hit) => (hit.leaks ? hit.question.id : [])),
        ),
      );
      expect(leaked.size).toBeGreaterThanOrEqual(least);
    }
  });
});
