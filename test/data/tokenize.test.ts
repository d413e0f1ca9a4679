import { describe, expect, test } from "bun:test";
import { isPair, type DocumentExample } from "../../src/data/example.ts";
import type { FieldsRecord, PreferenceRecord, TrainingMessage } from "../../src/data/record.ts";
import {
  cutSegments,
  RecordTokenizer,
  tokenizeDefaults,
  type TokenizeOptions,
} from "../../src/data/tokenize.ts";
import { koalaSegments } from "../../src/text/koala_template.ts";
import { idsOf, type Segment } from "../../src/text/segments.ts";
import { builtinTemplate, type ChatTemplate } from "../../src/text/template.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { chatml, forgetfulTemplate, jinja, llama, llama2Template } from "./models.ts";

const dialogue: TrainingMessage[] = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hello!" },
  { role: "assistant", content: "Hi! How can I help you?" },
  { role: "user", content: "Name an animal." },
  { role: "assistant", content: "A blue whale." },
];

function tokenizing(
  tokenizer: Tokenizer,
  template: ChatTemplate | null,
  options: Partial<TokenizeOptions> = {},
) {
  return new RecordTokenizer(tokenizer, template, { ...tokenizeDefaults, ...options });
}

function documents(
  tokenizer: Tokenizer,
  template: ChatTemplate | null,
  record: Parameters<RecordTokenizer["tokenize"]>[0],
  options: Partial<TokenizeOptions> = {},
): Segment[][] {
  const { examples } = tokenizing(tokenizer, template, options).tokenize(record);
  return examples.map((example) => (example as DocumentExample).segments);
}

const chat = (messages: TrainingMessage[]) => ({ kind: "chat" as const, messages, tools: [] });

/** The texts of the trained stretches, special tokens shown. */
function trainedTexts(tokenizer: Tokenizer, segments: Segment[]): string[] {
  return segments.filter(({ loss }) => loss > 0).map(({ ids }) => tokenizer.decode(ids));
}

const koala = builtinTemplate("koala", llama)!;
const chatmlTemplate = builtinTemplate("chatml", chatml)!;

describe("the Koala format", () => {
  test("trains on what koalaSegments, which serves, gives a loss", () => {
    const [segments] = documents(llama, koala, chat(dialogue));
    expect(segments).toEqual(koalaSegments(llama, dialogue, { addGenerationPrompt: false }));
  });

  test("fields of Koala's data pipeline are the same tokens with the same loss", () => {
    const { record } = fieldsOfDialogue();
    const flat = (segments: Segment[]): [number, number][] =>
      segments.flatMap(({ ids, loss }) => ids.map((id): [number, number] => [id, loss]));
    const [segments] = documents(llama, null, record);
    const messages = dialogue.slice(1);
    expect(flat(segments!)).toEqual(flat(koalaSegments(llama, messages, { addGenerationPrompt: false })));
  });

  test("an answer of weight 0 is context, and so is the end behind it", () => {
    const messages = dialogue.map((message, i) => (i === 2 ? { ...message, weight: 0 } : message));
    const [segments] = documents(llama, koala, chat(messages));
    expect(trainedTexts(llama, segments!)).toEqual(["A blue whale.", "</s>"]);
    expect(idsOf(segments!)).toEqual(idsOf(documents(llama, koala, chat(dialogue))[0]!));
  });

  test("has no tools, which is a reason to drop a record", () => {
    const called = [{ ...dialogue[1]! }, { role: "tool", content: "x" }, { ...dialogue[2]! }];
    expect(() => documents(llama, koala, chat(called))).toThrow("no tools");
  });
});

function fieldsOfDialogue(): { record: FieldsRecord } {
  const turn = (user: string, answer: string): FieldsRecord["parts"] => [
    { kind: "text", text: `USER: ${user} GPT:`, loss: 0 },
    { kind: "text", text: answer, loss: 1 },
    { kind: "token", token: "eos", loss: 1 },
  ];
  const parts = [...turn("Hello!", "Hi! How can I help you?"), ...turn("Name an animal.", "A blue whale.")];
  parts[0] = { ...parts[0]!, kind: "text", text: "BEGINNING OF CONVERSATION: USER: Hello! GPT:" };
  return { record: { kind: "fields", parts } };
}

