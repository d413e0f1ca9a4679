import { describe, expect, test } from "bun:test";
import { contentText, RecordFault, type PreferenceRecord } from "../../../src/data/record.ts";
import { detectSource, sourceNamed, sourceNames } from "../../../src/data/sources/registry.ts";
import type { SourceItem, SourceOptions } from "../../../src/data/sources/source.ts";
import { koalaText } from "../../../src/text/koala_template.ts";
import type { JsonObject } from "../../../src/text/tokenizer_file.ts";

const parse = (source: string, value: unknown, options: SourceOptions = {}, file?: string): SourceItem[] =>
  sourceNamed(source).parse(value as JsonObject, options, file);
const texts = ({ record }: SourceItem): string[] =>
  record.messages.map((message) => `${message.role}: ${contentText(message)}`);
const fault = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    if (error instanceof RecordFault) return error.message;
    throw error;
  }
  return "no fault";
};

const human = (value: string) => ({ from: "human", value });
const gpt = (value: string) => ({ from: "gpt", value });

describe("sharegpt", () => {
  const wanted = ["user: a", "assistant: b", "user: c", "assistant: d"];

  test.each<[string, unknown]>([
    ["from and value", { conversations: [human("a"), gpt("b"), human("c"), gpt("d")] }],
    [
      "role and content",
      {
        conversations: [
          { role: "user", content: "a" },
          { role: "assistant", content: "b" },
          { role: "user", content: "c" },
          { role: "chatgpt", content: "d" },
        ],
      },
    ],
    [
      "role and value",
      {
        items: [
          { role: "human", value: "a" },
          { role: "bing", value: "b" },
          { role: "user", value: "c" },
          { role: "bard", value: "d" },
        ],
      },
    ],
    ["numbers, whatever their order", { gpt_3: "d", human_0: "a", human_2: "c", gpt_1: "b", fields: "x" }],
  ])("with %s", (_name, value) => {
    expect(detectSource([value as JsonObject], "f").name).toBe("sharegpt");
    expect(parse("sharegpt", value).map(texts)).toEqual([wanted]);
  });

  test("numbers go beyond one digit, and gpt_bad asks for the negative marker", () => {
    const many = Object.fromEntries(
      Array.from({ length: 12 }, (_, i) => [`${i % 2 === 0 ? "human" : "gpt_bad"}_${i}`, `t${i}`]),
    );
    const [item] = parse("sharegpt", many);
    expect(texts(item!).map((text) => text.split(" ")[1]!)).toEqual(
      Array.from({ length: 12 }, (_, i) => `t${i}`),
    );
    expect(item!.marker).toBe("negative");
    expect(fault(() => parse("sharegpt", { human_0: "a", gpt_1: "b", human_2: "c", gpt_bad_3: "d" }))).toBe(
      "the record mixes good and bad answers",
    );
  });

  test("answers without a question, and questions without an answer, are cut off and told", () => {
    const [item] = parse("sharegpt", { conversations: [gpt("x"), human("a"), gpt("b"), human("c")] });
    expect([texts(item!), item!.repairs]).toEqual([
      ["user: a", "assistant: b"],
      ["answers before the first question were cut off", "messages after the last answer were cut off"],
    ]);
    expect(fault(() => parse("sharegpt", { conversations: [human("a")] }))).toBe(
      "the conversation has no answer",
    );
    expect(fault(() => parse("sharegpt", { conversations: [{ from: "alien", value: "x" }] }))).toBe(
      "conversations has a turn from neither human, gpt nor system",
    );
  });

  test("HTML of the page becomes Markdown, what a user pasted stays", () => {
    const value = { conversations: [human("<p>why?</p>"), gpt("<p>x &lt; <strong>y</strong></p>")] };
    const [item] = parse("sharegpt", value);
    expect([texts(item!), item!.repairs]).toEqual([
      ["user: <p>why?</p>", "assistant: x < **y**"],
      ["HTML was turned into Markdown"],
    ]);
    const [kept] = parse("sharegpt", value, { html: "keep" });
    expect([texts(kept!)[1], kept!.repairs]).toEqual(["assistant: <p>x &lt; <strong>y</strong></p>", []]);
  });
});

