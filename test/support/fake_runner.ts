/** A model without weights: the next token depends on all tokens of the sequence, and on nothing else.
 *  It keeps tokens where a real runner keeps keys and values, in pages, and reads the whole sequence back through the page
 *  table: a wrong page, a missing prefill or an overwritten shared page changes what it answers. */
import type { ContrastRequest, SamplingParams } from "../../src/engine/messages.ts";
import type { ModelRunner, RowLogprob, SampleRow, StepResult, StepRow } from "../../src/engine/runner.ts";
import { uniform } from "../../src/util/rng.ts";

export interface FakeRunnerOptions {
  vocabularySize?: number;
  pageSize?: number;
  pageCount?: number;
  maxTokens?: number;
  maxRows?: number;
  maxModelLen?: number;
  hiddenSize?: number;
  /** Called before each step; may throw, sleep or count. */
  onStep?: (rows: StepRow[]) => void;
}

const EMPTY = -1;

export class FakeRunner implements ModelRunner {
  readonly vocabularySize: number;
  readonly pageSize: number;
  readonly pageCount: number;
  readonly maxTokens: number;
  readonly maxRows: number;
  readonly maxModelLen: number;
  readonly hiddenSize: number;
  readonly #memory: Int32Array;
  readonly #onStep: (rows: StepRow[]) => void;

  constructor(options: FakeRunnerOptions = {}) {
    this.vocabularySize = options.vocabularySize ?? 50;
    this.pageSize = options.pageSize ?? 4;
    this.pageCount = options.pageCount ?? 256;
    this.maxTokens = options.maxTokens ?? 64;
    this.maxRows = options.maxRows ?? 16;
    this.maxModelLen = options.maxModelLen ?? 512;
    this.hiddenSize = options.hiddenSize ?? 3;
    this.#memory = new Int32Array(this.pageCount * this.pageSize).fill(EMPTY);
    this.#onStep = options.onStep ?? (() => {});
  }

  step(rows: StepRow[]): StepResult[] {
    this.#onStep(rows);
    const tokenCount = rows.reduce((sum, row) => sum + row.tokens.length, 0);
    if (rows.length === 0 || rows.length > this.maxRows) throw new Error(`${rows.length} rows in a step`);
    if (tokenCount > this.maxTokens) throw new Error(`${tokenCount} tokens in a step`);
    const written = new Set<number>();
    for (const row of rows) this.#write(row, written);
    return rows.map((row) => this.#answer(row, rows));
  }

  #slot(row: StepRow, position: number): number {
    const page = row.pages[Math.floor(position / this.pageSize)];
    if (page === undefined || page < 0 || page >= this.pageCount)
      throw new Error(`position ${position} has page ${page}`);
    return page * this.pageSize + (position % this.pageSize);
  }

  #write(row: StepRow, written: Set<number>): void {
    if (row.tokens.length === 0) throw new Error("a row without tokens");
    row.tokens.forEach((token, index) => {
      const slot = this.#slot(row, row.past + index);
      if (written.has(slot)) throw new Error(`slot ${slot} is written by two rows of one step`);
      if (!(token >= 0 && token < this.vocabularySize))
        throw new Error(`token ${token} is not in the vocabulary`);
      written.add(slot);
      // What an earlier owner left behind the first token of a page must not pass for ours.
      if (slot % this.pageSize === 0) this.#memory.fill(EMPTY, slot, slot + this.pageSize);
      this.#memory[slot] = token;
    });
  }

  #read(row: StepRow): number[] {
    const sequence: number[] = [];
    for (let position = 0; position < row.past + row.tokens.length; position++)
      sequence.push(this.#memory[this.#slot(row, position)]!);
    return sequence;
  }

  #answer(row: StepRow, rows: StepRow[]): StepResult {
    const sequence = this.#read(row);
    const result: StepResult = { id: null, logprob: null, scores: null, hiddenSum: null };
    if (row.score !== null) {
      const { targets, top } = row.score;
      result.scores = targets.map((target, index) =>
        target < 0
          ? null
          : logprobOf(fakeLogits(sequence.slice(0, row.past + index + 1), this.vocabularySize), target, top),
      );
    }
    if (row.embed) {
      const sum = new Float64Array(this.hiddenSize);
      for (let end = row.past + 1; end <= sequence.length; end++)
        fakeHidden(sequence.slice(0, end), this.hiddenSize).forEach((value, index) => (sum[index]! += value));
      result.hiddenSum = sum;
    }
    if (row.sample !== null) {
      let logits = fakeLogits(sequence, this.vocabularySize);
      if (row.contrast) {
        const { against } = row.contrast;
        if (!rows.includes(against)) throw new Error("a contrast with a row of another step");
        logits = contrasted(logits, fakeLogits(this.#read(against), this.vocabularySize), row.contrast);
      }
      result.id = sampleLikeTheHeader(logits, row.sample);
      if (row.sample.logprobs !== null && result.id >= 0)
        result.logprob = logprobOf(logits, result.id, row.sample.logprobs);
    }
    return result;
  }
}

