import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createTokenizer, loadTokenizer } from "../../src/text/tokenizer.ts";
import { type Json, type JsonObject, parseTokenizerFile } from "../../src/text/tokenizer_file.ts";
import { UsageError } from "../../src/util/errors.ts";
import {
  byteLevelJson,
  llama3Regex,
  metaspace,
  random,
  sentencePieceJson,
  splitThenBytes,
} from "./corpus.ts";

const lies: [
  what: string,
  change: (json: JsonObject, model: JsonObject, vocab: JsonObject) => void,
  sentence: RegExp,
][] = [
  ["no model", (json) => delete json.model, /has no "model"/],
  ["no vocabulary", (_json, model) => delete model.vocab, /has no vocabulary/],
  [
    "a negative id",
    (_json, _model, vocab) => (vocab.girl = -1),
    /"girl" the id -1; ids are whole numbers from 0 to/,
  ],
  ["a fractional id", (_json, _model, vocab) => (vocab.girl = 1.5), /the id 1\.5/],
  ["an id that is text", (_json, _model, vocab) => (vocab.girl = "7"), /the id "7"/],
  ["an id beyond all bounds", (_json, _model, vocab) => (vocab.girl = 2 ** 31), /the id 2147483648/],
  ["one id twice", (_json, _model, vocab) => (vocab.girl = 2), /the id 2 to both/],
  [
    "a merge of unknown pieces",
    (_json, model) => (model.merges as Json[]).push(["zq", "xj"]),
    /merge \d+ needs the piece "zq"/,
  ],
  [
    "a merge of three",
    (_json, model) => (model.merges as Json[]).push("a b c"),
    /merge \d+ is "a b c", not a pair/,
  ],
  ["merges that are no list", (_json, model) => (model.merges = "a b"), /"model\.merges" that is not a list/],
  [
    "an added token without content",
    (json) => (json.added_tokens as Json[]).push({ id: 9 }),
    /added token without content/,
  ],
  [
    "an added token on another's id",
    (json) => (json.added_tokens as Json[]).push({ id: 3, content: "<x>" }),
    /"<x>" has the id 3, which already names "<0x00>"/,
  ],
  [
    "a BOS that is not there",
    (json) =>
      (json.post_processor = {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<b>" } }],
        special_tokens: { "<b>": { ids: [99999] } },
      }),
    /"<b>" with the id 99999/,
  ],
  [
    "an unknown post_processor",
    (json) => (json.post_processor = { type: "Magic" }),
    /post_processor of type "Magic"/,
  ],
];

for (const [what, change, sentence] of lies) {
  test(`${what} is refused with one sentence`, () => {
    const json = structuredClone(sentencePieceJson());
    const model = json.model as JsonObject;
    change(json, model, model.vocab as JsonObject);
    expect(() => parseTokenizerFile({ path: "m/tokenizer.json", json })).toThrow(sentence);
    expect(() => parseTokenizerFile({ path: "m/tokenizer.json", json })).toThrow(UsageError);
  });
}

test("missing, truncated and foreign files are refused with the file's name", async () => {
  const directory = await mkdtemp(join(tmpdir(), "koala-tokenizer-"));
  try {
    const path = join(directory, "tokenizer.json");
    await expect(loadTokenizer(directory)).rejects.toThrow(/has no tokenizer\.json/);
    await Bun.write(join(directory, "tokenizer.model"), "x");
    await expect(loadTokenizer(directory)).rejects.toThrow(/tokenizer\.model alone is not enough/);
    await Bun.write(path, JSON.stringify(sentencePieceJson()).slice(0, 5000));
    await expect(loadTokenizer(directory)).rejects.toThrow(`${path} is not valid JSON`);
    await Bun.write(path, "[1]");
    await expect(loadTokenizer(directory)).rejects.toThrow("holds no JSON object");
    await Bun.write(
      path,
      JSON.stringify({
        ...sentencePieceJson(),
        added_tokens: [],
        post_processor: null,
        model: { type: "Martian", vocab: { a: 0 } },
      }),
    );
    await expect(loadTokenizer(directory)).rejects.toThrow(/has a model of type "Martian"; supported are/);
    await Bun.write(path, JSON.stringify(sentencePieceJson()));
    await Bun.write(join(directory, "generation_config.json"), '{"eos_token_id": [-4]}');
    await expect(loadTokenizer(directory)).rejects.toThrow(/"eos_token_id" the id -4/);
  } finally {
    await rm(directory, { recursive: true });
  }
});

/** Replaces one value somewhere in the file, vocabulary and merges included. */
function damage(json: JsonObject, next: () => number): string {
  const lies: Json[] = [
    null,
    -1,
    1.5,
    2 ** 40,
    "",
    "zz",
    [],
    {},
    true,
    [[1]],
    { type: "Split" },
    { type: "Sequence" },
  ];
  let node: Json = json;
  const path: string[] = [];
  for (;;) {
    const keys: string[] = Object.keys(node as JsonObject);
    const key: string = keys[Math.floor(next() * keys.length)]!;
    path.push(key);
    const parent = node as JsonObject;
    const value: Json = parent[key]!;
    if (typeof value !== "object" || value === null || Object.keys(value).length === 0 || next() < 0.25) {
      const lie = lies[Math.floor(next() * lies.length)]!;
      if (next() < 0.2) delete parent[key];
      else parent[key] = structuredClone(lie);
      return `${path.join(".")} = ${JSON.stringify(lie)}`;
    }
    node = value;
  }
}

test("1500 damaged files load or are refused with a sentence, and none breaks later", () => {
  const next = random(12);
  const sources = [
    sentencePieceJson(),
    sentencePieceJson({ preTokenizer: metaspace("first") }),
    byteLevelJson(splitThenBytes(llama3Regex), { normalizer: { type: "NFC" } }),
  ];
  for (const source of sources)
    (source.model as JsonObject).vocab = shortened((source.model as JsonObject).vocab as JsonObject);
  let refused = 0;
  for (let round = 0; round < 1500; round++) {
    const json = structuredClone(sources[round % 3]!);
    const model = json.model as JsonObject;
    model.merges = [];
    const what = damage(json, next);
    try {
      const tokenizer = createTokenizer(
        parseTokenizerFile({ path: "tokenizer.json", json: JSON.parse(JSON.stringify(json)) }),
      );
      const ids = tokenizer.encode("girl </s> ü \n 12");
      tokenizer.decode([...ids, 5, 99_999]);
    } catch (error) {
      if (!(error instanceof UsageError)) throw new Error(`${what}: ${error}`);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(100);
});

/** Few pieces, so that the damage falls on the rest as well. */
const shortened = (vocabulary: JsonObject): JsonObject =>
  Object.fromEntries(Object.entries(vocabulary).slice(0, 300));
