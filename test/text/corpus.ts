/** Texts that tokenizers trip over, and small tokenizers trained on them: byte-level ones with the published split
 *  expressions, and one of the SentencePiece kind. Everything is drawn from a seed. */
import type { Json, JsonObject } from "../../src/text/tokenizer_file.ts";
import { byteAlphabet } from "../../src/text/bpe.ts";

export const sharedDirectory = new URL("../../../shared", import.meta.url).pathname;

export const llama3Regex =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
export const qwen2Regex = llama3Regex.replace("\\p{N}{1,3}", "\\p{N}");
export const gpt2Regex = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

export const sentences = [
  "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
  "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Größe, Straße, ÄÖÜ.",
  "Todos los seres humanos nacen libres e iguales en dignidad y derechos. ¿Qué tal? ¡Bien!",
  "Все люди рождаются свободными и равными в своём достоинстве и правах.",
  "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
  "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
  "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
  "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
  "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
  "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
  "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
  "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
  "def f(x):\n    return [x ** 2 for _ in range(1000)]  # 3.14159 0xFF 12345678\n\n\tif not x:\r\n\t\tpass\r\n",
  "I'll can't WE'VE it'S she'D I'M they'RE 'ſ '  's",
  "  leading, trailing   \n \n\n",
  "\t\ttabs \u00a0 nbsp \u3000 wide \u2028 line \u0085 next \ufeff bom",
  "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ☎️ 🏴󠁧󠁢󠁳󠁣󠁴󠁿 1️⃣",
  "e\u0301 a\u0308\u0323 \u1e9b\u0323 Å \u212b ﬁ ½ Ⅷ ² ٣ ੩",
  "\u200b\u200c\u200d\u202e\u2066 \u0000\u0001\u001f\u007f\u009f",
  "a▁b ▁▁ ▁",
  "x".repeat(300),
  "ab".repeat(200) + " " + "汉".repeat(150),
];

/** Mulberry32. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const alphabets = [
  () => [32, 126],
  () => [32, 126],
  () => [0, 31],
  () => [127, 255],
  () => [0x300, 0x36f],
  () => [0x400, 0x4ff],
  () => [0x590, 0x6ff],
  () => [0x900, 0x97f],
  () => [0xac00, 0xd7a3],
  () => [0x4e00, 0x9fff],
  () => [0x2000, 0x206f],
  () => [0x1f300, 0x1faff],
  () => [0xfe00, 0xfe0f],
  () => [0x10000, 0x103ff],
  () => [0x1d400, 0x1d7ff],
  () => [0xe000, 0xf8ff],
  () => [0x3040, 0x30ff],
] as const;

/** Nasty strings: random characters of random alphabets, spaces of all kinds, pieces of sentences, literals. */
export function nastyStrings(seed: number, count: number, literals: readonly string[] = []): string[] {
  const next = random(seed);
  const below = (limit: number): number => Math.floor(next() * limit);
  const spaces = [
    " ",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\v",
    "\f",
    "'",
    "'s",
    "▁",
  ];
  const piece = (): string => {
    const kind = below(10);
    if (kind < 4) {
      const [low, high] = alphabets[below(alphabets.length)]!();
      return Array.from({ length: 1 + below(6) }, () =>
        String.fromCodePoint(low! + below(high! - low! + 1)),
      ).join("");
    }
    if (kind < 6) return spaces[below(spaces.length)]!.repeat(1 + below(3));
    if (kind === 6 && literals.length > 0) return literals[below(literals.length)]!;
    if (kind === 7) return String(below(10 ** (1 + below(9))));
    const sentence = sentences[below(sentences.length)]!;
    const from = below(sentence.length);
    return sentence.slice(from, from + 1 + below(24));
  };
  const drawn = Array.from({ length: count }, () =>
    Array.from({ length: 1 + below(10) }, piece)
      .join("")
      .toWellFormed(),
  );
  return ["", " ", "  ", "\n", ...sentences, ...literals, ...drawn];
}