describe("hc3", () => {
  const value = {
    question: "Why?",
    human_answers: ["h1", " ", "h2"],
    chatgpt_answers: ["c"],
    source: "medicine",
  };

  test("one dialogue an answer; empty ones are none", () => {
    expect(parse("hc3", value).map((item) => [texts(item)[1], item.tags, item.licence])).toEqual([
      ["assistant: h1", { answer: "human", origin: "medicine" }, "unknown"],
      ["assistant: h2", { answer: "human", origin: "medicine" }, "unknown"],
      ["assistant: c", { answer: "chatgpt", origin: "medicine" }, "unknown"],
    ]);
    expect(parse("hc3", value, { human_answers: false }).map(texts)).toEqual([
      ["user: Why?", "assistant: c"],
    ]);
    const other = { ...value, source: null };
    expect(parse("hc3", other, {}, "reddit_eli5.jsonl")[0]!.licence).toBe("BSD");
    expect(parse("hc3", other, {}, "all.jsonl")[0]!.tags).toEqual({ answer: "human" });
  });

  test("records without question or answer are dropped", () => {
    expect(fault(() => parse("hc3", { ...value, question: " " }))).toBe("the question is empty");
    expect(fault(() => parse("hc3", { question: "q", human_answers: [] }))).toBe("no answer is left");
    expect(fault(() => parse("hc3", { question: "q", human_answers: "a" }))).toContain("not a list of texts");
  });
});

describe("oig", () => {
  const of = (text: string, options: SourceOptions = {}) =>
    parse("oig", { text, metadata: { source: "s" } }, options);

  test("turns at the starts of lines, a mark inside a line is text", () => {
    const [item] = of("<human>: Say <bot>: twice\n<bot>: one\n\ntwo\n<human>: more\n<bot>: three");
    expect(texts(item!)).toEqual([
      "user: Say <bot>: twice",
      "assistant: one\n\ntwo",
      "user: more",
      "assistant: three",
    ]);
    expect([item!.tags, item!.repairs]).toEqual([{ origin: "s" }, []]);
  });

  test("text before the first speaker joins the question or is dropped", () => {
    const text = "Background: a play.\n<human>: Who?\n<bot>: Hamlet";
    expect(texts(of(text)[0]!)[0]).toBe("user: Background: a play.\n\nWho?");
    const [dropped] = of(text, { leading: "drop" });
    expect([texts(dropped!)[0], dropped!.repairs]).toEqual([
      "user: Who?",
      ["text before the first speaker was dropped"],
    ]);
  });

  test("odd records, at which Koala's pipeline stopped, get a verdict", () => {
    const [joined] = of("<human>: a\n<human>: b\n<bot>: c\n<human>: d");
    expect([texts(joined!), joined!.repairs]).toEqual([
      ["user: a\n\nb", "assistant: c"],
      ["turns of one speaker in a row were joined", "messages after the last answer were cut off"],
    ]);
    expect(of("<human>: a <bot>: b")[0]!.repairs).toEqual(["speakers were marked inside a line"]);
    expect(fault(() => of("<bot>: a"))).toBe("the text has no <human>: turn");
    expect(fault(() => of("<human>: a\n<bot>: "))).toBe("the last answer is empty");
    expect(fault(() => of("<human>: a"))).toBe("the conversation has no answer");
  });
});

