/** Perplexity of documents, by source. Always weighted by tokens: exp of the mean over all tokens of a source, never a mean of
 *  documents' perplexities. Per word and per byte as lm-evaluation-harness has them, which two tokenizers can share. */
import type { Likelihood } from "./likelihood.ts";

export interface Document {
  text: string;
  source: string;
}

export interface Perplexity {
  source: string;
  documents: number;
  tokens: number;
  perplexity: number;
  wordPerplexity: number;
  bytePerplexity: number;
  bitsPerByte: number;
}

interface Sums {
  documents: number;
  tokens: number;
  words: number;
  bytes: number;
  logprob: number;
}

/** One line a source in the order of appearance, then one for all where there are several. */
export async function perplexityBySource(
  documents: readonly Document[],
  likelihood: Likelihood,
  onDone: (done: number) => void = () => {},
): Promise<Perplexity[]> {
  const bySource = new Map<string, Sums>();
  for (const [index, { text, source }] of documents.entries()) {
    const { logprob, tokens } = await likelihood.rolling(text);
    const sums = bySource.get(source) ?? { documents: 0, tokens: 0, words: 0, bytes: 0, logprob: 0 };
    bySource.set(source, sums);
    add(sums, { documents: 1, tokens, words: wordsOf(text), bytes: Buffer.byteLength(text), logprob });
    onDone(index + 1);
  }
  const lines = [...bySource].map(([source, sums]) => figures(source, sums));
  if (lines.length < 2) return lines;
  const all: Sums = { documents: 0, tokens: 0, words: 0, bytes: 0, logprob: 0 };
  for (const sums of bySource.values()) add(all, sums);
  return [...lines, figures("all", all)];
}

function add(to: Sums, more: Sums): void {
  for (const key of Object.keys(to) as (keyof Sums)[]) to[key] += more[key];
}

/** lm-evaluation-harness counts the pieces of re.split(r"\s+", text), empty ones at the ends included. */
export const wordsOf = (text: string): number => text.split(/\s+/).length;

function figures(source: string, { documents, tokens, words, bytes, logprob }: Sums): Perplexity {
  return {
    source,
    documents,
    tokens,
    perplexity: Math.exp(-logprob / tokens),
    wordPerplexity: Math.exp(-logprob / words),
    bytePerplexity: Math.exp(-logprob / bytes),
    bitsPerByte: -logprob / bytes / Math.LN2,
  };
}
