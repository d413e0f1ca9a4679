/** The engine without clocks and messages: submit, abort, step. Each step is schedule, run, collect; what it produced waits
 *  in `takeOutput`.
 *
 *  Always: each submitted request ends with exactly one finish event (or one embedding), and then holds no page.
 *  Always: what goes wrong with one request (format, grammar, its logits) ends that request and no other. */
import { assert } from "../util/errors.ts";
import type { AdapterTable } from "./adapter_table.ts";
import type { Grammar } from "./grammar.ts";
import { KvCache } from "./kv_cache.ts";
import type {
  ContrastRequest,
  EmbedRequest,
  EngineEvent,
  EngineStats,
  FinishReason,
  FromEngine,
  GenerateRequest,
  GrammarSpec,
} from "./messages.ts";
import type { AdapterWeights, ModelRunner, StepResult, StepRow } from "./runner.ts";
import { Sampler } from "./sampler.ts";
import { Scheduler } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";

export interface EngineCoreOptions {
  runner: ModelRunner;
  /** Throws an Error with one sentence where the specification cannot be compiled. */
  compileGrammar: (spec: GrammarSpec) => Grammar;
  /** The model's end-of-sequence ids. */
  endIds: readonly number[];
  /** null or absent: the engine takes no adapters. */
  adapters?: AdapterTable | null;
  /** Milliseconds, for what prompt events say about time; absent: they say nothing. */
  clock?: () => number;
}

type EmbeddingMessage = Extract<FromEngine, { type: "embedding" }>;

export interface EngineOutput {
  events: [id: string, event: EngineEvent][];
  embeddings: EmbeddingMessage[];
}

export class EngineCore {
  readonly cache: KvCache;
  readonly scheduler: Scheduler;
  readonly #options: EngineCoreOptions;
  readonly #sequences = new Map<string, Sequence>();
  readonly #rows: StepRow[] = [];
  readonly #batch: Sequence[] = [];
  /** Of sequences with an adapter: what to do when they end. */
  readonly #leaveAdapter = new Map<string, () => void>();
  /** Told when there is something to step or to report that no call from outside has brought. */
  onWork: () => void = () => {};
  #output: EngineOutput = { events: [], embeddings: [] };
  #promptTokens = 0;
  #generatedTokens = 0;
  #steps = 0;

  constructor(options: EngineCoreOptions) {
    const { runner } = options;
    this.#options = options;
    this.cache = new KvCache(runner.pageCount, runner.pageSize);
    this.scheduler = new Scheduler(runner, this.cache);
  }