describe("hh", () => {
  const of = (chosen: string, rejected: string) => parse("hh", { chosen, rejected })[0]!;
  const start = "\n\nHuman: Hi Human: there\n\nAssistant: Yes?\n\nHuman: Go";

  test("what both sides share is the prompt, and names inside a paragraph are text", () => {
    const item = of(`${start}\n\nAssistant: good`, `${start}\n\nAssistant: bad`);
    const { chosen, rejected } = item.record as PreferenceRecord;
    expect(texts(item)).toEqual(["user: Hi Human: there", "assistant: Yes?", "user: Go"]);
    expect([chosen, rejected].map((side) => side.map(contentText))).toEqual([["good"], ["bad"]]);
  });

  test("one speaker twice is joined, empty turns go, and an unanswered or empty end is dropped", () => {
    const twice = of("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "\n\nHuman: a\n\nHuman: b\n\nAssistant: d");
    expect([texts(twice), twice.repairs]).toEqual([
      ["user: a\n\nb"],
      ["turns of one speaker in a row were joined"],
    ]);
    const empty = of(`${start}\n\nAssistant:\n\nHuman: on\n\nAssistant: c`, `${start}\n\nAssistant: d`);
    expect(empty.repairs).toContain("empty turns were taken out");
    expect(fault(() => of(`${start}\n\nAssistant: `, `${start}\n\nAssistant: d`))).toBe(
      "the last chosen answer is empty",
    );
    expect(fault(() => of(start, `${start}\n\nAssistant: d`))).toBe(
      "the chosen side does not end with an answer",
    );
    expect(fault(() => of(`${start}\n\nAssistant: d`, `${start}\n\nAssistant: d`))).toBe(
      "chosen and rejected are the same",
    );
  });
});

describe("webgpt", () => {
  const question = { dataset: "eli5", id: "1", full_text: "Why is the sky blue?\n\nReally." };
  const quotes = { title: ["A (a.org)", "B"], extract: ["Air scatters.", "Blue most."] };
  const row = {
    question,
    quotes_0: quotes,
    answer_0: "Scattering [1].",
    tokens_0: { prefix: [1], completion: [2] },
    score_0: -0.5,
    quotes_1: { title: [], extract: [] },
    answer_1: "No idea.",
    score_1: 0.5,
  };
  const list = [
    { question, quotes, answer: "Scattering [1].", score: -0.5 },
    { question, quotes: { title: [], extract: [] }, answer: "No idea.", score: 0.5 },
  ];

  test("both shapes: the better answer positive, the other negative, each behind its own quotes", () => {
    const items = parse("webgpt", row);
    expect(parse("webgpt", { list })).toEqual(items);
    expect(detectSource([{ list } as unknown as JsonObject], "f").name).toBe("webgpt");
    expect(items.map((item) => [item.marker, texts(item)[1]])).toEqual([
      ["positive", "assistant: No idea."],
      ["negative", "assistant: Scattering [1]."],
    ]);
    expect(texts(items[0]!)[0]).toBe(`user: ${question.full_text}`);
    expect(texts(items[1]!)[0]).toMatch(
      /Really\.\n\n.*:\n\[1\] title: A \(a\.org\) content: Air scatters\.\n\[2\] title: B content: Blue most\.$/,
    );
  });

  test("compat has Koala's spaces: two before the marker", () => {
    const [, negative] = parse("webgpt", row, { compat: true });
    const text = koalaText(negative!.record.messages, { marker: "negative", bos: "none" });
    const task =
      "(Quote the following sources in your answer|(You may use|You may quote|Use) the following sources in your answer|The following sources may be helpful): ";
    expect(text).toMatch(
      new RegExp(
        `^BEGINNING OF CONVERSATION: USER: Why is the sky blue\\?\\n\\nReally\\. ${task}` +
          "\\[1\\] title: A \\(a\\.org\\) content: Air scatters\\. \\[2\\] title: B content: Blue most\\.  An Unhelpful Answer:Scattering \\[1\\]\\.$",
      ),
    );
  });

  test("the seed chooses among all five task phrases, and nothing else does", () => {
    const phrases = Array.from({ length: 60 }, (_, seed) => texts(parse("webgpt", row, { seed })[1]!)[0]!);
    expect(new Set(phrases).size).toBe(5);
    expect(texts(parse("webgpt", row, { seed: 3 })[1]!)[0]!).toBe(phrases[3]!);
  });

  test("ties are dropped; without quotes the two are a pair", () => {
    expect(fault(() => parse("webgpt", { ...row, score_1: -0.5 }))).toBe(
      "the two answers have the same score",
    );
    expect(fault(() => parse("webgpt", { ...row, answer_1: "" }))).toBe("an answer is missing or empty");
    expect(fault(() => parse("webgpt", { list: [1, 2] }))).toContain("not a list of two");
    const [pair] = parse("webgpt", row, { quotes: "none" });
    const { chosen, rejected } = pair!.record as PreferenceRecord;
    expect([chosen, rejected].map((side) => side[0]!.content)).toEqual(["No idea.", "Scattering [1]."]);
  });
});

describe("summarization", () => {
  const value = (info: object, choice: unknown = 0) => ({
    info,
    summaries: [{ text: " first" }, { text: "second" }],
    choice,
  });

  test("an article is the text of CNN/DM, where Koala's pipeline asked for None", () => {
    const [item] = parse("summarization", value({ article: "News.", site: "cnn", title: "T" }));
    expect(texts(item!)[0]).toMatch(/article.*: News\.$/);
    expect((item!.record as PreferenceRecord).chosen).toEqual([{ role: "assistant", content: "first" }]);
    expect(item!.tags).toEqual({ origin: "cnn_dm", site: "cnn" });
  });

  test("eight phrases as in Koala's records, or those that fit", () => {
    const phrases = (options: SourceOptions): number =>
      new Set(
        Array.from(
          { length: 99 },
          (_, seed) => texts(parse("summarization", value({ post: "P" }), { ...options, seed })[0]!)[0],
        ),
      ).size;
    expect([phrases({}), phrases({ phrases: "koala" })]).toEqual([5, 8]);
  });

  test("records that are no comparison are dropped", () => {
    expect(fault(() => parse("summarization", value({ post: "P" }, 2)))).toBe("choice is neither 0 nor 1");
    expect(fault(() => parse("summarization", value({ title: "T" })))).toBe("post is missing");
    expect(fault(() => parse("summarization", value({ post: " " })))).toBe("the text to summarise is empty");
    const same = { ...value({ post: "P" }), summaries: [{ text: "x" }, { text: " x" }] };
    expect(fault(() => parse("summarization", same))).toBe("chosen and rejected are the same");
  });
});

describe("identity", () => {
  test("groups of Koala's sizes give its 850 pairs over 79 questions", () => {
    const group = (questionCount: number, answerCount: number, name: string) => ({
      questions: Array.from({ length: questionCount }, (_, i) => `${name} ${i}?`),
      answers: Array.from({ length: answerCount }, (_, i) => `${name} ${i}: {{name}} by {{author}}`),
    });
    const items = [group(9, 5, "a"), group(7, 7, "b"), group(63, 12, "c")].flatMap((one) =>
      parse("identity", one, { name: "Koala", author: "us" }),
    );
    expect(items).toHaveLength(850);
    expect(new Set(items.map((item) => texts(item)[0])).size).toBe(79);
    expect(new Set(items.map((item) => texts(item).join())).size).toBe(850);
    expect(texts(items[6]!)).toEqual(["user: a 1?", "assistant: a 1: Koala by us"]);
  });

  test("messages can be templates, too", () => {
    const messages = [
      { role: "user", content: "Who made {{name}}?" },
      { role: "assistant", content: "{{author}}." },
    ];
    expect(texts(parse("identity", { messages }, { name: "K", author: "$& L" })[0]!)).toEqual([
      "user: Who made K?",
      "assistant: $& L.",
    ]);
  });
});

test("ultrachat's two shapes", () => {
  const messages = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ];
  for (const value of [
    { prompt: "a", prompt_id: "1", messages },
    { id: "0", data: ["a", "b", "c"] },
  ]) {
    expect(detectSource([value as unknown as JsonObject], "f").name).toBe("ultrachat");
    expect(texts(parse("ultrachat", value)[0]!)).toEqual(["user: a", "assistant: b"]);
  }
  expect(fault(() => parse("ultrachat", { data: ["a", 1] }))).toBe("data is not a list of texts");
});

test("every source finds its own records among all others", () => {
  const pair = { chosen: "\n\nHuman: a\n\nAssistant: b", rejected: "\n\nHuman: a\n\nAssistant: c" };
  const examples: { [source: string]: unknown } = {
    hc3: { question: "q", human_answers: [], chatgpt_answers: ["a"] },
    webgpt: { question: {}, answer_0: "", score_0: 0, answer_1: "", score_1: 1 },
    summarization: { info: {}, summaries: [], choice: 0 },
    hh: pair,
    pairs: { prompt: "a", chosen: "b", rejected: "c" },
    oig: { text: "<human>: a\n<bot>: b" },
    identity: { instruction: "Who?", output: "{{name}}" },
    ultrachat: { prompt: "a", messages: [] },
    messages: { messages: [] },
    sharegpt: { conversations: [] },
    alpaca: { instruction: "a", input: "", output: "b", text: "Below is an instruction" },
  };
  expect(Object.keys(examples)).toEqual([...sourceNames]);
  for (const [name, value] of Object.entries(examples))
    expect([name, detectSource([value as JsonObject], "f").name]).toEqual([name, name]);
});
