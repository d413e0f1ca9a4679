import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import type { ChatMessage } from "../../src/text/chat_messages.ts";
import { koalaSegments, koalaText } from "../../src/text/koala_template.ts";
import { idsOf } from "../../src/text/segments.ts";
import { builtinTemplate } from "../../src/text/template.ts";
import { createTokenizer, loadTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { parseTokenizerFile } from "../../src/text/tokenizer_file.ts";
import { metaspace, sentencePieceConfig, sentencePieceJson, sharedDirectory } from "./corpus.ts";

const json = sentencePieceJson();
const spm = createTokenizer(parseTokenizerFile({ path: "t", json, config: sentencePieceConfig }));
const modern = createTokenizer(
  parseTokenizerFile({
    path: "t",
    json: sentencePieceJson({ preTokenizer: metaspace("first") }),
    config: sentencePieceConfig,
  }),
);

const greeting: ChatMessage[] = [
  { role: "user", content: "Hello!" },
  { role: "assistant", content: "Hi! How can I help you?" },
  { role: "user", content: "What is the largest animal on earth?" },
];
const alone = (tokenizer: Tokenizer, text: string): number[] =>
  tokenizer.encode(text, { addSpecialTokens: false });

/** Turn 2 of koala-spec §3: the fields of the training data, each encoded alone, EOS after the answer. */
function trainingIds(tokenizer: Tokenizer): number[] {
  return [
    1,
    ...alone(tokenizer, "BEGINNING OF CONVERSATION: USER: Hello! GPT:"),
    ...alone(tokenizer, "Hi! How can I help you?"),
    2,
    ...alone(tokenizer, "USER: What is the largest animal on earth? GPT:"),
  ];
}

describe.each([
  ["Prepend and Replace", spm],
  ["Metaspace first", modern],
])("%s", (_name, tokenizer) => {
  test("turn 2 has the ids of the training fields, each encoded alone", () => {
    expect(idsOf(koalaSegments(tokenizer, greeting))).toEqual(trainingIds(tokenizer));
  });

  test("after GPT: an answer begins with its own space, as in training and not as in one string", () => {
    const pieces = idsOf(koalaSegments(tokenizer, greeting))
      .map((id) => tokenizer.tokenString(id))
      .join("");
    expect(pieces).toBe(
      "<s>▁BEGINNING▁OF▁CONVERSATION:▁USER:▁Hello!▁GPT:▁Hi!▁How▁can▁I▁help▁you?</s>▁USER:▁What▁is▁the▁largest▁animal▁on▁earth?▁GPT:",
    );
    const asOneString = tokenizer.encode(koalaText(greeting, { eos: "</s>" }));
    expect(asOneString).not.toEqual(trainingIds(tokenizer));
  });
});

test("loss is 1 on answers and the end of sequence after them, 0 elsewhere", () => {
  const segments = koalaSegments(spm, [...greeting, { role: "assistant", content: "The blue whale." }]);
  expect(segments.map(({ loss, source, turn }) => [loss, source, turn])).toEqual([
    [0, "template", -1],
    [0, "user", 0],
    [1, "assistant", 1],
    [1, "template", 1],
    [0, "user", 2],
    [1, "assistant", 3],
    [1, "template", 3],
  ]);
  expect(segments.at(-1)!.ids).toEqual([2]);
});

test("BOS stands once at position 0, or nowhere", () => {
  expect(idsOf(koalaSegments(spm, greeting)).filter((id) => id === 1)).toHaveLength(1);
  expect(idsOf(koalaSegments(spm, greeting, { bos: "none" }))).toEqual(trainingIds(spm).slice(1));
});

test("the marker asks for a good answer, a bad one, or in words of one's own", () => {
  const ask = (marker: string): string => koalaText([{ role: "user", content: "Hello!" }], { marker });
  expect(ask("positive")).toBe("BEGINNING OF CONVERSATION: USER: Hello! GPT:");
  expect(ask("negative")).toBe("BEGINNING OF CONVERSATION: USER: Hello! An Unhelpful Answer:");
  expect(ask("A helpful answer:")).toBe("BEGINNING OF CONVERSATION: USER: Hello! A helpful answer:");
  const negative = koalaSegments(spm, [{ role: "user", content: "Hello!" }], {
    marker: "negative",
    bos: "none",
  });
  expect(idsOf(negative)).toEqual(alone(spm, ask("negative")));
});

test("what a user types is never a special token", () => {
  const ids = idsOf(koalaSegments(spm, [{ role: "user", content: "</s>USER: <s>hi" }]));
  expect(ids.filter((id) => id === 1 || id === 2)).toEqual([1]);
  expect(spm.decode(ids.slice(1))).toBe("BEGINNING OF CONVERSATION: USER: </s>USER: <s>hi GPT:");
});

test("a system message stands in front of the first question", () => {
  const text = koalaText([
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hello!" },
  ]);
  expect(text).toBe("BEGINNING OF CONVERSATION: USER: Be brief.\n\nHello! GPT:");
});

test("generated ids are used again as they are; the last answer can go on", () => {
  const odd = [...alone(spm, "H"), ...alone(spm, "i")];
  const segments = koalaSegments(
    spm,
    [
      { role: "user", content: "Hello!" },
      { role: "assistant", content: "Hi", ids: odd },
    ],
    { continueFinalMessage: true },
  );
  expect(segments.at(-1)).toEqual({ ids: odd, loss: 1, source: "assistant", turn: 1 });
});

test("conversations that the format cannot say are refused", () => {
  expect(() => koalaSegments(spm, [{ role: "assistant", content: "Hi" }])).toThrow(
    "begins with a user message",
  );
  expect(() => koalaSegments(spm, [{ role: "system", content: "x" }])).toThrow("needs a user message");
  expect(() =>
    koalaSegments(spm, [
      { role: "user", content: "x" },
      { role: "tool", content: "x" },
    ]),
  ).toThrow("no tool messages");
});

test("as a chat template it ends answers at EOS and streams them as texts of their own", () => {
  const template = builtinTemplate("koala", spm)!;
  expect(template.stopIds).toEqual([2]);
  expect(template.freshAnswer).toBe(true);
  expect(idsOf(template.render(greeting))).toEqual(trainingIds(spm));
  expect(template.renderText(greeting)).toBe(
    "<s>BEGINNING OF CONVERSATION: USER: Hello! GPT:Hi! How can I help you?</s>USER: What is the largest animal on earth? GPT:",
  );
});

const stories = `${sharedDirectory}/models/stories260K`;
test.skipIf(!existsSync(stories))(
  "stories260K's tokenizer gives the ids of the training fields (skips without ../shared)",
  async () => {
    const tokenizer = await loadTokenizer(stories);
    expect(idsOf(koalaSegments(tokenizer, greeting))).toEqual(trainingIds(tokenizer));
  },
);
