/** An Engine without a model: a language model of bigrams whose every probability is a formula, over 260 byte-like tokens.
 *  It honours SamplingParams, abort, groups and grammars as the real one must, so server tests can compute what to expect. */

import { compileGrammar, type GrammarState, type Vocabulary } from "../../src/engine/grammar.ts";
import {
  EngineUnavailableError,
  QueueFullError,
  type EmbedRequest,
  type Engine,
  type EngineEvent,
  type EngineInfo,
  type EngineStats,
  type GenerateRequest,
  type SamplingParams,
  type TokenLogprob,
} from "../../src/engine/messages.ts";
import { byteAlphabet } from "../../src/text/bpe.ts";
import { parseTokenizerFile } from "../../src/text/tokenizer_file.ts";
import { createTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";

export const BOS = 256;
export const EOS = 257;
export const IM_END = 259;
export const VOCABULARY = 260;
export const HIDDEN = 8;
/** What it says that each prompt took. */
export const PREFILL_MS = 8;

/** Bytes are the ids 0 to 255, then `<s>`, `</s>`, `<|im_start|>`, `<|im_end|>`; BOS in front of texts.
 *  `extra`: more special tokens, from 260 on. */
export function byteTokenizer(extra: readonly string[] = []): Tokenizer {
  const specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", ...extra].map((content, i) => ({
    id: 256 + i,
    content,
    special: true,
    normalized: false,
  }));
  const json = {
    model: {
      type: "BPE",
      vocab: Object.fromEntries(byteAlphabet.map((piece, byte) => [piece, byte])),
      merges: [],
    },
    added_tokens: specials,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
    decoder: { type: "ByteLevel" },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [BOS], tokens: ["<s>"] } },
    },
  };
  const config = { bos_token: "<s>", eos_token: "</s>" };
  return createTokenizer(parseTokenizerFile({ path: "tokenizer.json", json: json as never, config }));
}

/** log P(next | previous) for all ids: a softmax over hashed logits in [0, 10). */
export function bigramLogprobs(previous: number): Float64Array {
  const row = new Float64Array(VOCABULARY);
  let sum = 0;
  for (let id = 0; id < VOCABULARY; id++) {
    let hash = Math.imul(previous + 1, 0x9e3779b1) ^ Math.imul(id + 7, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0xc2b2ae35);
    row[id] = (((hash ^ (hash >>> 13)) >>> 0) % 1000) / 100;
    sum += Math.exp(row[id]!);
  }
  const normalizer = Math.log(sum);
  return row.map((logit) => logit - normalizer);
}

export interface FakeOptions {
  /** What to say instead of sampling, then the end; null: sample. */
  script?: (request: GenerateRequest) => string | number[] | null;
  /** Milliseconds a token. */
  stepMs?: number;
  /** More running requests than this are refused. */
  queueLimit?: number;
  /** After so many tokens a request ends with an error. */
  failAfter?: number;
  maxModelLen?: number;
}

export class FakeEngine implements Engine {
  state: Engine["state"] = "ready";
  info: EngineInfo | null;
  stats: EngineStats;
  /** Everything that was asked, in order. */
  readonly requests: GenerateRequest[] = [];
  readonly embeds: EmbedRequest[] = [];
  /** Ids of requests whose consumer left or aborted before the end. */
  readonly aborted: string[] = [];
  options: FakeOptions;
  readonly #vocabulary: Vocabulary;

  constructor(tokenizer: Tokenizer, options: FakeOptions = {}) {
    this.options = options;
    this.info = {
      vocabularySize: VOCABULARY,
      maxModelLen: options.maxModelLen ?? 2048,
      maxSequences: 64,
      dtype: "float32",
      cacheDtype: "float32",
      device: "fake",
      parameterCount: 0,
      weightBytes: 0,
      cacheBytes: 0,
      loadMs: 0,
      hiddenSize: HIDDEN,
    };
    this.stats = {
      running: 0,
      waiting: 0,
      pagesTotal: 64,
      pagesUsed: 0,
      pagesCached: 0,
      pageSize: 16,
      promptTokens: 0,
      generatedTokens: 0,
      prefixQueriesTokens: 0,
      prefixHitTokens: 0,
      preemptions: 0,
      steps: 0,
      adaptersMax: 0,
      adaptersRunning: [],
      adaptersWaiting: [],
      stalledMs: 0,
    };
    const bytes = Array.from({ length: VOCABULARY }, (_, id) => tokenizer.tokenBytes(id));
    this.#vocabulary = { bytes, endIds: [EOS, IM_END] };
  }

  async ready(): Promise<EngineInfo> {
    return this.info!;
  }

  async *generate(request: GenerateRequest, signal?: AbortSignal): AsyncGenerator<EngineEvent> {
    if (this.state !== "ready") throw new EngineUnavailableError("The engine is not there.");
    if (this.stats.running >= (this.options.queueLimit ?? Infinity))
      throw new QueueFullError("The queue is full. Try again later.");
    this.requests.push(request);
    this.stats.running++;
    this.stats.promptTokens += request.prompt.length;
    let finished = false;
    try {
      for await (const event of this.#events(request, signal)) {
        finished = event.type === "finish" && event.reason !== "abort";
        yield event;
      }
    } finally {
      this.stats.running--;
      if (!finished) this.aborted.push(request.id);
    }
  }

