/** Answers with labels: each shape that TRL and LLaMA-Factory write, and the data set that KTO trains on. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { formatNamed, detectFormat } from "../../../src/data/formats/format.ts";
import { openSource, prepareDataset } from "../../../src/data/prepare.ts";
import { openDataset } from "../../../src/data/shard.ts";
import type { JsonObject } from "../../../src/text/tokenizer_file.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { llamaFolder } from "../models.ts";

const question = { role: "user", content: "2 + 2?" };
const answer = { role: "assistant", content: "4" };
const parsed = { kind: "labelled", messages: [question], answer: [answer], tools: [] };

describe("one answer in every shape", () => {
  test.each([
    ["TRL's", { prompt: "2 + 2?", completion: "4", label: true }, true],
    ["TRL's conversational", { prompt: [question], completion: [answer], label: false }, false],
    ["messages with a label", { messages: [question, answer], label: true }, true],
    ["LLaMA-Factory's messages with roles", { messages: [question, answer], kto_tag: false }, false],
    [
      "LLaMA-Factory's ShareGPT",
      {
        conversations: [
          { from: "human", value: "2 + 2?" },
          { from: "gpt", value: "4" },
        ],
        kto_tag: true,
      },
      true,
    ],
    ["LLaMA-Factory's Alpaca", { instruction: "2 + 2?", input: "", output: "4", kto_tag: false }, false],
    ["beside OpenAI's pairs", { input: { messages: [question] }, output: [answer], label: 1 }, true],
  ] as [string, JsonObject, boolean][])("%s", (_, record, good) => {
    const format = detectFormat([record], "data.jsonl");
    expect(format.name).toBe("labelled");
    expect(format.parse(record, {})).toEqual({ record: { ...parsed, good } as never, repairs: [] });
  });

  test("and what is none is refused with its reason", () => {
    const parse = (record: JsonObject) => () => formatNamed("labelled").parse(record, {});
    expect(parse({ messages: [question, answer], label: "good" })).toThrow("neither true nor false");
    expect(parse({ messages: [question], label: true })).toThrow("does not end with an answer");
    expect(parse({ messages: [answer], label: true })).toThrow("has no question");
    expect(parse({ label: true })).toThrow("has no conversation");
  });
});

describe("a data set for KTO", () => {
  const records = Array.from({ length: 5 }, (_, i) => ({
    prompt: `What is ${i} + ${i}?`,
    completion: i % 2 === 0 ? `It is ${2 * i}.` : "I do not know, and I do not care.",
    label: i % 2 === 0,
  }));

  test("pairs each answer with its question and the answer of the record before, once each", async () => {
    const folder = temporaryFolder("labelled");
    const file = join(folder, "answers.jsonl");
    await Bun.write(file, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
    const model = await llamaFolder();
    const options = {
      files: [file],
      model,
      template: "koala",
      directory: join(folder, "sets"),
      sequenceLength: 64,
    };
    const { directory, report } = await prepareDataset({ ...options, method: "kto" });
    expect(report).toMatchObject({ records: 5, documents: 5 });
    const dataset = openDataset(directory);
    const { tokenizer } = await openSource(options);
    expect([dataset.documents, dataset.pairs]).toEqual([10, true]);
    // The first record waits for the last one's answer.
    expect([...dataset.labels!]).toEqual([0, 1, 0, 1, 1]);
    const parts = (document: number) => {
      const { ids, weights } = dataset.read(document);
      const begin = weights.findIndex((weight) => weight > 0);
      return [ids.slice(0, begin), ids.slice(begin)].map((list) => tokenizer.decode([...list]));
    };
    [1, 2, 3, 4, 0].forEach((i, pair) => {
      const [prompt, own] = parts(2 * pair);
      expect(prompt).toContain(records[i]!.prompt);
      expect(own).toContain(records[i]!.completion);
      const [same, other] = parts(2 * pair + 1);
      expect(same).toBe(prompt!);
      expect(other).toContain(records[(i + 4) % 5]!.completion);
    });
    dataset.close();

    // Under sft, the label is a marker; pairs are two answers under kto.
    const sft = await prepareDataset({ ...options, method: "sft" });
    const conditioned = openDataset(sft.directory);
    expect([conditioned.documents, conditioned.labels]).toEqual([5, null]);
    const text = (i: number) => tokenizer.decode([...conditioned.read(i).ids]);
    expect([text(0), text(1)].map((each) => each.includes("Unhelpful"))).toEqual([false, true]);
    conditioned.close();
  });

  test("takes both answers of a pair, and refuses conversations without a label", async () => {
    const folder = temporaryFolder("labelled");
    const [pairs, chats] = [join(folder, "pairs.jsonl"), join(folder, "chats.jsonl")];
    await Bun.write(pairs, `${JSON.stringify({ prompt: "Hi?", chosen: "Hello!", rejected: "No." })}\n`);
    await Bun.write(chats, `${JSON.stringify({ messages: [question, answer] })}\n`);
    const options = {
      model: await llamaFolder(),
      template: "koala",
      directory: join(folder, "sets"),
      sequenceLength: 64,
      method: "kto" as const,
    };
    const { directory } = await prepareDataset({ ...options, files: [pairs] });
    const dataset = openDataset(directory);
    expect([...dataset.labels!]).toEqual([0, 1]);
    dataset.close();
    await expect(prepareDataset({ ...options, files: [chats] })).rejects.toThrow(
      /kto needs answers with a label/,
    );
  });
});
