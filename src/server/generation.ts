/** From engine events to what an answer is made of: text that is whole characters, scored tokens, a reason to end.
 *  Always: texts joined = the answer; a token is released with the text it begins, or at the end; one finish each. */

import {
  EngineUnavailableError,
  type ContrastRequest,
  type EngineEvent,
  type FinishReason,
  type GenerateRequest,
  type SamplingParams,
  type TokenLogprob,
} from "../engine/messages.ts";
import { createDetokenizer, type Detokenizer } from "../text/detokenizer.ts";
import { StopStrings } from "../text/stop_strings.ts";
import type { ServedModel } from "./context.ts";
import { GenerationFailedError } from "./errors.ts";
import type { Metrics } from "./metrics.ts";
import { SequenceTimer } from "./sequence_timer.ts";

/** One sequence to generate. */
export interface SequencePlan {
  id: string;
  /** Which choice of the answer, and of which prompt. */
  index: number;
  promptIndex: number;
  prompt: number[];
  /** Leading tokens of the prompt that the client did not send and does not see. */
  unseen?: number;
  /** A second prompt whose answer this one is pushed away from; null or absent: none. */
  contrast?: ContrastRequest | null;
  params: SamplingParams;
  group: string | null;
  stops: readonly string[];
  includeStop: boolean;
  skipSpecialTokens: boolean;
  /** The answer is a text of its own: its first word has no leading space. */
  freshAnswer: boolean;
  /** Special tokens that show although the others are skipped: the tool call parser reads them. */
  visibleIds: readonly number[];
  priority: number;
  cacheSalt: string;
}

/** A generated token; `offset` is where its text begins in the answer, in code points. */
export interface ScoredToken {
  id: number;
  logprob: TokenLogprob | null;
  offset: number;
}

export type SequenceEvent =
  | { type: "prompt"; cachedTokens: number; logprobs: (TokenLogprob | null)[] | null }
  /** ids: what was generated since the last delta, stop id included; tokens: what the text so far has released. */
  | { type: "delta"; text: string; tokens: ScoredToken[]; ids: number[] }
  /** stop: the stop text or stop token id that ended it, null for the model's own end.
   *  endToken: the stop id itself, a token without text. */
  | {
      type: "finish";
      /** content_filter: moderation ended it. */
      reason: Exclude<FinishReason, "error"> | "content_filter";
      stop: string | number | null;
      endToken: ScoredToken | null;
      tokenCount: number;
    };

/** Runs one sequence. Leaving the loop or aborting frees everything it held in the engine. */
export async function* generateSequence(
  model: ServedModel,
  plan: SequencePlan,
  metrics: Metrics,
  signal: AbortSignal,
): AsyncGenerator<SequenceEvent> {
  const answer = new AnswerText(model, plan);
  const timer = new SequenceTimer(metrics, model.id, plan.prompt.length);
  try {
    for await (const event of model.engine.generate(engineRequest(plan), signal)) {
      if (event.type === "prompt") {
        if (event.prefillMs !== undefined) timer.prompt(event.prefillMs / 1000);
        const { type, cachedTokens, logprobs } = event;
        yield { type, cachedTokens, logprobs: logprobs?.slice(plan.unseen ?? 0) ?? null };
      } else if (event.type === "token") {
        timer.token();
        const delta = answer.push(event);
        if (delta !== null) yield delta;
        if (answer.stopped === null) continue;
        timer.finish("stop");
        // Leaving the loop aborts the sequence in the engine.
        return yield {
          type: "finish",
          reason: "stop",
          stop: answer.stopped,
          endToken: null,
          tokenCount: answer.tokenCount,
        };
      } else {
        timer.finish(event.reason);
        if (event.reason === "error") throw failure(event, model);
        const rest = answer.end();
        if (rest !== null) yield rest;
        const stop = answer.stopped ?? namedStop(event.stopTokenId, model, plan);
        const reason = answer.stopped === null ? event.reason : "stop";
        return yield {
          type: "finish",
          reason,
          stop,
          endToken: answer.endToken,
          tokenCount: answer.tokenCount,
        };
      }
    }
    throw new GenerationFailedError("The engine ended this request without a reason.");
  } finally {
    timer.finish("abort");
  }
}

export interface RunOptions {
  model: ServedModel;
  metrics: Metrics;
  signal: AbortSignal;
  /** How many of a request's sequences are in the engine at a time. */
  atOnce: number;
  /** Stands between a sequence and its reader, as moderation does; it need not begin `events`. null: nobody does. */
  gate:
    | ((
        plan: SequencePlan,
        events: () => AsyncIterable<SequenceEvent>,
        signal: AbortSignal,
      ) => AsyncIterable<SequenceEvent>)
    | null;
}

/** Runs a request's sequences. The first failure ends the others and is thrown. */
export async function runSequences(
  plans: readonly SequencePlan[],
  options: RunOptions,
  onEvent: (plan: SequencePlan, event: SequenceEvent) => void,
): Promise<void> {
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  let next = 0;
  let failure: { error: unknown } | null = null;
  const worker = async (): Promise<void> => {
    for (let plan = plans[next++]; plan !== undefined; plan = plans[next++]) {
      const current = plan;
      const events = () => generateSequence(options.model, current, options.metrics, signal);
      for await (const event of options.gate === null ? events() : options.gate(current, events, signal))
        onEvent(current, event);
    }
  };
  const workers = Array.from({ length: Math.min(options.atOnce, plans.length) }, () =>
    worker().catch((error: unknown) => {
      // What the others throw after this is its consequence.
      failure ??= { error };
      stop.abort();
    }),
  );
  await Promise.all(workers);
  if (failure !== null) throw (failure as { error: unknown }).error;
}