describe("preference records", () => {
  const record: PreferenceRecord = {
    kind: "preference",
    messages: dialogue.slice(1, 4),
    chosen: [dialogue[4]!],
    rejected: [{ role: "assistant", content: "No." }],
    tools: [],
  };

  test("under sft get the positive and the negative marker, and loss, only where the sides differ", () => {
    const [good, bad] = documents(llama, koala, record);
    expect(trainedTexts(llama, good!)).toEqual(["A blue whale.", "</s>"]);
    expect(trainedTexts(llama, bad!)).toEqual(["No.", "</s>"]);
    expect(good!.map(({ ids }) => llama.decode(ids))).toContain("USER: Name an animal. GPT:");
    const texts = bad!.map(({ ids }) => llama.decode(ids));
    expect(texts).toContain("BEGINNING OF CONVERSATION: USER: Hello! GPT:");
    expect(texts).toContain("USER: Name an animal. An Unhelpful Answer:");
    const differs = bad!.findIndex((segment, i) => segment.ids.join() !== good![i]!.ids.join());
    expect(texts[differs]).toBe("USER: Name an animal. An Unhelpful Answer:");
  });

  test("can have marker and loss on the whole conversation, or the chosen side alone", () => {
    const [, bad] = documents(llama, koala, record, { conditioning: "conversation" });
    const whole = [...record.messages, ...record.rejected];
    const served = koalaSegments(llama, whole, { marker: "negative", addGenerationPrompt: false });
    expect(bad).toEqual(served);
    expect(documents(llama, koala, record, { preference: "chosen" })).toHaveLength(1);
  });

  test("need markers to be told apart, which ChatML does not have", () => {
    expect(() => documents(chatml, chatmlTemplate, record)).toThrow(
      /needs a format with markers.*--preference/,
    );
    const [chosen] = documents(chatml, chatmlTemplate, record, { preference: "chosen" });
    expect(trainedTexts(chatml, chosen!)).toEqual(["A blue whale.<|im_end|>"]);
  });

  test.each<[string, Tokenizer, ChatTemplate]>([
    ["Koala", llama, koala],
    ["ChatML", chatml, chatmlTemplate],
  ])("under dpo are one prompt with two answers (%s)", (_name, tokenizer, template) => {
    const [pair] = tokenizing(tokenizer, template, { method: "dpo" }).tokenize(record).examples;
    if (!pair || !isPair(pair)) throw new Error("no pair");
    expect(idsOf(pair.prompt)).toEqual(idsOf(template.render(record.messages)));
    expect(pair.prompt.every(({ loss }) => loss === 0)).toBe(true);
    const text = (segments: Segment[]): string => trainedTexts(tokenizer, segments).join("");
    expect(text(pair.chosen)).toMatch(/^A blue whale\.(<\/s>|<\|im_end\|>)$/);
    expect(text(pair.rejected)).toMatch(/^No\.(<\/s>|<\|im_end\|>)$/);
  });

  test("are what dpo needs", () => {
    const dpo = tokenizing(llama, koala, { method: "dpo" });
    expect(() => dpo.tokenize(chat(dialogue))).toThrow("dpo needs pairs");
  });
});

describe("a Jinja template", () => {
  test.each<[string, Tokenizer, () => Promise<ChatTemplate>, string]>([
    ["ChatML", chatml, async () => chatmlTemplate, "<|im_end|>"],
    ["LLaMA 2", llama, () => jinja(llama2Template, llama), " </s>"],
  ])(
    "of %s trains each answer with its end, behind the very prompt that is served",
    async (_name, tokenizer, make, end) => {
      const template = await make();
      const [segments] = documents(tokenizer, template, chat(dialogue));
      const trained = segments!.flatMap((segment, i) => (segment.loss > 0 ? [i] : []));
      expect(trained).toHaveLength(2);
      for (const [n, i] of trained.entries()) {
        const answered = dialogue[n === 0 ? 2 : 4]!;
        expect(idsOf(segments!.slice(0, i))).toEqual(
          idsOf(template.render(dialogue.slice(0, n === 0 ? 2 : 4))),
        );
        expect(tokenizer.decode(segments![i]!.ids).trimStart()).toBe(`${String(answered.content)}${end}`);
        expect(template.stopIds).toContain(segments![i]!.ids.at(-1)!);
      }
      expect(idsOf(segments!)).toEqual(idsOf(template.render(dialogue, { addGenerationPrompt: false })));
    },
  );

  test("that rewrites earlier answers is trained on the last one only, and that is counted", async () => {
    const template = await jinja(forgetfulTemplate, chatml);
    const thoughtful = dialogue.map((message) =>
      message.role === "assistant"
        ? { ...message, content: `<think>hm</think>${String(message.content)}` }
        : message,
    );
    const { examples, notes } = tokenizing(chatml, template).tokenize(chat(thoughtful));
    const { segments } = examples[0] as DocumentExample;
    expect(notes).toEqual(["last turn only"]);
    expect(trainedTexts(chatml, segments)).toEqual(["<think>hm</think>A blue whale.<|im_end|>"]);
    const prompt = segments.slice(
      0,
      segments.findIndex(({ loss }) => loss > 0),
    );
    expect(idsOf(prompt)).toEqual(idsOf(template.render(thoughtful.slice(0, 4))));
    // Without thoughts nothing is rewritten.
    expect(tokenizing(chatml, template).tokenize(chat(dialogue)).notes).toEqual([]);
  });

  test("whose answer does not follow its own prompt is a reason to drop the record", async () => {
    const odd = await jinja(
      "{{ messages[-1].content }}{% if add_generation_prompt %} Answer:{% endif %}",
      chatml,
    );
    expect(() => documents(chatml, odd, chat(dialogue))).toThrow("renders the last answer differently");
  });

  test("gives an answer its own tokens where one would reach into the prompt", () => {
    const messages = [dialogue[1]!, { role: "assistant", content: "\n\nHi" }];
    const prompt = idsOf(chatmlTemplate.render(messages.slice(0, 1)));
    const whole = idsOf(chatmlTemplate.render(messages, { addGenerationPrompt: false }));
    // The newlines of prompt and answer are one token when encoded together: that is what this test is about.
    expect(whole.slice(0, prompt.length)).not.toEqual(prompt);
    const [segments] = documents(chatml, chatmlTemplate, chat(messages));
    expect(segments![0]!.ids).toEqual(prompt);
    expect(trainedTexts(chatml, segments!)).toEqual(["\n\nHi<|im_end|>"]);
  });

  test("never makes a special token of what somebody wrote", () => {
    const end = chatml.tokenId("<|im_end|>")!;
    const messages = dialogue.map((message) => ({
      ...message,
      content: `${String(message.content)}<|im_end|>`,
    }));
    const [segments] = documents(chatml, chatmlTemplate, chat(messages));
    expect(idsOf(segments!).filter((id) => id === end)).toHaveLength(messages.length);
    expect(trainedTexts(chatml, segments!)[1]).toBe("A blue whale.<|im_end|><|im_end|>");
  });

  test("keeps tools: the call is trained, the signature and the result are not", () => {
    const messages: TrainingMessage[] = [
      { role: "user", content: "Weather in Oslo?" },
      {
        role: "assistant",
        content: null,
        tool_calls: [{ function: { name: "weather", arguments: '{"city":"Oslo"}' } }],
      },
      { role: "tool", content: "rain" },
      { role: "assistant", content: "It rains." },
    ];
    const tools = [{ type: "function" as const, function: { name: "weather", parameters: {} } }];
    const [segments] = documents(chatml, chatmlTemplate, { kind: "chat", messages, tools });
    expect(trainedTexts(chatml, segments!)).toEqual([
      '<tool_call>\n{"name":"weather","arguments":{"city":"Oslo"}}\n</tool_call><|im_end|>',
      "It rains.<|im_end|>",
    ]);
    const prompt = segments!.slice(
      0,
      segments!.findLastIndex(({ loss }) => loss > 0),
    );
    expect(idsOf(prompt)).toEqual(idsOf(chatmlTemplate.render(messages.slice(0, 3), { tools })));
  });

  test("that refuses a conversation gives the reason", async () => {
    const template = await jinja(llama2Template, llama);
    const twice = [dialogue[1]!, dialogue[3]!, dialogue[4]!];
    expect(() => documents(llama, template, chat(twice))).toThrow(/template refuses it.*must alternate/);
  });
});

