/** What the server and the engine say to each other. Plain data only: it crosses a process boundary as JSON.
 *  Token ids are the only language: text, templates and stop strings live on the server's side. */

/** How one sequence is sampled. Every field is set: the server fills in defaults and checks limits. */
export interface SamplingParams {
  /** 0 is greedy. */
  temperature: number;
  /** 0 keeps all. */
  topK: number;
  topP: number;
  minP: number;
  /** 1 changes nothing; applies to prompt and generated tokens. */
  repetitionPenalty: number;
  /** Apply to generated tokens. */
  frequencyPenalty: number;
  presencePenalty: number;
  /** Added to the logits of these ids. */
  logitBias: [id: number, bias: number][];
  /** Same seed, same tokens, whatever else runs. The server draws one where the request has none. Unsigned 32 bits. */
  seed: number;
  /** No stop id ends the sequence before this many tokens: they are masked. */
  minTokens: number;
  /** 0: only score the prompt. */
  maxTokens: number;
  /** Ids that end the sequence, the model's end-of-sequence ids included unless `ignoreEos`. The stop id itself is reported as a token. */
  stopTokenIds: number[];
  /** null: none; n: the chosen token's logprob and the n best. Raw model logprobs, before penalties and temperature. */
  logprobs: number | null;
  /** The same for each prompt token (the first has none). */
  promptLogprobs: number | null;
  /** Output must match. */
  grammar: GrammarSpec | null;
}

/** Constrained decoding: what the whole output must match, end-of-sequence after it. */
export type GrammarSpec =
  | { kind: "json_object" }
  | { kind: "json_schema"; schema: JsonValue }
  | { kind: "literal"; text: string }
  | { kind: "regex"; pattern: string }
  | { kind: "sequence"; parts: GrammarSpec[] }
  | { kind: "choice"; options: GrammarSpec[] }
  | { kind: "repeat"; part: GrammarSpec; min: number; max: number | null; separator: string };

export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };

export interface GenerateRequest {
  id: string;
  prompt: number[];
  params: SamplingParams;
  /** Requests of one group share their prompt (n > 1): followers wait until the leader's prompt is cached. null: none. */
  group: string | null;
  /** Smaller runs earlier; 0 is normal. */
  priority: number;
  /** Prefixes are shared only between requests of equal salt (tenants do not see each other's timing). */
  cacheSalt: string;
  /** Key of the adapter (adapterKey) whose weights it runs with; null or absent: the base alone. */
  adapter?: string | null;
  /** null or absent: none. */
  contrast?: ContrastRequest | null;
}

/** A second sequence that shares every generated token; the answer is pushed away from what it would say.
 *  With logits a of the request and b of this: a + strength * (a - b) before penalties, bias and masks, for tokens of at
 *  least `plausibility` times the best one's probability under a (koala_contrast). Logprobs are of the result. */
export interface ContrastRequest {
  prompt: number[];
  /** 0 runs the request alone. */
  strength: number;
  /** From 0 (all tokens) to 1. */
  plausibility: number;
}

/** A LoRA adapter in PEFT's layout. */
export interface AdapterSource {
  /** Its name in figures and errors. */
  id: string;
  /** Of the weights under this name: a request keeps those it began with. */
  generation: number;
  /** Absolute path of its directory. */
  path: string;
}

/** Takes adapters beside the weights that an engine was started with. */
export interface AdapterHost {
  /** Resolves when it is in memory; rejects with one sentence. Loaded again by itself in an engine that was restarted. */
  load(source: AdapterSource): Promise<void>;
  /** New requests are refused, those that have begun run on. Resolves when its files are not needed any more. */
  unload(key: string): Promise<void>;
}

export interface TokenLogprob {
  id: number;
  logprob: number;
  /** 1: the most likely. */
  rank: number;
  /** Best first. */
  top: [id: number, logprob: number][];
}

export type FinishReason = "stop" | "length" | "abort" | "error";

/** What `generate` yields: at most one prompt event, then tokens, then exactly one finish. */
export type EngineEvent =
  /** prefillMs: since its first token was scheduled; what came before was waiting. */
  | { type: "prompt"; cachedTokens: number; logprobs: (TokenLogprob | null)[] | null; prefillMs?: number }
  | { type: "token"; id: number; logprob: TokenLogprob | null }
  /** stopTokenId: the id that ended it. error: one sentence for the user. retry: the request was right and may be tried again. */
  | {
      type: "finish";
      reason: FinishReason;
      stopTokenId: number | null;
      error: string | null;
      retry?: true;
    };