  async *#events(request: GenerateRequest, signal?: AbortSignal): AsyncGenerator<EngineEvent> {
    const { params, prompt, group } = request;
    // The first of a group finds what earlier requests left, its followers what it left.
    const follows = this.requests.some(
      (other) => other !== request && group !== null && other.group === group,
    );
    yield {
      type: "prompt",
      cachedTokens: follows ? prompt.length - 1 : Math.floor((prompt.length - 1) / 16) * 16,
      logprobs: scorePrompt(prompt, params),
      prefillMs: PREFILL_MS,
    };
    const sampler = new FakeSampler(request, this.options.script?.(request) ?? null, this.#vocabulary);
    for (let count = 0; count < params.maxTokens; count++) {
      await (this.options.stepMs
        ? Bun.sleep(this.options.stepMs)
        : new Promise((resolve) => setImmediate(resolve)));
      if (signal?.aborted) return yield { type: "finish", reason: "abort", stopTokenId: null, error: null };
      if (this.state !== "ready")
        return yield {
          type: "finish",
          reason: "error",
          stopTokenId: null,
          error: "The engine died. Try again.",
        };
      if (count === this.options.failAfter)
        return yield {
          type: "finish",
          reason: "error",
          stopTokenId: null,
          error: "The logits were not finite.",
        };
      const token = sampler.next(count);
      this.stats.generatedTokens++;
      yield { type: "token", id: token.id, logprob: params.logprobs === null ? null : token };
      if (params.stopTokenIds.includes(token.id))
        return yield { type: "finish", reason: "stop", stopTokenId: token.id, error: null };
    }
    yield { type: "finish", reason: "length", stopTokenId: null, error: null };
  }

  /** Component d of the mean of (id + 1) * (d + 1) mod 13. */
  async embed(request: EmbedRequest): Promise<Float32Array> {
    if (this.state !== "ready") throw new EngineUnavailableError("The engine is not there.");
    this.embeds.push(request);
    return Float32Array.from(
      { length: HIDDEN },
      (_, d) =>
        request.prompt.reduce((sum, id) => sum + (((id + 1) * (d + 1)) % 13), 0) / request.prompt.length,
    );
  }

  async stop(): Promise<void> {
    this.state = "stopped";
  }
}

class FakeSampler {
  #previous: number;
  readonly #script: number[] | null;
  readonly #grammar: GrammarState | null;
  #random: number;

  constructor(
    readonly request: GenerateRequest,
    script: string | number[] | null,
    vocabulary: Vocabulary,
  ) {
    this.#previous = request.prompt.at(-1)!;
    this.#script =
      script === null
        ? null
        : [
            ...(typeof script === "string" ? new TextEncoder().encode(script) : script),
            request.params.stopTokenIds.includes(IM_END) ? IM_END : EOS,
          ];
    this.#grammar =
      request.params.grammar === null ? null : compileGrammar(request.params.grammar, vocabulary).start();
    this.#random = request.params.seed;
  }

  next(count: number): TokenLogprob {
    const { params } = this.request;
    const row = bigramLogprobs(this.#previous);
    const id = this.#script?.[count] ?? this.#sample(row, count);
    if (this.#grammar !== null && !params.stopTokenIds.includes(id) && !this.#grammar.accept(id))
      throw new Error(`the grammar does not allow token ${id} at ${count}`);
    this.#previous = id;
    return params.logprobs === null
      ? { id, logprob: row[id]!, rank: 0, top: [] }
      : scored(id, row, params.logprobs);
  }

  #sample(row: Float64Array, count: number): number {
    const { temperature, logitBias, stopTokenIds, minTokens } = this.request.params;
    const logits = row.slice();
    for (const [id, bias] of logitBias) logits[id]! += bias;
    if (count < minTokens) for (const id of stopTokenIds) logits[id] = -Infinity;
    const mask = this.#grammar?.mask();
    if (mask)
      for (let id = 0; id < VOCABULARY; id++)
        if (!((mask[id >> 5]! >>> (id & 31)) & 1)) logits[id] = -Infinity;
    if (temperature === 0) return logits.indexOf(Math.max(...logits));
    const weights = logits.map((logit) => Math.exp(logit / temperature));
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0;
    let left = (this.#random / 2 ** 32) * weights.reduce((a, b) => a + b, 0);
    const id = weights.findIndex((weight) => (left -= weight) < 0);
    return id < 0 ? VOCABULARY - 1 : id;
  }
}

function scorePrompt(prompt: readonly number[], params: SamplingParams): (TokenLogprob | null)[] | null {
  if (params.promptLogprobs === null) return null;
  return prompt.map((id, i) =>
    i === 0 ? null : scored(id, bigramLogprobs(prompt[i - 1]!), params.promptLogprobs!),
  );
}

function scored(id: number, row: Float64Array, top: number): TokenLogprob {
  const order = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b);
  return {
    id,
    logprob: row[id]!,
    rank: order.indexOf(id) + 1,
    top: order.slice(0, top).map((best) => [best, row[best]!]),
  };
}
