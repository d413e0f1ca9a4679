/** Trains a byte-level BPE tokenizer (Sennrich et al. 2016) and writes it as Hugging Face's tokenizer.json.
 *  Always: digits stand alone, so that numbers are read place by place; ties between pairs are broken by the pieces
 *  themselves, so the same texts give the same file. */
import { byteAlphabet } from "../../text/bpe.ts";
import { compilePreTokenizer } from "../../text/pretokenizer.ts";
import type { JsonObject } from "../../text/tokenizer_file.ts";

/** LLaMA's three, in LLaMA's places. */
export const specialTokens = ["<unk>", "<s>", "</s>"] as const;

const preTokenizer: JsonObject = {
  type: "Sequence",
  pretokenizers: [
    { type: "Digits", individual_digits: true },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
  ],
};

/** tokenizer.json with at most `vocabularySize` pieces: special tokens, 256 bytes, then merges by frequency. */
export function trainBpe(texts: Iterable<string>, vocabularySize: number): JsonObject {
  const pieces = [...specialTokens, ...byteAlphabet.toSorted()];
  const merges = learnMerges(countWords(texts), vocabularySize - pieces.length);
  const vocabulary = new Map(pieces.map((piece, id) => [piece, id]));
  // Two merges can make the same piece.
  for (const [left, right] of merges)
    if (!vocabulary.has(left + right)) vocabulary.set(left + right, vocabulary.size);
  return tokenizerJson(Object.fromEntries(vocabulary), merges);
}

/** A word as its symbols, and how often it occurs. */
interface Word {
  symbols: string[];
  count: number;
}

function countWords(texts: Iterable<string>): Word[] {
  const { split } = compilePreTokenizer(preTokenizer)!;
  const counts = new Map<string, number>();
  for (const text of texts)
    for (const word of split(text, true)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return [...counts].map(([word, count]) => ({
    symbols: Array.from(Buffer.from(word), (byte) => byteAlphabet[byte]!),
    count,
  }));
}

/** The most frequent pair becomes one symbol, again and again; a pair that occurs once is not worth a piece. */
function learnMerges(words: Word[], mergesMax: number): [string, string][] {
  const pairs = new PairCounts(words);
  const merges: [string, string][] = [];
  while (merges.length < mergesMax) {
    const best = pairs.mostFrequent();
    if (best === null) break;
    merges.push(best);
    for (const word of pairs.wordsWith(best)) {
      pairs.count(word, -1);
      word.symbols = merged(word.symbols, best);
      pairs.count(word, 1);
    }
  }
  return merges;
}

class PairCounts {
  private readonly counts = new Map<string, number>();
  private readonly words = new Map<string, Set<Word>>();

  constructor(words: readonly Word[]) {
    for (const word of words) this.count(word, 1);
  }

  /** Adds the pairs of a word, or takes them away. */
  count(word: Word, sign: 1 | -1): void {
    for (let i = 1; i < word.symbols.length; i++) {
      const key = `${word.symbols[i - 1]} ${word.symbols[i]}`;
      this.counts.set(key, (this.counts.get(key) ?? 0) + sign * word.count);
      let holders = this.words.get(key);
      if (!holders) this.words.set(key, (holders = new Set()));
      if (sign > 0) holders.add(word);
      else holders.delete(word);
    }
  }

  mostFrequent(): [string, string] | null {
    let best = "";
    let most = 1;
    for (const [key, count] of this.counts)
      if (count > most || (count === most && count > 1 && key < best)) [best, most] = [key, count];
    // The alphabet has no space, so it can separate.
    return best === "" ? null : (best.split(" ") as [string, string]);
  }

  wordsWith([left, right]: [string, string]): Word[] {
    return [...(this.words.get(`${left} ${right}`) ?? [])];
  }
}

function merged(symbols: readonly string[], [left, right]: [string, string]): string[] {
  const result: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) result.push(left + symbols[++i]);
    else result.push(symbols[i]!);
  }
  return result;
}

function tokenizerJson(vocab: { [piece: string]: number }, merges: [string, string][]): JsonObject {
  const special = (content: string, id: number): JsonObject => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const bos = { SpecialToken: { id: "<s>", type_id: 0 } };
  const sequence = (id: string): JsonObject => ({ Sequence: { id, type_id: 0 } });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map(special),
    normalizer: null,
    pre_tokenizer: preTokenizer,
    post_processor: {
      type: "TemplateProcessing",
      single: [bos, sequence("A")],
      pair: [bos, sequence("A"), sequence("B")],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}

/** Beside tokenizer.json, for transformers and for us. */
export const tokenizerConfig: JsonObject = {
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: "<s>",
  eos_token: "</s>",
  unk_token: "<unk>",
  add_bos_token: true,
  add_eos_token: false,
  clean_up_tokenization_spaces: false,
};
