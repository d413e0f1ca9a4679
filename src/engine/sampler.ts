/** What one sequence asks of `koala_sample` for its next token, and whether the token that came back ends it.
 *
 *  Always: the row is a function of parameters, prompt and generated tokens alone. The draw for token i is number i of the
 *  seed's stream, so neighbours, chunks and preemption change nothing. */
import { uniform } from "../util/rng.ts";
import type { GrammarState } from "./grammar.ts";
import type { FinishReason, SamplingParams } from "./messages.ts";
import type { SampleRow } from "./runner.ts";

export interface SamplerInput {
  params: SamplingParams;
  prompt: readonly number[];
  grammar: GrammarState | null;
  /** The model's end-of-sequence ids: a grammar that is complete ends with one of them. */
  endIds: readonly number[];
  vocabularySize: number;
}

/** Why a sequence ends with the token just taken. */
export interface Ending {
  reason: FinishReason;
  stopTokenId: number | null;
  error: string | null;
}

export class Sampler {
  readonly #input: SamplerInput;
  readonly #row: SampleRow;
  readonly #stopIds: Set<number>;
  readonly #history: History | null;
  /** All tokens but the stop ids; used until `minTokens` are there. */
  readonly #stopsMasked: Uint32Array | null;
  #combined: Uint32Array | null = null;
  #generated = 0;

  constructor(input: SamplerInput) {
    const { params, prompt } = input;
    this.#input = input;
    this.#stopIds = new Set(params.stopTokenIds);
    const penalised =
      params.repetitionPenalty !== 1 || params.frequencyPenalty !== 0 || params.presencePenalty !== 0;
    // Frequency and presence look at generated tokens only; a prompt token matters to the repetition penalty alone.
    this.#history = penalised ? new History(params.repetitionPenalty === 1 ? [] : prompt) : null;
    this.#stopsMasked =
      params.minTokens > 0 && this.#stopIds.size > 0 ? allBut(this.#stopIds, input.vocabularySize) : null;
    this.#row = {
      temperature: params.temperature,
      topK: params.topK,
      topP: params.topP,
      minP: params.minP,
      repetitionPenalty: params.repetitionPenalty,
      frequencyPenalty: params.frequencyPenalty,
      presencePenalty: params.presencePenalty,
      uniform: 0,
      history: this.#history?.ids ?? NOTHING,
      counts: this.#history?.counts ?? NOTHING,
      biasIds: params.logitBias.map(([id]) => id),
      biasValues: params.logitBias.map(([, bias]) => bias),
      mask: null,
      logprobs: params.logprobs,
    };
  }

  /** The row for the next token. The same object each time: valid until the next call. */
  next(): SampleRow {
    this.#row.uniform = uniform(this.#input.params.seed, this.#generated);
    this.#row.mask = this.#mask();
    return this.#row;
  }

  /** Takes the sampled token; null where the sequence goes on. */
  accept(id: number): Ending | null {
    this.#generated++;
    this.#history?.add(id);
    const { grammar, params, endIds } = this.#input;
    const fits = grammar === null || grammar.accept(id);
    if (this.#stopIds.has(id)) return { reason: "stop", stopTokenId: id, error: null };
    if (!fits) return { reason: "error", stopTokenId: null, error: notInGrammar(id, this.#generated) };
    if (grammar?.done) return { reason: "stop", stopTokenId: endIds.includes(id) ? id : null, error: null };
    return this.#generated >= params.maxTokens ? { reason: "length", stopTokenId: null, error: null } : null;
  }

  #mask(): Uint32Array | null {
    const { grammar, params } = this.#input;
    const early = this.#generated < params.minTokens ? this.#stopsMasked : null;
    if (grammar === null) return early;
    const allowed = grammar.mask();
    if (early === null) return allowed;
    // The output must match, whatever min_tokens says: where the grammar leaves only a stop id, the stop id may come.
    this.#combined ??= new Uint32Array(early.length);
    let left = 0;
    for (let word = 0; word < early.length; word++)
      left |= this.#combined[word] = early[word]! & allowed[word]!;
    return left === 0 ? allowed : this.#combined;
  }
}

/** Distinct tokens so far and how often each was generated (0: in the prompt only). */
class History {
  readonly ids: number[] = [];
  readonly counts: number[] = [];
  readonly #place = new Map<number, number>();

  constructor(prompt: readonly number[]) {
    for (const id of prompt) this.#placeOf(id);
  }

  add(id: number): void {
    this.counts[this.#placeOf(id)]!++;
  }

  #placeOf(id: number): number {
    const known = this.#place.get(id);
    if (known !== undefined) return known;
    const place = this.ids.length;
    this.#place.set(id, place);
    this.ids.push(id);
    this.counts.push(0);
    return place;
  }
}

const NOTHING: number[] = [];

function allBut(ids: Iterable<number>, vocabularySize: number): Uint32Array {
  const mask = new Uint32Array(Math.ceil(vocabularySize / 32)).fill(0xffffffff);
  const spare = vocabularySize % 32;
  if (spare > 0) mask[mask.length - 1] = 2 ** spare - 1;
  for (const id of ids) if (id < vocabularySize) mask[id >>> 5]! &= ~(1 << (id & 31));
  return mask;
}

function notInGrammar(id: number, count: number): string {
  return `Token ${id}, number ${count} of the answer, does not fit the requested format, although it was allowed; please report this with the request.`;
}
