import { describe, expect, test } from "bun:test";
import { createDetokenizer, tokenText } from "../../src/text/detokenizer.ts";
import { createTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { type JsonObject, parseTokenizerFile } from "../../src/text/tokenizer_file.ts";
import {
  byteLevelJson,
  llama3Regex,
  metaspace,
  nastyStrings,
  random,
  sentencePieceJson,
  splitThenBytes,
} from "./corpus.ts";

const create = (json: JsonObject): Tokenizer =>
  createTokenizer(parseTokenizerFile({ path: "tokenizer.json", json }));

const unigram: JsonObject = {
  added_tokens: [{ id: 1, content: "</s>", special: true }],
  normalizer: null,
  pre_tokenizer: metaspace("always", true),
  post_processor: null,
  decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  model: {
    type: "Unigram",
    unk_id: 0,
    vocab: [
      ["<unk>", 0],
      ["</s>", 0],
      ["▁", -3],
      ...[..."abcdefghij"].map((letter) => [letter, -4]),
      ["▁ab", -2],
      ["cd", -2],
    ],
  },
};
const wordPiece: JsonObject = {
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: null,
  decoder: { type: "WordPiece", prefix: "##", cleanup: false },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: { "[UNK]": 0, ab: 1, "##cd": 2, ef: 3, "##a": 4 },
  },
};

const kinds: [string, Tokenizer][] = [
  ["SentencePiece BPE", create(sentencePieceJson())],
  ["byte-level BPE", create(byteLevelJson(splitThenBytes(llama3Regex)))],
  ["Unigram with Metaspace", create(unigram)],
];

function streamed(tokenizer: Tokenizer, ids: readonly number[], prompt: readonly number[] = []): string {
  const detokenizer = createDetokenizer(tokenizer, { prompt });
  return ids.map((id) => detokenizer.push(id)).join("") + detokenizer.end();
}

describe.each(kinds)("%s", (_name, tokenizer) => {
  test("the pieces of a stream join to decode's text", () => {
    const wrong = nastyStrings(31, 600).filter((text) => {
      const ids = tokenizer.encode(text);
      return streamed(tokenizer, ids) !== tokenizer.decode(ids, { skipSpecialTokens: true });
    });
    expect(wrong).toEqual([]);
  });

  test("text(prompt + output) = text(prompt) + stream, wherever the cut between whole characters", () => {
    const next = random(4);
    for (const text of nastyStrings(37, 300)) {
      const ids = tokenizer.encode(text);
      const cut = Math.floor(next() * ids.length);
      const prompt = tokenizer.decode(ids.slice(0, cut), { skipSpecialTokens: true });
      if (prompt.includes("\ufffd")) continue;
      expect(prompt + streamed(tokenizer, ids.slice(cut), ids.slice(0, cut))).toBe(
        tokenizer.decode(ids, { skipSpecialTokens: true }),
      );
    }
  });
});

test("nothing is emitted before a character is whole", () => {
  const spm = kinds[0]![1];
  const detokenizer = createDetokenizer(spm);
  const bytes = [0xf0, 0x9f, 0x90, 0xa8].map((byte) => byte + 3);
  expect(bytes.map((id) => detokenizer.push(id))).toEqual(["", "", "", "🐨"]);
  expect(detokenizer.push(bytes[0]!)).toBe("");
  expect(detokenizer.end()).toBe("\ufffd");
});

test("a prompt that ends within a character is completed by the output", () => {
  const spm = kinds[0]![1];
  const [first, ...rest] = [0xe4, 0xb8, 0xad].map((byte) => byte + 3);
  expect(streamed(spm, rest, [1, first!])).toBe("中");
});

test("the first word after a prompt keeps its space, the first word of a text does not have one", () => {
  const spm = kinds[0]![1];
  const girl = spm.encode("girl", { addSpecialTokens: false });
  expect(streamed(spm, girl)).toBe("girl");
  expect(streamed(spm, girl, [1])).toBe("girl");
  expect(streamed(spm, girl, spm.encode("little"))).toBe(" girl");
});

test("special tokens show only where asked", () => {
  const spm = kinds[0]![1];
  const ids = [1, ...spm.encode("girl", { addSpecialTokens: false }), 2];
  const all = createDetokenizer(spm, { skipSpecialTokens: false });
  expect(ids.map((id) => all.push(id)).join("") + all.end()).toBe("<s> girl</s>");
  const one = createDetokenizer(spm, { keep: new Set([2]) });
  expect(ids.map((id) => one.push(id)).join("") + one.end()).toBe("girl</s>");
});

test("a decoder without a byte table streams through a window", () => {
  const tokenizer = create(wordPiece);
  expect(tokenizer.byteRule).toBeNull();
  const ids = [1, 2, 3, 4, 2, 1, 0, 3];
  expect(streamed(tokenizer, ids)).toBe(tokenizer.decode(ids));
  expect(tokenizer.decode(ids.slice(0, 3)) + streamed(tokenizer, ids.slice(3), ids.slice(0, 3))).toBe(
    tokenizer.decode(ids),
  );
});

test("a token's own text shows special tokens as written, and the bytes of half a character", () => {
  const spm = kinds[0]![1];
  expect(tokenText(spm, 2)).toEqual({ text: "</s>", bytes: [...new TextEncoder().encode("</s>")] });
  expect(tokenText(spm, 0xe4 + 3)).toEqual({ text: "\ufffd", bytes: [0xe4] });
});