export interface EmbedRequest {
  id: string;
  prompt: number[];
  cacheSalt: string;
  adapter?: string | null;
}

/** A snapshot for /metrics, /readyz and the scheduler's tests. Counters only grow. */
export interface EngineStats {
  running: number;
  waiting: number;
  pagesTotal: number;
  /** Held by running sequences. */
  pagesUsed: number;
  /** Free of readers but still holding a reusable prefix. */
  pagesCached: number;
  pageSize: number;
  promptTokens: number;
  generatedTokens: number;
  prefixQueriesTokens: number;
  prefixHitTokens: number;
  preemptions: number;
  steps: number;
  /** Adapters that may be in memory together; 0: the engine takes none. */
  adaptersMax: number;
  /** Ids of the adapters that sequences run with, and of those that requests wait for. */
  adaptersRunning: string[];
  adaptersWaiting: string[];
  /** Milliseconds since the last finished step, while something runs; 0 when idle. */
  stalledMs: number;
}

/** Of an engine that has done nothing yet. */
export function noStats(): EngineStats {
  return {
    running: 0,
    waiting: 0,
    pagesTotal: 0,
    pagesUsed: 0,
    pagesCached: 0,
    pageSize: 0,
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
}

/** What the engine says when its model is loaded. */
export interface EngineInfo {
  vocabularySize: number;
  /** Prompt and answer together. */
  maxModelLen: number;
  maxSequences: number;
  dtype: string;
  /** Of cached keys and values: float32, bfloat16, float64 or fp8. */
  cacheDtype: string;
  device: string;
  parameterCount: number;
  weightBytes: number;
  cacheBytes: number;
  loadMs: number;
  hiddenSize: number;
}

/** Server to engine process. */
export type ToEngine =
  | { type: "generate"; request: GenerateRequest }
  | { type: "embed"; request: EmbedRequest }
  | { type: "abort"; id: string }
  | { type: "load_adapter"; adapter: AdapterSource }
  | { type: "unload_adapter"; key: string }
  | { type: "stop" };

/** Engine process to server. `events` carries everything one step produced, so a step costs one message. */
export type FromEngine =
  | { type: "progress"; stage: string; done: number; total: number }
  | { type: "ready"; info: EngineInfo }
  | { type: "failed"; error: string }
  | { type: "events"; events: [id: string, event: EngineEvent][]; stats: EngineStats }
  /** Answers to load_adapter and unload_adapter; error: one sentence. */
  | { type: "adapter_loaded"; key: string; error: string | null }
  | { type: "adapter_unloaded"; key: string }
  | { type: "embedding"; id: string; embedding: number[] | null; tokens: number; error: string | null };

/** The queue is full: the server answers 429 with a hint when to try again. */
export class QueueFullError extends Error {
  override name = "QueueFullError";
}

/** The engine died or is not loaded: the server answers 503. */
export class EngineUnavailableError extends Error {
  override name = "EngineUnavailableError";
}

/** The handle that the server holds. `src/engine/engine.ts` implements it over a child process; tests fake it. */
export interface Engine {
  readonly state: "loading" | "ready" | "failed" | "stopped";
  /** null until ready. */
  readonly info: EngineInfo | null;
  readonly stats: EngineStats;
  /** Absent where the weights are what they are. */
  readonly adapters?: AdapterHost;
  /** Resolves when the model is loaded; rejects with the reason in one sentence. */
  ready(): Promise<EngineInfo>;
  /** Ends with a finish event whatever happens; aborting `signal` or leaving the loop frees everything the request held.
   *  Throws QueueFullError or EngineUnavailableError before the first event. */
  generate(request: GenerateRequest, signal?: AbortSignal): AsyncIterable<EngineEvent>;
  /** Mean of the last hidden states (after the final norm) over the prompt's tokens. */
  embed(request: EmbedRequest, signal?: AbortSignal): Promise<Float32Array>;
  /** Ends what runs with finish reason "abort", then the process. */
  stop(): Promise<void>;
}
