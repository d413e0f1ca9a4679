import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { AutoTokenizer, env } from "@huggingface/transformers";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { createTokenizer, loadTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { type Json, type JsonObject, parseTokenizerFile } from "../../src/text/tokenizer_file.ts";
import {
  byteLevelJson,
  goldenKinds,
  goldenLiterals,
  gpt2Regex,
  llama3Regex,
  metaspace,
  nastyStrings,
  qwen2Regex,
  random,
  sentencePieceConfig,
  sentencePieceJson,
  sharedDirectory,
  splitThenBytes,
} from "./corpus.ts";

const stories = `${sharedDirectory}/models/stories260K`;
const noStories = !existsSync(stories);

const create = (json: JsonObject, config: JsonObject = {}): Tokenizer =>
  createTokenizer(parseTokenizerFile({ path: "tokenizer.json", json, config }));

const libraryFor = (json: JsonObject): LibraryTokenizer =>
  new LibraryTokenizer(json, { clean_up_tokenization_spaces: false });

/** The texts on which two encoders differ. */
function differences(
  texts: readonly string[],
  ours: (text: string) => number[],
  theirs: (text: string) => number[],
): string[] {
  return texts.filter((text) => {
    const a = ours(text);
    const b = theirs(text);
    return a.length !== b.length || a.some((id, i) => id !== b[i]);
  });
}

const gpt2ByteLevel: Json = {
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: true,
};
const kinds: [name: string, json: () => JsonObject][] = [
  ["SentencePiece BPE, Prepend and Replace", () => sentencePieceJson()],
  ["SentencePiece BPE, Metaspace first", () => sentencePieceJson({ preTokenizer: metaspace("first") })],
  ["SentencePiece BPE, Metaspace always", () => sentencePieceJson({ preTokenizer: metaspace("always") })],
  ["SentencePiece BPE, Metaspace never", () => sentencePieceJson({ preTokenizer: metaspace("never") })],
  [
    "byte-level BPE, Llama 3's expression, ignore_merges",
    () => byteLevelJson(splitThenBytes(llama3Regex), { ignoreMerges: true }),
  ],
  [
    "byte-level BPE, Qwen 2's expression, NFC",
    () => byteLevelJson(splitThenBytes(qwen2Regex), { normalizer: { type: "NFC" } }),
  ],
  ["byte-level BPE, GPT-2's expression spelled out", () => byteLevelJson(splitThenBytes(gpt2Regex))],
];

describe("encode", () => {
  for (const [name, json] of kinds) {
    test(`${name}: 1500 nasty strings give the library's ids`, () => {
      const file = json();
      const tokenizer = create(file);
      const library = libraryFor(file);
      expect(tokenizer.engine).toBe("bpe");
      const texts = nastyStrings(7, 1500, tokenizer.specialLiterals);
      expect(
        differences(
          texts,
          (text) => tokenizer.encode(text),
          (text) => library.encode(text).ids,
        ),
      ).toEqual([]);
    });
  }

  test("GPT-2's own pre-tokenizer follows Python where JavaScript's \\s does not", () => {
    const tokenizer = create(byteLevelJson(gpt2ByteLevel));
    const library = libraryFor(byteLevelJson(gpt2ByteLevel));
    const spelled = libraryFor(byteLevelJson(splitThenBytes(gpt2Regex)));
    const texts = nastyStrings(11, 1500, tokenizer.specialLiterals);
    // The library's built-in expression uses JavaScript's \s, which has U+FEFF and lacks U+0085; spelled out it does not.
    const same = texts.filter((text) => !/[\ufeff\u0085]/.test(text));
    expect(
      differences(
        same,
        (text) => tokenizer.encode(text),
        (text) => library.encode(text).ids,
      ),
    ).toEqual([]);
    expect(
      differences(
        texts,
        (text) => tokenizer.encode(text),
        (text) => spelled.encode(text).ids,
      ),
    ).toEqual([]);
    expect(texts.length - same.length).toBeGreaterThan(10);
  });

  test("a contraction takes the long s, as Oniguruma's case folding does", () => {
    const tokenizer = create(byteLevelJson(splitThenBytes(llama3Regex)));
    // One pre-token 'ſ: were it not, the apostrophe would go with the letters that follow.
    expect(tokenizer.encode("'ſx")).toEqual([...tokenizer.encode("'ſ"), ...tokenizer.encode("x")]);
  });

  test("a text of 100,000 letters without a space costs no quadratic time", () => {
    const tokenizer = create(sentencePieceJson());
    const text = "lovedplayoutside".repeat(6250);
    const before = performance.now();
    expect(tokenizer.decode(tokenizer.encode(text), { skipSpecialTokens: true })).toBe(text);
    expect(performance.now() - before).toBeLessThan(3000);
  });

  test("long pieces merge like short ones", () => {
    const json = sentencePieceJson();
    const library = libraryFor(json);
    const tokenizer = create(json);
    const next = random(3);
    const texts = Array.from({ length: 40 }, () =>
      Array.from({ length: 200 + next() * 300 }, () => "abdeilnotuy"[Math.floor(next() * 11)]!).join(""),
    );
    expect(
      differences(
        texts,
        (text) => tokenizer.encode(text),
        (text) => library.encode(text).ids,
      ),
    ).toEqual([]);
  });

  test.skipIf(noStories)(
    "stories260K: 2000 nasty strings equal the library, and AutoTokenizer of transformers.js (skips without ../shared)",
    async () => {
      const tokenizer = await loadTokenizer(stories);
      const library = libraryFor(await Bun.file(`${stories}/tokenizer.json`).json());
      const texts = nastyStrings(5, 2000, ["<s>", "</s>", "<unk>", "<0x41>"]);
      expect(
        differences(
          texts,
          (text) => tokenizer.encode(text),
          (text) => library.encode(text).ids,
        ),
      ).toEqual([]);
      env.allowRemoteModels = false;
      env.localModelPath = `${sharedDirectory}/models/`;
      const auto = await AutoTokenizer.from_pretrained("stories260K", { local_files_only: true });
      expect(
        differences(
          texts.slice(0, 300),
          (text) => tokenizer.encode(text),
          (text) => auto.encode(text),
        ),
      ).toEqual([]);
    },
  );
});

interface Golden {
  seed: number;
  count: number;
  kinds: {
    [name: string]: { encode: number[][]; decode: [ids: number[], text: string, withoutSpecials: string][] };
  };
}
const golden = (await Bun.file(new URL("../golden/text/tokenizers.json", import.meta.url)).json()) as Golden;

describe("Python's tokenizers 0.23.2", () => {
  const texts = nastyStrings(golden.seed, golden.count, goldenLiterals);
  test("the golden file has every kind", () => {
    expect(Object.keys(golden.kinds)).toEqual(Object.keys(goldenKinds));
  });

  for (const [name, { encode, decode }] of Object.entries(golden.kinds)) {
    test(`${name}: ${encode.length} texts and ${decode.length} random lists of ids`, () => {
      const tokenizer = create(goldenKinds[name]!());
      expect(tokenizer.engine).toBe("bpe");
      expect(texts.map((text) => tokenizer.encode(text))).toEqual(encode);
      expect(decode.map(([ids]) => tokenizer.decode(ids))).toEqual(decode.map(([, text]) => text));
      expect(decode.map(([ids]) => tokenizer.decode(ids, { skipSpecialTokens: true }))).toEqual(
        decode.map(([, , text]) => text),
      );
    });
  }
});

describe("special tokens", () => {
  test("addSpecialTokens false leaves out BOS; tokenizer.json decides, as in transformers 5.17, whatever add_bos_token says", () => {
    const plain = create(sentencePieceJson(), sentencePieceConfig);
    const without = plain.encode("girl", { addSpecialTokens: false });
    expect(plain.encode("girl")).toEqual([1, ...without]);
    expect(
      create(sentencePieceJson(), { ...sentencePieceConfig, add_bos_token: false }).encode("girl"),
    ).toEqual([1, ...without]);
    expect(
      create({ ...sentencePieceJson(), post_processor: null }, sentencePieceConfig).encode("girl"),
    ).toEqual(without);
  });

  test("a template may put tokens on both sides, and processors may wrap each other", () => {
    const token = (id: string): JsonObject => ({ SpecialToken: { id, type_id: 0 } });
    const template = (before: string, after: string): Json => ({
      type: "TemplateProcessing",
      single: [token(before), { Sequence: { id: "A", type_id: 0 } }, token(after)],
      special_tokens: {
        [before]: { id: before, ids: [before === "<s>" ? 1 : 2], tokens: [before] },
        [after]: { id: after, ids: [2], tokens: [after] },
      },
    });
    const both = create({ ...sentencePieceJson(), post_processor: template("<s>", "</s>") });
    const without = both.encode("girl", { addSpecialTokens: false });
    expect(both.encode("girl")).toEqual([1, ...without, 2]);
    const sequence: Json = { type: "Sequence", processors: [{ type: "ByteLevel" }, template("<s>", "</s>")] };
    expect(create({ ...sentencePieceJson(), post_processor: sequence }).encode("girl")).toEqual([
      1,
      ...without,
      2,
    ]);
  });

  test("parseSpecial false encodes a literal as plain text", () => {
    const tokenizer = create(sentencePieceJson());
    const ids = tokenizer.encode("a </s> b", { parseSpecial: false, addSpecialTokens: false });
    expect(tokenizer.encode("a </s> b")).toContain(2);
    expect(ids).not.toContain(2);
    expect(tokenizer.decode(ids)).toBe("a </s> b");
  });

  test("a sentinel inside a literal makes it plain text and vanishes", () => {
    const tokenizer = create(sentencePieceJson());
    const marked = tokenizer.encode("<s>a <\ue000/s> b</s>", { addSpecialTokens: false, sentinel: "\ue000" });
    const [, ...rest] = marked;
    expect(marked[0]).toBe(1);
    expect(rest.slice(0, -1)).toEqual(
      tokenizer.encode("a </s> b", { parseSpecial: false, addSpecialTokens: false }),
    );
    expect(rest.at(-1)).toBe(2);
  });

  test("lstrip, rstrip and single_word are tokenizers' own", () => {
    const json = sentencePieceJson({ preTokenizer: metaspace("never") });
    const base = { normalized: false, special: true, single_word: false, lstrip: false, rstrip: false };
    const size = Object.keys((json.model as JsonObject).vocab as JsonObject).length;
    const added = [...(json.added_tokens as Json[])];
    added.push(
      { ...base, id: size, content: "<mask>", lstrip: true },
      { ...base, id: size + 1, content: "<r>", rstrip: true },
      { ...base, id: size + 2, content: "word", single_word: true },
    );
    const tokenizer = create({ ...json, added_tokens: added });
    const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });
    expect(encode("a \n<mask>b")).toEqual([...encode("a"), size, ...encode("b")]);
    expect(encode("a<r>  \u0085b")).toEqual([...encode("a"), size + 1, ...encode("b")]);
    expect(encode("a word.")).toContain(size + 2);
    expect(encode("awords")).not.toContain(size + 2);
    expect(encode("ǉword")).not.toContain(size + 2);
  });

  test("ids that end a text come from the tokenizer and from generation_config", () => {
    const file = parseTokenizerFile({
      path: "tokenizer.json",
      json: sentencePieceJson(),
      config: sentencePieceConfig,
      eosTokenId: [2, 7],
    });
    expect(createTokenizer(file).eosIds).toEqual([2, 7]);
  });
});

