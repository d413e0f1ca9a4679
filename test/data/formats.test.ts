import { describe, expect, test } from "bun:test";
import { detectFormat, formatNamed, type FormatOptions } from "../../src/data/formats/format.ts";
import type { TrainingRecord } from "../../src/data/record.ts";
import type { Json, JsonObject } from "../../src/text/tokenizer_file.ts";

const parse = (format: string, record: Json, options: FormatOptions = {}) =>
  formatNamed(format).parse(record as JsonObject, options);
const fault =
  (format: string, record: Json): (() => unknown) =>
  () =>
    parse(format, record);
/** "user: Hi" a message. */
const lines = (record: TrainingRecord): string[] =>
  record.kind === "chat" ? record.messages.map(({ role, content }) => `${role}: ${String(content)}`) : [];

const weather = {
  type: "function",
  function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const call = {
  id: "call_1",
  type: "function",
  function: { name: "get_weather", arguments: '{"city":"Oslo"}' },
};

describe("OpenAI's messages", () => {
  test("keep roles, weights, tools and tool calls", () => {
    const messages = [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Weather in Oslo?" },
      { role: "assistant", content: null, tool_calls: [call], weight: 0 },
      { role: "tool", tool_call_id: "call_1", content: "rain" },
      { role: "assistant", content: "It rains.", weight: 1 },
    ];
    const { record, repairs } = parse("messages", {
      messages: messages as unknown as Json,
      tools: [weather],
      parallel_tool_calls: false,
    });
    expect(record).toEqual({ kind: "chat", messages, tools: [weather] } as unknown as TrainingRecord);
    expect(repairs).toEqual([]);
  });

  test("with a question behind the last answer are repaired", () => {
    const user = { role: "user", content: "Hi" };
    const { record, repairs } = parse("messages", {
      messages: [user, { role: "assistant", content: "Hello" }, user],
    });
    expect(lines(record)).toEqual(["user: Hi", "assistant: Hello"]);
    expect(repairs).toEqual(["messages after the last answer were cut off"]);
  });

  test("with a label are refused: a bad answer must not be trained on as if it were good", () => {
    const messages = [
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Go away" },
    ];
    for (const key of ["label", "kto_tag"])
      expect(() => parse("messages", { messages, [key]: false })).toThrow("name the format labelled");
  });

  test.each([
    [[], "messages is not a list of messages"],
    [[{ role: "robot", content: "x" }], 'the role "robot", which is none of'],
    [[{ role: "user", content: 7 }], "content that is not text"],
    [[{ role: "user" }], "a message without content"],
    [[{ role: "user", content: "x", weight: 1 }], "a weight on a message that is no answer"],
    [[{ role: "assistant", content: "x", weight: 2 }], "a weight that is not from 0 to 1"],
    [[{ role: "assistant", tool_calls: [{ function: {} }] }], "tool_calls without function names"],
    [[{ role: "user", content: "x" }], "the conversation has no answer"],
  ])("%j is dropped with its reason", (messages, reason) => {
    expect(fault("messages", { messages: messages as Json })).toThrow(reason);
  });
});

describe("pairs", () => {
  const question = { role: "user", content: "Is it cold in Oslo?" };
  const answers = {
    chosen: [{ role: "assistant", content: "Yes, in winter." }],
    rejected: [{ role: "assistant", content: "No idea." }],
  };
  const expected = { kind: "preference", messages: [question], ...answers, tools: [] };

  test.each<[string, string, Json]>([
    [
      "OpenAI's DPO records",
      "openai-dpo",
      {
        input: { messages: [question] },
        preferred_output: answers.chosen,
        non_preferred_output: answers.rejected,
      },
    ],
    [
      "a prompt and texts",
      "pairs",
      { prompt: question.content, chosen: "Yes, in winter.", rejected: "No idea." },
    ],
    ["a prompt and messages", "pairs", { prompt: [question], ...answers }],
    [
      "whole conversations",
      "pairs",
      { chosen: [question, ...answers.chosen], rejected: [question, ...answers.rejected] },
    ],
    [
      "LLaMA-Factory's turns",
      "pairs",
      {
        conversations: [{ from: "human", value: question.content }],
        chosen: { from: "gpt", value: "Yes, in winter." },
        rejected: { from: "gpt", value: "No idea." },
      },
    ],
    [
      "HH transcripts",
      "pairs",
      {
        chosen: "\n\nHuman: Is it cold in Oslo?\n\nAssistant: Yes, in winter.",
        rejected: "\n\nHuman: Is it cold in Oslo?\n\nAssistant: No idea.",
      },
    ],
    [
      "a transcript as prompt",
      "pairs",
      {
        prompt: "\n\nHuman: Is it cold in Oslo?\n\nAssistant:",
        chosen: "Yes, in winter.",
        rejected: "No idea.",
      },
    ],
  ])("%s give the same record", (_name, format, record) => {
    expect(parse(format, record).record).toEqual(expected as unknown as TrainingRecord);
    expect(detectFormat([record as JsonObject], "f").name).toBe(format);
  });

  test("a speaker's name inside a paragraph begins no turn", () => {
    const shared = "\n\nHuman: Write 'Human: hi' and\nAssistant: no\n\nAssistant: ";
    const { record } = parse("pairs", { chosen: `${shared}Fine.`, rejected: `${shared}Never.` });
    expect(record.kind === "preference" && record.messages).toEqual([
      { role: "user", content: "Write 'Human: hi' and\nAssistant: no" },
    ]);
  });

  test("with equal sides, or a side that ends with a question, are dropped", () => {
    expect(fault("pairs", { prompt: "a", chosen: "b", rejected: "b" })).toThrow("are the same");
    const open = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c";
    expect(fault("pairs", { chosen: open, rejected: "\n\nHuman: a\n\nAssistant: b" })).toThrow(
      "chosen side does not end with an answer",
    );
  });
});

test("ShareGPT's speakers become roles; an answer to nothing is cut off", () => {
  const conversations = [
    { from: "gpt", value: "…as I said" },
    { from: "human", value: "Hi" },
    { from: "gpt", value: "Hello" },
  ];
  const { record, repairs } = parse("sharegpt", { id: "x", conversations });
  expect(lines(record)).toEqual(["user: Hi", "assistant: Hello"]);
  expect(repairs).toEqual(["answers before the first question were cut off"]);
  expect(fault("sharegpt", { conversations: [{ from: "alien", value: "x" }] })).toThrow("neither human");
});

test("Alpaca's input stands below the instruction, history and system in front", () => {
  const record = {
    instruction: "Add",
    input: "1 2",
    output: "3",
    system: "Be brief.",
    history: [["Hi", "Hello"]],
  };
  expect(lines(parse("alpaca", record).record)).toEqual([
    "system: Be brief.",
    "user: Hi",
    "assistant: Hello",
    "user: Add\n\n1 2",
    "assistant: 3",
  ]);
  expect(lines(parse("alpaca", { instruction: "Hi", input: "", output: "Hello" }).record)[0]).toBe(
    "user: Hi",
  );
});

describe("EasyLM's fields", () => {
  const koala = {
    marker_user: "USER:",
    marker_gpt: "GPT:",
    human_0: "a",
    gpt_1: "b",
    human_2: "c",
    gpt_3: "d",
    fields: "[marker_user+human_0+marker_gpt],gpt_1,<|eos|>,[marker_user+human_2+marker_gpt],gpt_3,<|eos|>",
  };
  const parts = (record: Json, options: FormatOptions = {}) => {
    const parsed = parse("fields", record, options).record;
    return parsed.kind === "fields" ? parsed.parts : [];
  };

  test("of Koala's own records have the texts and losses of TextProcessor", () => {
    expect(parts(koala)).toEqual([
      { kind: "text", text: "BEGINNING OF CONVERSATION: USER: a GPT:", loss: 0 },
      { kind: "text", text: "b", loss: 1 },
      { kind: "token", token: "eos", loss: 1 },
      { kind: "text", text: "USER: c GPT:", loss: 0 },
      { kind: "text", text: "d", loss: 1 },
      { kind: "token", token: "eos", loss: 1 },
    ]);
  });

  test("take tokens by name, by id and from base64, with and without loss; EOS is added where it is missing", () => {
    const raw = Buffer.from(Int32Array.of(7, 300, 70_000).buffer).toString("base64");
    const record = { raw, x: "text", fields: "<|bos|>,[<|123|>],{raw},[{raw}],[x]" };
    expect(parts(record)).toEqual([
      { kind: "token", token: "bos", loss: 1 },
      { kind: "token", token: 123, loss: 0 },
      { kind: "ids", ids: [7, 300, 70_000], loss: 1 },
      { kind: "ids", ids: [7, 300, 70_000], loss: 0 },
      { kind: "text", text: "text", loss: 0 },
      { kind: "token", token: "eos", loss: 1 },
    ]);
  });

  test("can come from outside the record, with another separator and no opening", () => {
    const options = { fields: "a+b", subfieldSeparator: "\n", prependText: "" };
    expect(parts({ a: "1", b: "2" }, options)[0]).toEqual({ kind: "text", text: "1\n2", loss: 1 });
  });

  test.each<[Json, string]>([
    [{ fields: "" }, "fields is empty"],
    [{ fields: "a" }, "a is missing"],
    [{ fields: "a", a: 1 }, "a is not text"],
    [{ fields: "<|sep|>" }, "neither bos, eos nor a number"],
    [{ fields: "{a}", a: "AAA" }, "not whole int32"],
    [{ fields: "{a}", a: "?" }, "not base64"],
  ])("%j is dropped with its reason", (record, reason) => {
    expect(fault("fields", record)).toThrow(reason);
  });
});

test("a file's format is what most of its first records have; no format is refused with the keys", () => {
  const text = { text: "a" };
  const alpaca = { instruction: "a", output: "b" };
  expect(detectFormat([text, alpaca, alpaca], "f").name).toBe("alpaca");
  expect(() => detectFormat([{ a: 1, b: 2 }], "odd.jsonl")).toThrow(/odd\.jsonl.*keys a, b.*messages/);
  expect(() => formatNamed("csv")).toThrow("There is no data format csv");
});
