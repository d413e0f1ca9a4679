/** One step of a model, seen by the scheduler: rows of tokens in, sampled ids and logprobs out.
 *  `llama_runner.ts` implements it on native ops; scheduler tests implement it in a few lines without any. */

/** One sequence's share of a step. */
export interface StepRow {
  /** Tokens to run now, in order. */
  tokens: number[];
  /** Tokens of this sequence already in the cache; the first of `tokens` has this position. */
  past: number;
  /** Pages of the sequence in order; token j lies in pages[floor(j / pageSize)]. Enough for past + tokens.length. */
  pages: number[];
  /** Sample after the last token; null where more of the prompt follows (or only scoring is wanted). */
  sample: SampleRow | null;
  /** Score tokens: targets[i] is the token that follows tokens[i] (-1: none). null: no scoring. */
  score: { targets: number[]; top: number } | null;
  /** Add the hidden states after the final norm, summed over `tokens`, to the result. */
  embed: boolean;
  /** Weights beside the base, made by this runner; null or absent: the base alone. */
  adapter?: AdapterWeights | null;
  /** What is sampled is pushed away from another row of the same step; null or absent: from none. */
  contrast?: Contrast | null;
}

/** koala_contrast's part in one row, before `sample`: logits and logprobs are those of the result. */
export interface Contrast {
  /** A row without a sample, whose last token stands at the same place of the answer. */
  against: StepRow;
  strength: number;
  plausibility: number;
}

/** An adapter in memory. */
export interface AdapterWeights {
  readonly bytes: number;
  close(): void;
}

/** What koala_sample needs for one row (ffi/include/koala.h gives the order of operations). */
export interface SampleRow {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  /** In [0, 1). */
  uniform: number;
  /** Distinct tokens of the sequence so far and how often each was generated; empty where no penalty is on. */
  history: ArrayLike<number>;
  counts: ArrayLike<number>;
  biasIds: ArrayLike<number>;
  biasValues: ArrayLike<number>;
  /** Allowed tokens, one bit each, ceil(V / 32) words; null: all. */
  mask: Uint32Array | null;
  /** null: no logprobs; n: chosen token and the n best, of the raw logits. */
  logprobs: number | null;
}

/** Takes the most likely token, with nothing in its way. */
export const greedy: SampleRow = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  uniform: 0,
  history: [],
  counts: [],
  biasIds: [],
  biasValues: [],
  mask: null,
  logprobs: null,
};

export interface RowLogprob {
  id: number;
  logprob: number;
  rank: number;
  top: [id: number, logprob: number][];
}

export interface StepResult {
  /** Sampled id; -1 where the logits were not finite or no token was allowed; null where nothing was sampled. */
  id: number | null;
  logprob: RowLogprob | null;
  /** One entry a token of the row (null where its target is -1); null where no scoring was asked. */
  scores: (RowLogprob | null)[] | null;
  hiddenSum: Float64Array | null;
}

export interface ModelRunner {
  readonly vocabularySize: number;
  readonly pageSize: number;
  readonly pageCount: number;
  /** Most tokens and rows of one step. */
  readonly maxTokens: number;
  readonly maxRows: number;
  readonly maxModelLen: number;
  /** Runs all rows in one packed batch. A row's result depends on its own tokens and past only, bit for bit. */
  step(rows: StepRow[]): StepResult[];
  /** Throws an error with one sentence where the directory holds no adapter of this model. Absent: it takes none. */
  loadAdapter?(directory: string): Promise<AdapterWeights>;
}
