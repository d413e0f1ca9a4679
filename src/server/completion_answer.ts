/** One choice of a completion, whole or as a stream's chunks: the echoed prompt, text, logprobs and the reason to end. */

import type { ServedModel } from "./context.ts";
import type { ScoredToken, SequenceEvent, SequencePlan, SequenceResult } from "./generation.ts";
import { completionLogprobs, promptLogprobs, scoredPrompt } from "./logprobs.ts";
import { isSet } from "./prompt.ts";
import type { CompletionChoice, CompletionRequest } from "./schema/completions.ts";

export interface CompletionPrompt {
  ids: number[];
  /** As it was sent; null where it came as ids. */
  text: string | null;
}

export interface CompletionJob {
  id: string;
  created: number;
  model: ServedModel;
  request: CompletionRequest;
  prompts: CompletionPrompt[];
  plans: SequencePlan[];
  n: number;
}

export function wholeChoice(
  job: CompletionJob,
  of: {
    prompt: CompletionPrompt;
    scores: SequenceResult["promptLogprobs"];
    result: SequenceResult;
    index: number;
  },
): CompletionChoice {
  const { request, model } = job;
  const { prompt, scores, result, index } = of;
  const echoed = request.echo ? echo(job, prompt, scores) : { tokens: [], text: "" };
  const generated = [...result.tokens, ...(result.finish.endToken ? [result.finish.endToken] : [])];
  return {
    index,
    text: echoed.text + result.text,
    logprobs: isSet(request.logprobs) ? joinedLogprobs(model, echoed, generated) : null,
    finish_reason: result.finish.reason,
    stop_reason: result.finish.stop,
    ...(isSet(request.prompt_logprobs) && scores !== null
      ? { prompt_logprobs: promptLogprobs(scores, model.tokenizer) }
      : {}),
    ...(request.return_token_ids ? { prompt_token_ids: prompt.ids, token_ids: result.ids } : {}),
  };
}

/** The prompt as the beginning of the answer; a text comes back as it was sent. */
function echo(
  job: CompletionJob,
  prompt: CompletionPrompt,
  scores: SequenceResult["promptLogprobs"],
): { tokens: ScoredToken[]; text: string } {
  const limit = job.request.logprobs ?? 0;
  const cut =
    scores?.map((score) => (score === null ? null : { ...score, top: score.top.slice(0, limit) })) ?? null;
  const scored = scoredPrompt(prompt.ids, cut, job.model.tokenizer, job.request.skip_special_tokens ?? true);
  return { tokens: scored.tokens, text: prompt.text ?? scored.text };
}

function joinedLogprobs(
  model: ServedModel,
  echoed: { tokens: ScoredToken[]; text: string },
  generated: ScoredToken[],
) {
  const before = completionLogprobs(echoed.tokens, model.tokenizer, 0);
  const after = completionLogprobs(generated, model.tokenizer, [...echoed.text].length);
  return {
    tokens: [...before.tokens, ...after.tokens],
    token_logprobs: [...before.token_logprobs, ...after.token_logprobs],
    top_logprobs: [...before.top_logprobs, ...after.top_logprobs],
    text_offset: [...before.text_offset, ...after.text_offset],
  };
}

/** The n of highest mean logprob, best first. */
export function best(candidates: readonly SequenceResult[], n: number): SequenceResult[] {
  const mean = (result: SequenceResult): number => {
    const tokens = [...result.tokens, ...(result.finish.endToken ? [result.finish.endToken] : [])];
    const sum = tokens.reduce((total, token) => total + (token.logprob?.logprob ?? 0), 0);
    return tokens.length === 0 ? -Infinity : sum / tokens.length;
  };
  return candidates
    .map((result) => ({ result, score: mean(result) }))
    .sort((a, b) => b.score - a.score)
    .slice(0, n)
    .map(({ result }) => result);
}

/** One choice of a stream: the echo first, then what each event adds, then the reason. */
export class CompletionChunkWriter {
  #started = false;
  #shift = 0;

  constructor(
    readonly job: CompletionJob,
    readonly plan: SequencePlan,
  ) {}

  chunks(event: SequenceEvent): CompletionChoice[] {
    const { request } = this.job;
    const chunks: CompletionChoice[] = [];
    if (!this.#started && (request.echo || request.return_token_ids)) chunks.push(this.#opening(event));
    this.#started = true;
    if (
      event.type === "delta" &&
      (event.text !== "" ||
        (request.return_token_ids && event.ids.length > 0) ||
        (isSet(request.logprobs) && event.tokens.length > 0))
    )
      chunks.push(this.#chunk({ text: event.text, tokens: event.tokens, ids: event.ids }));
    if (event.type === "finish") chunks.push(this.#finish(event));
    return chunks;
  }

  #opening(event: SequenceEvent): CompletionChoice {
    const { request, model, prompts } = this.job;
    const prompt = prompts[this.plan.promptIndex]!;
    const ids = request.return_token_ids ? { prompt_token_ids: prompt.ids } : {};
    if (!request.echo) return { ...this.#chunk({ text: "", tokens: [], ids: [] }), ...ids };
    const echoed = echo(this.job, prompt, event.type === "prompt" ? event.logprobs : null);
    this.#shift = [...echoed.text].length;
    const logprobs = isSet(request.logprobs) ? completionLogprobs(echoed.tokens, model.tokenizer, 0) : null;
    return { ...this.#chunk({ text: echoed.text, tokens: [], ids: [] }), logprobs, ...ids };
  }

  #finish(event: Extract<SequenceEvent, { type: "finish" }>): CompletionChoice {
    const tokens = event.endToken ? [event.endToken] : [];
    const chunk = this.#chunk({ text: "", tokens, ids: [] });
    return { ...chunk, finish_reason: event.reason, stop_reason: event.stop };
  }

  #chunk(of: { text: string; tokens: ScoredToken[]; ids: number[] }): CompletionChoice {
    const { request, model } = this.job;
    return {
      index: this.plan.index,
      text: of.text,
      logprobs:
        isSet(request.logprobs) && of.tokens.length > 0
          ? completionLogprobs(of.tokens, model.tokenizer, this.#shift)
          : null,
      finish_reason: null,
      stop_reason: null,
      ...(request.return_token_ids ? { token_ids: of.ids } : {}),
    };
  }
}