/** Greedy pair merging over words, as GPT-2's vocabulary was made. Symbols are in the model's own alphabet. */
function trainMerges(words: string[][], mergeCount: number): [string, string][] {
  const merges: [string, string][] = [];
  while (merges.length < mergeCount) {
    const counts = new Map<string, number>();
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]}\n${word[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    let best: [string, number] = ["", 1];
    for (const entry of counts) if (entry[1] > best[1]) best = entry;
    if (best[0] === "") break;
    const [left, right] = best[0].split("\n") as [string, string];
    merges.push([left, right]);
    words = words.map((word) => {
      const merged: string[] = [];
      for (let i = 0; i < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) merged.push(left + word[++i]!);
        else merged.push(word[i]!);
      }
      return merged;
    });
  }
  return merges;
}

const special = (id: number, content: string): JsonObject => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
});

const trained = new Map<string, [string, string][]>();

export function byteLevelJson(
  preTokenizer: Json,
  options: { normalizer?: Json; ignoreMerges?: boolean; specials?: string[] } = {},
): JsonObject {
  const encoder = new TextEncoder();
  if (!trained.has("bytes")) {
    const words = sentences.flatMap(
      (text) => text.match(/ ?\p{L}+| ?\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+/gu) ?? [],
    );
    trained.set(
      "bytes",
      trainMerges(
        words.map((word) => [...encoder.encode(word)].map((byte) => byteAlphabet[byte]!)),
        400,
      ),
    );
  }
  const merges = trained.get("bytes")!;
  const pieces = [...new Set([...byteAlphabet, ...merges.map(([left, right]) => left + right)])];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: (options.specials ?? ["<|endoftext|>"]).map((content, i) =>
      special(pieces.length + i, content),
    ),
    normalizer: options.normalizer ?? null,
    pre_tokenizer: preTokenizer,
    post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: options.ignoreMerges ?? false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}

export const splitThenBytes = (regex: string): Json => ({
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
  ],
});

export const legacyNormalizer: Json = {
  type: "Sequence",
  normalizers: [
    { type: "Prepend", prepend: "▁" },
    { type: "Replace", pattern: { String: " " }, content: "▁" },
  ],
};

export const metaspace = (scheme: string, split = false): Json => ({
  type: "Metaspace",
  replacement: "▁",
  prepend_scheme: scheme,
  split,
});

/** A small vocabulary of the LLaMA kind: <unk> <s> </s>, 256 bytes, characters and merges with ▁. */
export function sentencePieceJson(
  options: { normalizer?: Json; preTokenizer?: Json; extra?: string[] } = {},
): JsonObject {
  if (!trained.has("pieces")) {
    const koala =
      "BEGINNING OF CONVERSATION: USER: Hello! GPT: Hi! How can I help you? USER: What is the largest animal on earth? GPT: ";
    const words = [...sentences.slice(0, 4), koala, koala].flatMap(
      (text) => `▁${text.replaceAll(" ", "▁")}`.match(/▁*[^▁]*/gu) ?? [],
    );
    trained.set(
      "pieces",
      trainMerges(
        words.map((word) => [...word]),
        300,
      ),
    );
  }
  const merges = trained.get("pieces")!;
  const characters = [...new Set(sentences.slice(0, 6).join(""))].filter((character) => character !== " ");
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const pieces = [
    ...new Set([
      "<unk>",
      "<s>",
      "</s>",
      ...bytes,
      "▁",
      ...characters,
      ...merges.flatMap(([left, right]) => [left, right, left + right]),
    ]),
  ];
  const specials = ["<unk>", "<s>", "</s>", ...(options.extra ?? [])].map((content) => {
    if (!pieces.includes(content)) pieces.push(content);
    return special(pieces.indexOf(content), content);
  });
  const legacy = options.preTokenizer === undefined;
  const strip: Json[] = [{ type: "Strip", content: " ", start: 1, stop: 0 }];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specials,
    normalizer: options.normalizer ?? (legacy ? legacyNormalizer : null),
    pre_tokenizer: options.preTokenizer ?? null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...strip,
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: "<unk>",
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges,
    },
  };
}

