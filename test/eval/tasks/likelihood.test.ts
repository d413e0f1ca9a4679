/** Rows, pairs and windows against what lm-evaluation-harness 0.4.13 makes of the same texts (goldens of its own functions). */
import { describe, expect, test } from "bun:test";
import {
  rollingRows,
  TextLikelihood,
  TokenLikelihood,
  type TokenModel,
  type TokenRow,
} from "../../../src/eval/tasks/likelihood.ts";
import { perplexityBySource } from "../../../src/eval/tasks/perplexity.ts";
import { bigramLogprobs, BOS } from "../../support/fake_engine.ts";

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];

/** The bigram model over bytes, and the rows that it was asked for. */
function bigrams(more: Partial<TokenModel> = {}): { model: TokenModel; asked: TokenRow[] } {
  const asked: TokenRow[] = [];
  const score = (ids: number[], at: number) => {
    const logprobs = bigramLogprobs(ids[at - 1]!);
    return { logprob: logprobs[ids[at]!]!, greedy: logprobs[ids[at]!] === Math.max(...logprobs) };
  };
  const model: TokenModel = {
    encode: async (text) => bytes(text),
    score: async (rows) => {
      asked.push(...rows);
      return rows.map(({ ids, from }) => range(ids.length - from).map((i) => score(ids, from + i)));
    },
    prefix: BOS,
    bos: [],
    longest: 100,
    ...more,
  };
  return { model, asked };
}

const sumOf = (ids: number[], from: number): number =>
  ids.slice(from).reduce((sum, id, i) => sum + bigramLogprobs(ids[from + i - 1]!)[id]!, 0);

describe("rows of a document", () => {
  /** get_rolling_token_windows(range(n), prefix_token=100, max_seq_len=m, context_len=1): inputs, and what they predict. */
  const golden: [n: number, m: number, windows: [input: number[], predicted: number[]][]][] = [
    [10, 4, [[[100, 0, 1, 2], [0, 1, 2, 3]], [[3, 4, 5, 6], [4, 5, 6, 7]], [[5, 6, 7, 8], [8, 9]]]],
    [9, 4, [[[100, 0, 1, 2], [0, 1, 2, 3]], [[3, 4, 5, 6], [4, 5, 6, 7]], [[4, 5, 6, 7], [8]]]],
    [4, 4, [[[100, 0, 1, 2], [0, 1, 2, 3]]]],
    [3, 8, [[[100, 0, 1], [0, 1, 2]]]],
  ]; // prettier-ignore

  for (const [n, m, windows] of golden)
    test(`${n} tokens in windows of ${m} are the harness's`, () => {
      const rows = rollingRows(range(n), { prefix: 100, window: m + 1 });
      const seen = rows.map(({ ids, from }) => [ids.slice(0, -1), ids.slice(from)]);
      expect(seen).toEqual(windows);
    });

  test("a stride gives each further token at least the window less the stride as context, each token once", () => {
    const ids = range(97);
    const rows = rollingRows(ids, { prefix: 100, window: 20, stride: 6 });
    expect(rows.flatMap(({ ids: row, from }) => row.slice(from))).toEqual(ids);
    expect(rows.every(({ ids: row }) => row.length <= 20)).toBe(true);
    expect(Math.min(...rows.slice(1).map(({ from }) => from))).toBeGreaterThanOrEqual(14);
  });

  test("windows that cannot score are refused", () => {
    expect(() => rollingRows(range(4), { prefix: 0, window: 1 })).toThrow("A window of 1 tokens");
    expect(() => rollingRows(range(4), { prefix: 0, window: 4, stride: 4 })).toThrow("stride of 4");
  });
});

describe("pairs", () => {
  test("a continuation is what both together have beyond the context, whose last spaces it takes", async () => {
    const { model, asked } = bigrams();
    const [score] = await new TokenLikelihood(model).pairs([{ context: "Q: 2+2=  ", continuation: "4" }]);
    expect(asked).toEqual([{ ids: bytes("Q: 2+2=  4"), from: 7 }]);
    expect(score).toEqual({ logprob: sumOf(bytes("Q: 2+2=  4"), 7), tokens: 3, greedy: false });
  });

  test("without a context the prefix stands before it; BOS stands before every context where wanted", async () => {
    const { model, asked } = bigrams();
    await new TokenLikelihood(model).pairs([{ context: "", continuation: "ab" }]);
    await new TokenLikelihood({ ...model, bos: [BOS] }).pairs([{ context: "x", continuation: "y" }]);
    await new TokenLikelihood({ ...model, bos: [BOS] }).pairs([{ context: "", continuation: "y" }]);
    expect(asked).toEqual([
      { ids: [BOS, ...bytes("ab")], from: 1 },
      { ids: [BOS, ...bytes("xy")], from: 2 },
      { ids: [BOS, ...bytes("y")], from: 1 },
    ]);
  });

  test("a row that is too long loses its beginning, a continuation that is too long is refused", async () => {
    const { model, asked } = bigrams({ longest: 5 });
    await new TokenLikelihood(model).pairs([{ context: "abcdefgh", continuation: "ij" }]);
    expect(asked).toEqual([{ ids: bytes("fghij"), from: 3 }]);
    const long = new TokenLikelihood(model).pairs([{ context: "a", continuation: "bcdefg" }]);
    expect(long).rejects.toThrow("A continuation of 6 tokens does not fit");
  });

  test("by texts gives what by tokens gives, characters of several bytes included", async () => {
    const byText = new TextLikelihood(async (texts) =>
      texts.map((text) => {
        const offsets = [...text].flatMap((character, at) => bytes(character).map(() => at));
        const ids = bytes(text);
        return ids.map((id, i) => ({
          offset: offsets[i]!,
          score: i === 0 ? null : { logprob: bigramLogprobs(ids[i - 1]!)[id]!, greedy: false },
        }));
      }),
    );
    const pairs = [
      { context: "Größe 😀", continuation: " ja" },
      { context: "q ", continuation: "Öl" },
    ];
    const byTokens = new TokenLikelihood(bigrams().model);
    expect(await byText.pairs(pairs)).toEqual(await byTokens.pairs(pairs));
    expect(byText.pairs([{ context: "abc", continuation: "" }])).rejects.toThrow("No token begins");
  });
});

test("perplexity is weighted by tokens, per source and over all", async () => {
  const likelihood = {
    pairs: async () => [],
    rolling: async (text: string) => ({ logprob: -text.length, tokens: 2 * text.length, greedy: false }),
  };
  const lines = await perplexityBySource(
    [
      { text: "one two three", source: "a" },
      { text: "Öl", source: "b" },
      { text: "four ", source: "a" },
    ],
    likelihood,
  );
  expect(lines.map(({ source, documents, tokens }) => [source, documents, tokens])).toEqual([
    ["a", 2, 36],
    ["b", 1, 4],
    ["all", 3, 40],
  ]);
  const [a, b] = lines;
  for (const line of lines) expect(line.perplexity).toBeCloseTo(Math.exp(0.5), 12);
  // re.split(r"\s+", "four ") has two pieces.
  expect(a!.wordPerplexity).toBeCloseTo(Math.exp(18 / 5), 10);
  expect(b!.bytePerplexity).toBeCloseTo(Math.exp(2 / 3), 12);
  expect(b!.bitsPerByte).toBeCloseTo(2 / 3 / Math.LN2, 12);
});