describe("decode", () => {
  const spm = create(sentencePieceJson());
  const bytes = (...values: number[]): number[] => values.map((value) => value + 3);

  test("no ids and unknown ids are the empty text", () => {
    expect(spm.decode([])).toBe("");
    expect(spm.decode([999_999, -1, 1.5])).toBe("");
    expect(spm.tokenString(2 ** 31)).toBe("");
    expect(spm.tokenBytes(2 ** 31)).toHaveLength(0);
  });

  test("an invalid run of byte pieces is one U+FFFD for each byte, as in Rust", () => {
    expect(spm.decode(bytes(0xe4, 0xb8, 0xad))).toBe("中");
    expect(spm.decode(bytes(0xe4, 0xb8))).toBe("\ufffd\ufffd");
    // Valid characters in the same run go with it.
    expect(spm.decode(bytes(0x41, 0xe4, 0xb8))).toBe("\ufffd\ufffd\ufffd");
  });

  test("invalid bytes of a byte-level tokenizer are one U+FFFD for each maximal part", () => {
    const tokenizer = create(byteLevelJson(gpt2ByteLevel));
    const ids = [0xe4, 0xb8, 0x41, 0xff].map((byte) => byteId(tokenizer, byte));
    expect(tokenizer.decode(ids)).toBe("\ufffdA\ufffd");
  });

  test("only one leading space goes, and special tokens where asked", () => {
    const encode = (text: string): number[] => spm.encode(text);
    expect(spm.decode(encode("  two"), { skipSpecialTokens: true })).toBe("  two");
    expect(spm.decode(encode("girl"))).toBe("<s> girl");
    expect(spm.decode([...encode("girl"), 2], { skipSpecialTokens: true })).toBe("girl");
  });

  for (const [name, json] of kinds) {
    test(`${name}: text comes back and equals the library's decode`, () => {
      const file = json();
      const tokenizer = create(file);
      const library = libraryFor(file);
      // The library's ByteFallback swallows a byte order mark, Rust's does not: the next test covers these texts.
      const texts = nastyStrings(23, 400).filter((text) => text !== "" && !text.includes("\ufeff"));
      const wrong = texts.filter((text) => {
        const ids = tokenizer.encode(text, { addSpecialTokens: false });
        return tokenizer.decode(ids) !== library.decode(ids, { clean_up_tokenization_spaces: false });
      });
      expect(wrong).toEqual([]);
    });
  }
});