/** What a request must give, from the functions above and the request alone: no pages, no batch, no engine. */
export function expectedTokens(
  prompt: number[],
  params: SamplingParams,
  vocabularySize = 50,
  contrast: ContrastRequest | null = null,
): number[] {
  const tokens = prompt.slice();
  while (tokens.length - prompt.length < params.maxTokens) {
    const generated = tokens.slice(prompt.length);
    const history = [...new Set(tokens)];
    const early = generated.length < params.minTokens;
    const allowed = Array.from(
      { length: vocabularySize },
      (_, id) => !(early && params.stopTokenIds.includes(id)),
    );
    const own = fakeLogits(tokens, vocabularySize);
    const logits =
      contrast === null || contrast.strength === 0
        ? own
        : contrasted(own, fakeLogits([...contrast.prompt, ...generated], vocabularySize), contrast);
    const id = sampleLikeTheHeader(logits, {
      ...params,
      uniform: uniform(params.seed, generated.length),
      history,
      counts: history.map((token) => generated.filter((other) => other === token).length),
      biasIds: params.logitBias.map(([token]) => token),
      biasValues: params.logitBias.map(([, bias]) => bias),
      mask: maskOf(allowed),
    });
    tokens.push(id);
    if (params.stopTokenIds.includes(id)) break;
  }
  return tokens.slice(prompt.length);
}

export function maskOf(allowed: boolean[]): Uint32Array {
  const mask = new Uint32Array(Math.ceil(allowed.length / 32));
  allowed.forEach((may, id) => may && (mask[id >>> 5]! |= 1 << (id & 31)));
  return mask;
}

/** Logits in [0, 6), a hash of the whole sequence; an unwritten slot (EMPTY) changes them like any other wrong token. */
export function fakeLogits(sequence: number[], vocabularySize: number): number[] {
  const state = sequence.reduce((hash, token) => scramble(hash ^ (token + 2)), 12345);
  return Array.from({ length: vocabularySize }, (_, id) => (scramble(state + id * 7919) / 2 ** 32) * 6);
}

export function fakeHidden(sequence: number[], hiddenSize: number): number[] {
  return fakeLogits(sequence, hiddenSize).map((value) => value - 3);
}

function scramble(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x45d9f3b);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x45d9f3b);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** koala_contrast as the header says it, in float64. */
export function contrasted(
  a: readonly number[],
  b: readonly number[],
  { strength, plausibility }: { strength: number; plausibility: number },
): number[] {
  const top = Math.max(...a);
  const plausible = a.map((logit) => logit >= top + Math.log(plausibility));
  const pushed = a.map((logit, id) => logit + strength * (logit - b[id]!));
  const least = Math.min(...pushed.filter((_, id) => plausible[id]));
  return a.map((logit, id) => (plausible[id] ? pushed[id]! : least - 1000 + (logit - top)));
}

/** The order of operations of koala_sample, without top-k, top-p and min-p. */
function sampleLikeTheHeader(raw: readonly number[], row: SampleRow): number {
  const logits = raw.slice();
  for (let index = 0; index < row.history.length; index++) {
    const id = row.history[index]!;
    const count = row.counts[index]!;
    const logit = logits[id]! > 0 ? logits[id]! / row.repetitionPenalty : logits[id]! * row.repetitionPenalty;
    logits[id] = logit - row.frequencyPenalty * count - (count > 0 ? row.presencePenalty : 0);
  }
  for (let index = 0; index < row.biasIds.length; index++)
    logits[row.biasIds[index]!]! += row.biasValues[index]!;
  const ids = logits
    .map((_, id) => id)
    .filter((id) => row.mask === null || (row.mask[id >>> 5]! >>> (id & 31)) & 1);
  if (ids.length === 0 || logits.some(Number.isNaN)) return -1;
  ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
  if (row.temperature === 0) return ids[0]!;
  const weights = ids.map((id) => Math.exp((logits[id]! - logits[ids[0]!]!) / row.temperature));
  let left = row.uniform * weights.reduce((sum, weight) => sum + weight, 0);
  for (let index = 0; index < ids.length; index++) if ((left -= weights[index]!) < 0) return ids[index]!;
  return ids[ids.length - 1]!;
}

function logprobOf(logits: readonly number[], id: number, top: number): RowLogprob {
  const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
  const order = logits.map((_, other) => other).sort((a, b) => logits[b]! - logits[a]! || a - b);
  return {
    id,
    logprob: logits[id]! - total,
    rank: order.indexOf(id) + 1,
    top: order.slice(0, top).map((other) => [other, logits[other]! - total]),
  };
}

export const greedy: SamplingParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  logitBias: [],
  seed: 0,
  minTokens: 0,
  maxTokens: 16,
  stopTokenIds: [],
  logprobs: null,
  promptLogprobs: null,
  grammar: null,
};