test("conversations without any template are refused with the way out", () => {
  expect(() => documents(llama, null, chat(dialogue))).toThrow("--template koala");
});

test("plain text is trained whole, between BOS and EOS", () => {
  const [segments] = documents(llama, null, { kind: "text", text: "Once upon a time </s>" });
  const ids = idsOf(segments!);
  expect([ids[0], ids.at(-1)]).toEqual([1, 2]);
  expect(ids.filter((id) => id <= 2)).toHaveLength(2);
  // But for BOS, which nothing predicts.
  const losses = segments!.flatMap((segment) => segment.ids.map(() => segment.loss));
  expect(losses).toEqual([0, ...ids.slice(1).map(() => 1)]);
});

describe("documents longer than a row", () => {
  const whole = documents(llama, koala, chat(dialogue))[0]!;
  const length = idsOf(whole).length;
  const shorter = { sequenceLength: length - 1 };

  test("are refused, dropped, or cut behind the last answer that fits", () => {
    const result = (truncation: TokenizeOptions["truncation"]) =>
      tokenizing(llama, koala, { ...shorter, truncation }).tokenize(chat(dialogue));
    expect(result("refuse")).toEqual({ examples: [], notes: ["too long"] });
    expect(result("drop")).toEqual({ examples: [], notes: ["dropped as too long"] });
    const { examples, notes } = result("cut");
    expect(notes).toEqual(["cut"]);
    const { segments } = examples[0] as DocumentExample;
    expect(segments).toEqual(whole.slice(0, 4));
    expect(segments.at(-1)!.ids).toEqual([2]);
  });

  test("fit exactly when they are as long as a row", () => {
    expect(documents(llama, koala, chat(dialogue), { sequenceLength: length })).toHaveLength(1);
  });

  test("have nothing to cut where not even the first answer fits", () => {
    expect(cutSegments(whole, 10)).toEqual([]);
  });

  test("fall into several when they are plain text, and no token is lost", () => {
    const text = "Once upon a time there was a little girl. ".repeat(20);
    const options = { sequenceLength: 64, truncation: "cut" as const };
    const pieces = documents(llama, null, { kind: "text", text }, options);
    const [uncut] = documents(llama, null, { kind: "text", text });
    expect(pieces.flatMap(idsOf)).toEqual(idsOf(uncut!));
    expect(Math.max(...pieces.map((piece) => idsOf(piece).length))).toBe(64);
  });
});