test("a byte order mark survives a round trip", () => {
  for (const [, json] of kinds) {
    const tokenizer = create(json());
    const decoded = tokenizer.decode(tokenizer.encode("a\ufeffb \ufeff", { addSpecialTokens: false }));
    expect(decoded).toBe("a\ufeffb \ufeff");
  }
});

describe("other kinds", () => {
  test("WordPiece and Unigram go to the library behind the same interface", () => {
    const wordPiece: JsonObject = {
      version: "1.0",
      added_tokens: [
        { id: 0, content: "[UNK]", special: true },
        { id: 1, content: "[CLS]", special: true },
        { id: 2, content: "[SEP]", special: true },
      ],
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: null,
        lowercase: true,
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: { type: "BertProcessing", cls: ["[CLS]", 1], sep: ["[SEP]", 2] },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: { "[UNK]": 0, "[CLS]": 1, "[SEP]": 2, hello: 3, wor: 4, "##ld": 5, "!": 6 },
      },
    };
    const tokenizer = create(wordPiece, { cls_token: "[CLS]" });
    expect(tokenizer.engine).toBe("library");
    expect(tokenizer.encode("Hello World! [SEP] Zebra")).toEqual([1, 3, 4, 5, 6, 2, 0, 2]);
    expect(tokenizer.decode([1, 3, 4, 5, 6, 2], { skipSpecialTokens: true })).toBe("hello world!");
    const unigram: JsonObject = {
      version: "1.0",
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: metaspace("always", true),
      post_processor: null,
      decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
      model: {
        type: "Unigram",
        unk_id: 0,
        byte_fallback: false,
        vocab: [
          ["<unk>", 0],
          ["▁he", -1],
          ["llo", -2],
          ["▁hello", -2.5],
          ["▁", -3],
          ["l", -4],
          ["o", -4],
          ["h", -4],
          ["e", -4],
        ],
      },
    };
    const pieces = create(unigram);
    expect(pieces.engine).toBe("library");
    expect(pieces.encode("hello hello").map((id) => pieces.tokenString(id))).toEqual(["▁hello", "▁hello"]);
    expect(pieces.decode(pieces.encode("hello hello"))).toBe("hello hello");
  });

  test("a split expression with a construct we do not translate goes to the library", () => {
    expect(create(byteLevelJson(splitThenBytes("\\w++|[^a]"))).engine).toBe("library");
  });
});

function byteId(tokenizer: Tokenizer, byte: number): number {
  for (let id = 0; id < tokenizer.vocabularySize; id++) {
    const bytes = tokenizer.tokenBytes(id);
    if (bytes.length === 1 && bytes[0] === byte) return id;
  }
  throw new Error(`no piece for byte ${byte}`);
}