export const sentencePieceConfig: JsonObject = {
  bos_token: "<s>",
  eos_token: "</s>",
  unk_token: "<unk>",
  add_bos_token: true,
  add_eos_token: false,
};

/** Like GPT-4o's: letter cases apart, contractions at the end of a word. */
const o200kRegex = [
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
  "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
].join("|");

/** Added tokens with every rule that there is. */
function withAddedTokens(json: JsonObject): JsonObject {
  const base = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const added = json.added_tokens as JsonObject[];
  const vocabulary = Object.values((json.model as JsonObject).vocab as { [piece: string]: number });
  const id = Math.max(...vocabulary, ...added.map((token) => token.id as number)) + 1;
  const more: JsonObject[] = [
    { ...base, id, content: "<mask>", lstrip: true },
    { ...base, id: id + 1, content: "<r>", rstrip: true },
    { ...base, id: id + 2, content: "word", single_word: true, special: false },
    { ...base, id: id + 3, content: "<norm> x", normalized: true, special: false },
    { ...base, id: id + 4, content: "<r><", special: false },
  ];
  return { ...json, added_tokens: [...added, ...more] };
}

function withoutBytes(json: JsonObject): JsonObject {
  const model = json.model as JsonObject;
  const kept = Object.entries(model.vocab as JsonObject).filter(([piece]) => !/^<0x[89A]/.test(piece));
  return { ...json, model: { ...model, vocab: Object.fromEntries(kept) } };
}

export const goldenLiterals = [
  "<s>",
  "</s>",
  "<|endoftext|>",
  "<mask>",
  "  <mask>",
  "<r>",
  "<r>  ",
  "<r><",
  "word",
  "<norm> x",
  "<0x41>",
  " \u0085",
  "ſ",
  "'ſ",
];

/** The kinds of tokenizer whose ids and texts test/golden/text/tokenizers.json holds. */
export const goldenKinds: { [name: string]: () => JsonObject } = {
  "SentencePiece, Prepend and Replace": () => sentencePieceJson(),
  "SentencePiece, Metaspace first": () => sentencePieceJson({ preTokenizer: metaspace("first") }),
  "SentencePiece, Metaspace always": () => sentencePieceJson({ preTokenizer: metaspace("always") }),
  "SentencePiece, Metaspace never": () => sentencePieceJson({ preTokenizer: metaspace("never") }),
  "SentencePiece, Metaspace first, split": () =>
    sentencePieceJson({ preTokenizer: metaspace("first", true) }),
  "SentencePiece, added tokens": () => withAddedTokens(sentencePieceJson()),
  "SentencePiece, Metaspace first, added tokens": () =>
    withAddedTokens(sentencePieceJson({ preTokenizer: metaspace("first") })),
  "SentencePiece, bytes missing": () => withoutBytes(sentencePieceJson()),
  "SentencePiece, Metaspace decoder": () => ({
    ...sentencePieceJson({ preTokenizer: metaspace("first") }),
    decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false },
  }),
  "SentencePiece, Replace and Split as Gemma": () =>
    sentencePieceJson({
      normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
      preTokenizer: {
        type: "Split",
        pattern: { String: " " },
        behavior: "MergedWithPrevious",
        invert: false,
      },
    }),
  "bytes, Llama 3, ignore_merges": () => byteLevelJson(splitThenBytes(llama3Regex), { ignoreMerges: true }),
  "bytes, Qwen 2": () => byteLevelJson(splitThenBytes(qwen2Regex), { normalizer: { type: "NFC" } }),
  "bytes, GPT-2": () =>
    byteLevelJson({ type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }),
  "bytes, GPT-2 with a prefix space": () =>
    byteLevelJson({ type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true }),
  "bytes, single digits then GPT-2": () =>
    byteLevelJson({
      type: "Sequence",
      pretokenizers: [
        { type: "Digits", individual_digits: true },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    }),
  "bytes, o200k": () => byteLevelJson(splitThenBytes(o200kRegex)),
  "bytes, added tokens": () => withAddedTokens(byteLevelJson(splitThenBytes(llama3Regex))),
};