/** Everything one sequence gave, for answers that are not streamed. */
export interface SequenceResult {
  text: string;
  ids: number[];
  tokens: ScoredToken[];
  cachedTokens: number;
  promptLogprobs: (TokenLogprob | null)[] | null;
  finish: Extract<SequenceEvent, { type: "finish" }>;
}

export async function collectSequences(
  plans: readonly SequencePlan[],
  options: RunOptions,
): Promise<SequenceResult[]> {
  const finish: SequenceResult["finish"] = {
    type: "finish",
    reason: "abort",
    stop: null,
    endToken: null,
    tokenCount: 0,
  };
  const results = new Map<SequencePlan, SequenceResult>(
    plans.map((plan) => [
      plan,
      { text: "", ids: [], tokens: [], cachedTokens: 0, promptLogprobs: null, finish },
    ]),
  );
  await runSequences(plans, options, (plan, event) => {
    const result = results.get(plan)!;
    if (event.type === "prompt") {
      result.cachedTokens = event.cachedTokens;
      result.promptLogprobs = event.logprobs;
    } else if (event.type === "delta") {
      result.text += event.text;
      result.ids.push(...event.ids);
      result.tokens.push(...event.tokens);
    } else result.finish = event;
  });
  return plans.map((plan) => results.get(plan)!);
}

/** Bytes to characters, characters to what no stop text holds back, and tokens released along with them. */
class AnswerText {
  stopped: string | null = null;
  endToken: ScoredToken | null = null;
  tokenCount = 0;
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopStrings;
  readonly #stopIds: ReadonlySet<number>;
  #visible: ReadonlyMap<number, string> = new Map();
  #held: (ScoredToken & { begins: number })[] = [];
  #ids: number[] = [];
  /** Of the text before stop texts are looked for, in UTF-16 units and in code points. */
  #length = 0;
  #points = 0;
  #emitted = 0;

  constructor(
    model: ServedModel,
    readonly plan: SequencePlan,
  ) {
    const { skipSpecialTokens, stops, includeStop } = plan;
    const prompt = plan.freshAnswer ? [] : plan.prompt;
    this.#detokenizer = createDetokenizer(model.tokenizer, { skipSpecialTokens, prompt });
    if (skipSpecialTokens)
      this.#visible = new Map(plan.visibleIds.map((id) => [id, model.tokenizer.tokenString(id)]));
    this.#stops = new StopStrings(stops, { includeStop, minTokens: plan.params.minTokens });
    this.#stopIds = new Set(plan.params.stopTokenIds);
  }

  /** null: nothing to say yet. */
  push(event: Extract<EngineEvent, { type: "token" }>): Extract<SequenceEvent, { type: "delta" }> | null {
    this.tokenCount++;
    this.#ids.push(event.id);
    const token = { id: event.id, logprob: event.logprob, offset: this.#points };
    const ends = this.#stopIds.has(event.id) && this.tokenCount > this.plan.params.minTokens;
    if (ends && !this.plan.includeStop) {
      this.endToken = token;
      return null;
    }
    this.#held.push({ ...token, begins: this.#length });
    const decoded = this.#detokenizer.push(event.id) + (this.#visible.get(event.id) ?? "");
    this.#length += decoded.length;
    this.#points += codePoints(decoded);
    return this.#release(this.#search(decoded));
  }

  /** The rest, when the engine has ended the sequence. */
  end(): Extract<SequenceEvent, { type: "delta" }> | null {
    const decoded = this.#detokenizer.end();
    this.#length += decoded.length;
    const delta = this.#release(this.#search(decoded) + this.#stops.end());
    const tokens = this.stopped === null ? this.#held.splice(0) : [];
    if (tokens.length === 0) return delta;
    return {
      type: "delta",
      text: delta?.text ?? "",
      ids: delta?.ids ?? [],
      tokens: [...(delta?.tokens ?? []), ...tokens],
    };
  }

  #search(decoded: string): string {
    const { text, stop } = this.#stops.push(decoded);
    this.stopped = stop;
    return text;
  }

  #release(text: string): Extract<SequenceEvent, { type: "delta" }> | null {
    this.#emitted += text.length;
    const tokens: ScoredToken[] = [];
    while (this.#held.length > 0 && this.#held[0]!.begins < this.#emitted) tokens.push(this.#held.shift()!);
    const ids = this.#ids;
    if (text === "" && tokens.length === 0 && ids.length === 0) return null;
    this.#ids = [];
    return { type: "delta", text, tokens, ids };
  }
}

/** 503 where the engine or what the request needs of it is gone, 500 where it could not go on with this request alone. */
function failure({ error, retry }: Extract<EngineEvent, { type: "finish" }>, { engine }: ServedModel): Error {
  const sentence = error ?? "The model could not go on with this request.";
  return engine.state === "ready" && !retry
    ? new GenerationFailedError(sentence)
    : new EngineUnavailableError(sentence);
}

function engineRequest(plan: SequencePlan): GenerateRequest {
  const { id, prompt, contrast, params, group, priority, cacheSalt } = plan;
  return { id, prompt, params, group, priority, cacheSalt, ...(contrast ? { contrast } : {}) };
}

/** A stop id that the request named itself is worth telling; the model's own end is not. */
function namedStop(id: number | null, model: ServedModel, plan: SequencePlan): number | null {
  if (id === null || model.tokenizer.eosIds.includes(id) || model.template?.stopIds.includes(id)) return null;
  return plan.params.stopTokenIds.includes(id) ? id : null;
}

export function codePoints(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) === 0xdc00) count--;
  return count;
}