  /** Runs one batch. Returns null, or the error of the native step, which has ended every sequence of the batch. */
  step(): Error | null {
    this.#prepare();
    const batch = this.#batch;
    if (batch.length === 0) return null;
    let results: StepResult[];
    try {
      results = this.#options.runner.step(this.#rows);
      assert(
        results.length === batch.length,
        `${batch.length} rows give as many results, not ${results.length}`,
      );
    } catch (error) {
      for (const { id } of batch) {
        const sequence = this.#sequences.get(id);
        if (sequence === undefined) continue; // a guide whose sequence has failed already
        this.#fail(sequence, `The engine failed in the step of this request: ${textOf(error)}`);
      }
      return error instanceof Error ? error : new Error(String(error));
    }
    for (let index = 0; index < batch.length; index++) {
      // Of a sequence that has just ended there may be its guide left.
      if (this.#sequences.has(batch[index]!.id)) this.#collect(batch[index]!, results[index]!);
    }
    this.#steps++;
    return null;
  }

  /** Nothing to step; requests may still wait for their adapter. */
  get idle(): boolean {
    return this.scheduler.running.length + this.scheduler.waiting.length === 0;
  }

  get adapters(): AdapterTable | null {
    return this.#options.adapters ?? null;
  }

  generate(request: GenerateRequest): void {
    this.#submit(request, () => {
      const { params, prompt } = request;
      if (params.maxTokens === 0) return new Sequence(request, null);
      const { runner, endIds } = this.#options;
      const grammar = params.grammar === null ? null : this.#options.compileGrammar(params.grammar).start();
      const { vocabularySize } = runner;
      const sampler = new Sampler({ params, prompt, grammar, endIds, vocabularySize });
      const sequence = new Sequence(request, sampler);
      const contrast = contrastOf(request);
      if (contrast !== null) sequence.pushAwayFrom(request, contrast);
      return sequence;
    });
  }

  embed(request: EmbedRequest): void {
    this.#submit(request, () => new Sequence(request, null));
  }

  /** Frees all that the request holds; nothing happens where it has ended already. */
  abort(id: string): void {
    const sequence = this.#sequences.get(id);
    if (sequence !== undefined) this.#finish(sequence, "abort");
  }

  abortAll(): void {
    for (const sequence of this.#sequences.values()) this.#finish(sequence, "abort");
  }

  /** What happened since the last call. */
  takeOutput(): EngineOutput {
    const output = this.#output;
    this.#output = { events: [], embeddings: [] };
    return output;
  }

  get stats(): EngineStats {
    const { cache, scheduler, adapters } = this;
    return {
      running: scheduler.running.length,
      waiting: this.#sequences.size - scheduler.running.length,
      pagesTotal: cache.pageCount,
      pagesUsed: cache.pageCount - cache.freePages,
      pagesCached: cache.cachedPages,
      pageSize: cache.pageSize,
      promptTokens: this.#promptTokens,
      generatedTokens: this.#generatedTokens,
      prefixQueriesTokens: scheduler.prefixQueriesTokens,
      prefixHitTokens: scheduler.prefixHitTokens,
      preemptions: scheduler.preemptions,
      steps: this.#steps,
      adaptersMax: adapters?.options.max ?? 0,
      adaptersRunning: adapters?.running ?? [],
      adaptersWaiting: adapters?.waiting ?? [],
      stalledMs: 0,
    };
  }

  /** Sequences that hold pages, for the invariant check. */
  get owners(): readonly Sequence[] {
    return this.scheduler.running.flatMap((one) => (one.guide === null ? [one] : [one, one.guide]));
  }

  #submit(request: GenerateRequest | EmbedRequest, make: () => Sequence): void {
    assert(!this.#sequences.has(request.id), `no other request has the id ${request.id}`);
    try {
      const problem = this.#problem(request);
      if (problem !== null) return this.#refuse(request, problem);
      const sequence = make();
      this.#sequences.set(request.id, sequence);
      if (request.adapter == null) this.scheduler.add(sequence);
      else this.#enterAdapter(sequence, request.adapter);
    } catch (error) {
      this.#refuse(request, textOf(error));
    }
  }

  /** Schedules the sequence as soon as its adapter is in memory. */
  #enterAdapter(sequence: Sequence, key: string): void {
    const user = {
      start: (weights: AdapterWeights) => {
        sequence.row.adapter = weights;
        if (sequence.guide !== null) sequence.guide.row.adapter = weights;
        this.scheduler.add(sequence);
        this.onWork();
      },
      fail: (error: string) => {
        this.#fail(sequence, error, { retry: true });
        this.onWork();
      },
    };
    this.#leaveAdapter.set(sequence.id, () => this.adapters?.leave(key, user));
    if (this.adapters?.enter(key, user) !== true)
      this.#fail(sequence, `The adapter ${key} is not served any more; ask for the models that are.`);
  }

  /** What can never run here, in one sentence. */
  #problem(request: GenerateRequest | EmbedRequest): string | null {
    const { vocabularySize } = this.#options.runner;
    const contrast = "params" in request ? contrastOf(request) : null;
    if (request.prompt.length === 0 || contrast?.prompt.length === 0)
      return "The prompt has no tokens; give at least one.";
    const prompts = contrast === null ? request.prompt : [...request.prompt, ...contrast.prompt];
    const stranger = prompts.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabularySize));
    if (stranger !== undefined)
      return `The prompt holds the token id ${stranger}, but this model knows 0 to ${vocabularySize - 1}.`;
    if (!("params" in request)) return this.scheduler.refusal(request.prompt.length, 0);
    const { maxTokens, logitBias } = request.params;
    const biased = logitBias.find(([id]) => !(Number.isInteger(id) && id >= 0 && id < vocabularySize));
    if (biased !== undefined)
      return `logit_bias names the token id ${biased[0]}, but this model knows 0 to ${vocabularySize - 1}.`;
    return this.scheduler.refusal(request.prompt.length, maxTokens, contrast?.prompt.length ?? null);
  }

  #refuse(request: GenerateRequest | EmbedRequest, error: string): void {
    if ("params" in request)
      this.#emit(request.id, { type: "finish", reason: "error", stopTokenId: null, error });
    else
      this.#output.embeddings.push({ type: "embedding", id: request.id, embedding: null, tokens: 0, error });
  }

  /** Schedules and fills `#rows` and `#batch`; a sequence whose row cannot be made ends here. */
  #prepare(): void {
    this.#rows.length = 0;
    this.#batch.length = 0;
    const scheduled = this.scheduler.schedule();
    for (let index = 0; index < scheduled.length; index++) {
      const sequence = scheduled[index]!;
      // A guide stands behind the sequence that it guides, and ends with it.
      if (!this.#sequences.has(sequence.id)) continue;
      sequence.startedAt ??= this.#options.clock?.() ?? 0;
      try {
        this.#rows.push(sequence.prepareRow());
        this.#batch.push(sequence);
      } catch (error) {
        this.#fail(sequence, textOf(error));
      }
    }
  }

  #collect(sequence: Sequence, result: StepResult): void {
    sequence.collect(result);
    this.scheduler.advance(sequence);
    if (this.#sequences.get(sequence.id) !== sequence || sequence.computed < sequence.promptLength) return;
    if (!sequence.promptReported) this.#reportPrompt(sequence);
    if (sequence.sampler === null) this.#finishScored(sequence);
    else if (result.id !== null) this.#take(sequence, sequence.sampler, result);
  }

  #reportPrompt(sequence: Sequence): void {
    sequence.promptReported = true;
    this.#promptTokens += sequence.promptLength;
    if (sequence.row.embed) return;
    const cachedTokens = sequence.cachedTokens ?? 0;
    const { clock } = this.#options;
    const time = clock === undefined ? {} : { prefillMs: clock() - (sequence.startedAt ?? 0) };
    this.#emit(sequence.id, { type: "prompt", cachedTokens, logprobs: sequence.promptScores, ...time });
  }

  #finishScored(sequence: Sequence): void {
    if (!sequence.row.embed) return this.#finish(sequence, "length");
    const embedding = sequence.embedding();
    if (!embedding.every(Number.isFinite))
      return this.#fail(
        sequence,
        "The model's hidden states for this prompt were not finite, so it has no embedding.",
      );
    this.#drop(sequence);
    const { id, promptLength } = sequence;
    this.#output.embeddings.push({ type: "embedding", id, embedding, tokens: promptLength, error: null });
  }

  #take(sequence: Sequence, sampler: Sampler, result: StepResult): void {
    const id = result.id!;
    if (id < 0) return this.#fail(sequence, unusable(sequence.generatedCount + 1));
    sequence.push(id);
    this.#generatedTokens++;
    this.#emit(sequence.id, { type: "token", id, logprob: result.logprob });
    try {
      const ending = sampler.accept(id);
      if (ending !== null) this.#finish(sequence, ending.reason, ending.stopTokenId, ending.error);
    } catch (error) {
      this.#fail(sequence, textOf(error));
    }
  }

  #fail(sequence: Sequence, error: string, more: { retry?: true } = {}): void {
    this.#finish(sequence, "error", null, error, more);
  }

  #finish(
    sequence: Sequence,
    reason: FinishReason,
    stopTokenId: number | null = null,
    error: string | null = null,
    more: { retry?: true } = {},
  ): void {
    this.#drop(sequence);
    if (!sequence.row.embed)
      return this.#emit(sequence.id, { type: "finish", reason, stopTokenId, error, ...more });
    const why = error ?? "The request was aborted.";
    this.#output.embeddings.push({
      type: "embedding",
      id: sequence.id,
      embedding: null,
      tokens: 0,
      error: why,
    });
  }

  #drop(sequence: Sequence): void {
    this.#sequences.delete(sequence.id);
    this.scheduler.remove(sequence);
    this.#leaveAdapter.get(sequence.id)?.();
    this.#leaveAdapter.delete(sequence.id);
  }

  #emit(id: string, event: EngineEvent): void {
    this.#output.events.push([id, event]);
  }
}

/** At strength 0, and where nothing is generated, the request runs alone. */
function contrastOf({ contrast, params }: GenerateRequest): ContrastRequest | null {
  return contrast == null || contrast.strength === 0 || params.maxTokens === 0 ? null : contrast;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function unusable(count: number): string {
  return `The model gave no usable token at place ${count} of the answer: its logits were not finite, or logit_bias, min_tokens and the requested format left nothing to choose.`;
}
