/** POST /v1/completions: texts or token ids in, continuations out; with echo and logprobs, the score of every token.
 *  Token ids are taken as they are: nothing is added, nothing cut, and every generated token is among the scored ones. */

import type { Context } from "hono";
import { RequestError } from "../../util/errors.ts";
import {
  best,
  CompletionChunkWriter,
  wholeChoice,
  type CompletionJob,
  type CompletionPrompt,
} from "../completion_answer.ts";
import type { ServedModel } from "../context.ts";
import { collectSequences, runSequences, type SequencePlan } from "../generation.ts";
import { responseGrammar } from "../grammar.ts";
import { cacheSalt, encodePrompt, readyModel, runOptions, streamCall, withoutEffect } from "../requests.ts";
import { defineRoute, type Call } from "../route.ts";
import { answerBudget, checkTokenIds, samplingParams, seedOf, stopStrings } from "../sampling.ts";
import {
  completionRequestSchema,
  completionSchema,
  type Completion,
  type CompletionChoice,
  type CompletionRequest,
} from "../schema/completions.ts";
import type { EventStream } from "../sse.ts";
import { UsageCounter } from "../usage.ts";

const DEFAULT_MAX_TOKENS = 16;

export const completionsRoute = defineRoute({
  method: "post",
  path: "/v1/completions",
  operationId: "createCompletion",
  tag: "OpenAI",
  summary: "Continue a text or token ids",
  description:
    "With `echo`, `logprobs` and `max_tokens` 0 or 1 it scores a prompt, as lm-evaluation-harness asks it to. " +
    "`seed` draws for the i-th answer of each prompt from (seed, i), so a batch answers like single requests. " +
    "The end-of-sequence token is among `logprobs`, and has no text.",
  work: true,
  request: completionRequestSchema,
  response: completionSchema,
  chunk: completionSchema,
  handle: (c, call) => {
    call.ignored.push(...withoutEffect(call.body));
    const job = prepare(call);
    return call.body.stream
      ? streamCall(c, call, (events) => produce(call, job, events))
      : answer(c, call, job);
  },
});

function prepare(call: Call<CompletionRequest>): CompletionJob {
  const request = call.body;
  const model = readyModel(call.context, request.model);
  const n = request.n ?? 1;
  const candidates = Math.max(request.best_of ?? n, n);
  checkCombinations(request, n);
  const prompts = readPrompts(request, model);
  const total = prompts.length * candidates;
  const { sequencesMax } = call.context.limits;
  if (total > sequencesMax)
    throw new RequestError(
      `This request asks for ${total} answers, but at most ${sequencesMax} are possible at once.`,
      { param: "prompt", code: "invalid_value" },
    );
  const id = `cmpl-${crypto.randomUUID()}`;
  const plans = prompts.flatMap((prompt, promptIndex) =>
    plansOf(call, { model, prompt, promptIndex, candidates, id }),
  );
  return { id, created: Math.floor(Date.now() / 1000), model, request, prompts, plans, n };
}

function checkCombinations(request: CompletionRequest, n: number): void {
  const { best_of: bestOf, stream: streaming } = request;
  if (bestOf !== null && bestOf !== undefined && bestOf < n)
    throw new RequestError(`best_of is ${bestOf}, less than n, which is ${n}.`, {
      param: "best_of",
      code: "invalid_value",
    });
  if (streaming && bestOf !== null && bestOf !== undefined && bestOf > n)
    throw new RequestError("best_of chooses among whole answers and cannot be streamed.", {
      param: "best_of",
      code: "invalid_value",
    });
  if (streaming && request.prompt_logprobs !== null && request.prompt_logprobs !== undefined)
    throw new RequestError(
      "prompt_logprobs cannot be streamed. Use echo with logprobs, or leave stream out.",
      { param: "prompt_logprobs", code: "invalid_value" },
    );
}

function readPrompts(request: CompletionRequest, model: ServedModel): CompletionPrompt[] {
  const addSpecialTokens = request.add_special_tokens ?? true;
  const one = (prompt: string | number[]): CompletionPrompt => {
    if (typeof prompt === "string")
      return { ids: encodePrompt(model, prompt, addSpecialTokens, "prompt"), text: prompt };
    checkTokenIds(prompt, model, "prompt");
    return { ids: prompt, text: null };
  };
  const { prompt } = request;
  if (typeof prompt === "string") return [one(prompt)];
  if (typeof prompt[0] === "number") return [one(prompt as number[])];
  return (prompt as (string | number[])[]).map(one);
}

