import { expect, test } from "bun:test";
import { join } from "node:path";
import { readQuestions } from "../../src/data/question_sets.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("questions");
const write = async (name: string, ...lines: string[]): Promise<string> => {
  const path = join(folder, name);
  await Bun.write(path, lines.join("\n"));
  return path;
};

test("every shape of question file is read, with an id of its own or its number", async () => {
  const path = await write(
    "own.jsonl",
    '{"id": "k", "prompt": "1 / 2One"}',
    '{"question_id": 81, "turns": ["Two", "later"]}',
    "",
    '{"id": "s", "instruction": "Three", "instances": [{"input": "in", "output": "no"}]}',
    '{"instruction": "Four", "input": ""}',
    '{"question": "Five"}',
    '{"id": 6, "text": "Six"}',
  );
  expect(await readQuestions(path, { view: "clean" })).toEqual([
    { id: "own/k", set: "own", text: "One" },
    { id: "own/81", set: "own", text: "Two" },
    { id: "own/s", set: "own", text: "Three\n\nin" },
    { id: "own/4", set: "own", text: "Four" },
    { id: "own/5", set: "own", text: "Five" },
    { id: "own/6", set: "own", text: "Six" },
  ]);
  expect((await readQuestions(path, { set: "named" }))[0]).toEqual({
    id: "named/k",
    set: "named",
    text: "1 / 2One",
  });
});

test("an array is read as well", async () => {
  expect(await readQuestions(await write("list.json", '[{"prompt": "A"},', '{"prompt": "B"}]'))).toHaveLength(
    2,
  );
});

test("what cannot be read is named with its line", async () => {
  for (const [content, message] of [
    ['{"prompt": "A"}\n{"prompt": ', /line 2: malformed JSON/],
    ['{"prompt": "A"}\n{"answer": "B"}', /line 2: a question needs one of the keys .*; this has answer/],
    ['{"prompt": "A"}\n{"prompt": " "}', /line 2: prompt: is empty/],
    ['{"turns": []}', /line 1: turns/],
    ['{"id": 1, "prompt": "A"}\n{"id": "1", "prompt": "B"}', /two questions with the id bad\/1/],
    ["", /no questions/],
  ] as const)
    await expect(readQuestions(await write("bad.jsonl", content))).rejects.toThrow(message);
  await expect(readQuestions(join(folder, "none.jsonl"))).rejects.toThrow(/no question file/);
});