function plansOf(
  call: Call<CompletionRequest>,
  of: { model: ServedModel; prompt: CompletionPrompt; promptIndex: number; candidates: number; id: string },
): SequencePlan[] {
  const { model, prompt, promptIndex, candidates, id } = of;
  const request = call.body;
  const unseen = call.context.scoreBos ? missingBos(prompt, model) : [];
  const maxTokens = answerBudget(unseen.length + prompt.ids.length, model, {
    asked: request.max_tokens,
    fallback: DEFAULT_MAX_TOKENS,
    param: "max_tokens",
  });
  const logprobs = request.logprobs ?? null;
  const params = samplingParams(request, model, {
    maxTokens,
    logprobs: logprobs ?? (candidates > (request.n ?? 1) ? 0 : null),
    promptLogprobs: maxOf(request.echo ? logprobs : null, request.prompt_logprobs ?? null),
    grammar: responseGrammar(request.response_format),
    stopIds: model.tokenizer.eosIds,
  });
  return Array.from({ length: candidates }, (_, i) => ({
    id: `${id}-${promptIndex}-${i}`,
    index: promptIndex * (request.n ?? 1) + i,
    promptIndex,
    prompt: [...unseen, ...prompt.ids],
    unseen: unseen.length,
    params: {
      ...params,
      seed: seedOf(params.seed, i),
      promptLogprobs: i === 0 || request.stream ? params.promptLogprobs : null,
    },
    group: candidates > 1 ? `${id}-${promptIndex}` : null,
    stops: stopStrings(request.stop),
    includeStop: request.include_stop_str_in_output ?? false,
    skipSpecialTokens: request.skip_special_tokens ?? true,
    freshAnswer: false,
    visibleIds: [],
    priority: request.priority ?? 0,
    cacheSalt: cacheSalt(call, request.cache_salt),
  }));
}

/** A text has its BOS already, if it is to have one. */
function missingBos({ ids, text }: CompletionPrompt, { tokenizer: { bosId } }: ServedModel): number[] {
  return text !== null || bosId === null || ids[0] === bosId ? [] : [bosId];
}

const maxOf = (a: number | null, b: number | null): number | null =>
  a === null ? b : b === null ? a : Math.max(a, b);

async function answer(c: Context, call: Call<CompletionRequest>, job: CompletionJob): Promise<Response> {
  const { model, plans, prompts } = job;
  const results = await collectSequences(plans, runOptions(call, model));
  const usage = new UsageCounter(plans);
  results.forEach((result, i) => usage.countResult(plans[i]!, result));
  const perPrompt = plans.length / prompts.length;
  const choices = prompts.flatMap((prompt, p) => {
    const candidates = results.slice(p * perPrompt, (p + 1) * perPrompt);
    // The first sequence of a prompt scores it for all.
    const scores = candidates[0]!.promptLogprobs;
    const chosen = perPrompt > job.n ? best(candidates, job.n) : candidates;
    return chosen.map((result, i) => wholeChoice(job, { prompt, scores, result, index: p * job.n + i }));
  });
  const body: Completion = {
    id: job.id,
    object: "text_completion",
    created: job.created,
    model: model.id,
    choices,
    usage: usage.usage(),
  };
  return c.json(body);
}

async function produce(
  call: Call<CompletionRequest>,
  job: CompletionJob,
  events: EventStream,
): Promise<void> {
  const { model, plans, request } = job;
  const usage = new UsageCounter(plans);
  const options = request.stream_options ?? {};
  const send = (choices: CompletionChoice[], withUsage: boolean): void => {
    const chunk: Completion = {
      id: job.id,
      object: "text_completion",
      created: job.created,
      model: model.id,
      choices,
    };
    events.send(
      withUsage
        ? { ...chunk, usage: usage.usage() }
        : options.include_usage
          ? { ...chunk, usage: null }
          : chunk,
    );
  };
  const writers = new Map(plans.map((plan) => [plan, new CompletionChunkWriter(job, plan)]));
  await runSequences(plans, runOptions(call, model, events.left), (plan, event) => {
    usage.count(plan, event);
    for (const chunk of writers.get(plan)!.chunks(event))
      send([chunk], options.continuous_usage_stats ?? false);
  });
  if (options.include_usage) send([], true);
}
