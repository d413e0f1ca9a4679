/** EasyLM's language model server over our engine: its routes and fields, without its traps.
 *  Always: BOS once and at the front only; nothing truncated in silence; an end-of-sequence token ends an answer. */

import { z } from "zod";
import { idsOf } from "../../text/segments.ts";
import { RequestError } from "../../util/errors.ts";
import type { ServedModel } from "../context.ts";
import { parseJson } from "../edge.ts";
import { collectSequences, type SequencePlan } from "../generation.ts";
import type { Limits } from "../limits.ts";
import { renderChat, templateOf } from "../prompt.ts";
import { cacheSalt, encodePrompt, readyModel, runOptions } from "../requests.ts";
import { defineRoute, type Call } from "../route.ts";
import { answerBudget, checkTokenIds, samplingParams, seedOf, type SamplingRequest } from "../sampling.ts";
import {
  easylmChatRequestSchema,
  easylmChatResponseSchema,
  generateRequestSchema,
  generateResponseSchema,
  greedyUntilRequestSchema,
  greedyUntilResponseSchema,
  loglikelihoodRequestSchema,
  loglikelihoodResponseSchema,
  rollingRequestSchema,
  rollingResponseSchema,
} from "../schema/easylm.ts";
import { joinScores, rollingWindows, windowScore, type Score, type Window } from "../rolling.ts";

/** serving.py's default_temperature and greedy_until_max_length, llama_serve.py's top_k. */
const DEFAULT_TEMPERATURE = 1;
const GREEDY_UNTIL_MAX_LENGTH = 5000;
const DEFAULT_TOP_K = 50;

export const loglikelihoodRoute = defineRoute({
  method: "post",
  path: "/loglikelihood",
  operationId: "easylmLoglikelihood",
  tag: "EasyLM",
  summary: "Log-likelihood of each text after its prefix",
  description:
    "Prefix and text are tokenised apart, as EasyLM does, BOS once before the prefix. EasyLM also put a BOS before the text, " +
    "scored it in the middle, and cut long prefixes and texts in silence: here neither happens; what does not fit is a 400.",
  work: true,
  request: loglikelihoodRequestSchema,
  response: loglikelihoodResponseSchema,
  handle: async (c, call) => {
    const { text, prefix_text } = call.body;
    const prefixes = prefix_text ?? text.map(() => "");
    checkSameLength(prefixes, text, "prefix_text", "text");
    const model = readyModel(call.context, call.body.model);
    const windows = text.map((one, i) => scoredText(model, prefixes[i]!, one));
    const scores = await scoreWindows(call, model, windows);
    return c.json({
      prefix_text: prefixes,
      text,
      log_likelihood: scores.map((s) => s.logLikelihood),
      is_greedy: scores.map((s) => s.isGreedy),
    });
  },
});

export const rollingRoute = defineRoute({
  method: "post",
  path: "/loglikelihood-rolling",
  operationId: "easylmLoglikelihoodRolling",
  tag: "EasyLM",
  summary: "Log-likelihood of whole texts of any length",
  description:
    "Each token is scored once. A text longer than the context is scored in windows that overlap by half, so every token but " +
    "the first ones has at least half a context before it; EasyLM began each window with no context at all.",
  work: true,
  request: rollingRequestSchema,
  response: rollingResponseSchema,
  handle: async (c, call) => {
    const { text } = call.body;
    const model = readyModel(call.context, call.body.model);
    const parts = text.map((one) =>
      rollingWindows(encodeText(model, one), { first: firstId(model), length: model.maxModelLen }),
    );
    const scores = await scoreWindows(call, model, parts.flat());
    let next = 0;
    const sums = parts.map((part) => joinScores(scores.slice(next, (next += part.length))));
    return c.json({
      text,
      log_likelihood: sums.map((s) => s.logLikelihood),
      is_greedy: sums.map((s) => s.isGreedy),
    });
  },
});

export const generateRoute = defineRoute({
  method: "post",
  path: "/generate",
  operationId: "easylmGenerate",
  tag: "EasyLM",
  summary: "Sample a continuation of each prefix",
  description:
    "top_k is 50 and top_p 1 as in EasyLM, unless the model's generation_config.json says otherwise. Prefixes are never cut.",
  work: true,
  request: generateRequestSchema,
  response: generateResponseSchema,
  handle: async (c, call) => {
    const { prefix_text, max_length } = call.body;
    const model = readyModel(call.context, call.body.model);
    const sampling = easylmSampling(call.body, model);
    const plans = prefix_text.map((text, i) =>
      plan(call, model, {
        prompt: encodePrompt(model, text, true, "prefix_text"),
        index: i,
        sampling,
        stops: [],
        maxTokens: max_length,
      }),
    );
    const results = await collectSequences(plans, runOptions(call, model));
    return c.json({
      prefix_text,
      output_text: results.map((result) => result.text),
      temperature: sampling.temperature,
    });
  },
});

export const greedyUntilRoute = defineRoute({
  method: "post",
  path: "/greedy-until",
  operationId: "easylmGreedyUntil",
  tag: "EasyLM",
  summary: "Continue each prefix greedily until one of its texts",
  description:
    "`until` has one entry a prefix. The answer ends before the first of them, at the model's end of sequence, or after " +
    "`max_length` tokens; EasyLM ran past the end of sequence and encoded its own output again.",
  work: true,
  request: greedyUntilRequestSchema,
  response: greedyUntilResponseSchema,
  handle: async (c, call) => {
    const { prefix_text, until, max_length } = call.body;
    checkSameLength(prefix_text, until, "until", "prefix_text");
    const model = readyModel(call.context, call.body.model);
    const limit = max_length ?? GREEDY_UNTIL_MAX_LENGTH;
    const plans = prefix_text.map((text, i) => {
      const prompt = encodePrompt(model, text, true, "prefix_text");
      const stops = [until[i]!].flat();
      return plan(call, model, {
        prompt,
        index: i,
        sampling: { temperature: 0 },
        stops,
        maxTokens: Math.min(limit, Math.max(model.maxModelLen - prompt.length, 1)),
      });
    });
    const results = await collectSequences(plans, runOptions(call, model));
    return c.json({
      prefix_text,
      until,
      max_length: limit,
      output_text: results.map((result) => result.text),
    });
  },
});

export const easylmChatRoute = defineRoute({
  method: "post",
  path: "/chat",
  operationId: "easylmChat",
  tag: "EasyLM",
  summary: "One turn of a dialogue that the client holds",
  description:
    "Send back the `context` of the last answer. It is opaque: the dialogue's messages as JSON, rendered by the model's chat " +
    "template, so that nothing typed in `prompt` can pass for a turn of someone else. EasyLM's was one long text.",
  work: true,
  request: easylmChatRequestSchema,
  response: easylmChatResponseSchema,
  handle: async (c, call) => {
    const model = readyModel(call.context, call.body.model);
    const template = templateOf(model);
    const messages = [
      ...readContext(call.body.context ?? "", call.context.limits),
      { role: "user" as const, content: call.body.prompt },
    ];
    const prompt = idsOf(renderChat(model, { messages }));
    const sampling = easylmSampling(call.body, model);
    const [result] = await collectSequences(
      [
        plan(call, model, {
          prompt,
          index: 0,
          sampling,
          stops: [...template.stopStrings],
          stopIds: template.stopIds,
          freshAnswer: template.freshAnswer,
        }),
      ],
      runOptions(call, model),
    );
    const response = result!.text + (result!.finish.reason === "content_filter" ? withheld : "");
    return c.json({
      response,
      context: JSON.stringify([...messages, { role: "assistant", content: response }]),
      temperature: sampling.temperature,
    });
  },
});

/** This API has no reason to end, so the answer says it. */
const withheld = " [The rest of this answer is withheld by this server's moderation.]";

function checkSameLength(a: readonly unknown[], b: readonly unknown[], nameA: string, nameB: string): void {
  if (a.length === b.length) return;
  throw new RequestError(
    `${nameA} has ${a.length} entries, but ${nameB} has ${b.length}: they belong together one by one.`,
    {
      param: nameA,
      code: "invalid_value",
    },
  );
}

const easylmSampling = (
  body: { temperature?: number | null; seed?: number | bigint | null },
  model: ServedModel,
) =>
  ({
    temperature: body.temperature ?? DEFAULT_TEMPERATURE,
    top_k: model.generationDefaults.topK ?? DEFAULT_TOP_K,
    seed: body.seed,
  }) satisfies SamplingRequest;

interface Wanted {
  prompt: number[];
  index: number;
  sampling: SamplingRequest;
  stops: string[];
  maxTokens?: number | null;
  stopIds?: readonly number[];
  promptLogprobs?: number;
  freshAnswer?: boolean;
}

function plan(call: Call<unknown>, model: ServedModel, wanted: Wanted): SequencePlan {
  const { prompt, index, sampling, stops, maxTokens, stopIds = model.tokenizer.eosIds } = wanted;
  const budget = answerBudget(prompt.length, model, {
    asked: maxTokens,
    fallback: null,
    param: "max_length",
  });
  const params = samplingParams(sampling, model, {
    maxTokens: budget,
    logprobs: null,
    promptLogprobs: wanted.promptLogprobs ?? null,
    grammar: null,
    stopIds,
  });
  return {
    id: `easylm-${crypto.randomUUID()}`,
    index,
    promptIndex: index,
    prompt,
    params: { ...params, seed: seedOf(params.seed, index) },
    group: null,
    stops,
    includeStop: false,
    skipSpecialTokens: true,
    freshAnswer: wanted.freshAnswer ?? false,
    visibleIds: [],
    priority: 0,
    cacheSalt: cacheSalt(call, null),
  };
}

function encodeText(model: ServedModel, text: string): number[] {
  const ids = model.tokenizer.encode(text, { addSpecialTokens: false });
  checkTokenIds(ids, model, "text");
  return ids;
}

/** What stands before the first scored token. */
function firstId(model: ServedModel): number {
  const id = model.tokenizer.bosId ?? model.tokenizer.eosIds[0];
  if (id !== undefined) return id;
  throw new RequestError(
    "This model has neither a BOS nor an EOS token: nothing can stand before the first token.",
    { code: "invalid_value" },
  );
}

function scoredText(model: ServedModel, prefix: string, text: string): Window {
  const context = model.tokenizer.encode(prefix, { addSpecialTokens: true });
  checkTokenIds(context, model, "prefix_text");
  const before = context.length > 0 ? context : [firstId(model)];
  return { ids: [...before, ...encodeText(model, text)], from: before.length };
}

/** Sums the logprobs of each window's ids from `from` on. */
async function scoreWindows(call: Call<unknown>, model: ServedModel, windows: Window[]): Promise<Score[]> {
  const plans = windows.map((window, index) =>
    plan(call, model, {
      prompt: window.ids,
      index,
      sampling: { temperature: 0 },
      stops: [],
      maxTokens: 0,
      promptLogprobs: 1,
    }),
  );
  const results = await collectSequences(plans, runOptions(call, model));
  return results.map((result, i) => windowScore(result, windows[i]!));
}

const contextSchema = z
  .array(z.strictObject({ role: z.enum(["user", "assistant"]), content: z.string() }))
  .max(4096);

function readContext(context: string, limits: Limits): z.infer<typeof contextSchema> {
  if (context === "") return [];
  try {
    return contextSchema.parse(parseJson(new TextEncoder().encode(context), limits));
  } catch {
    throw new RequestError(
      "context is not what an answer of this server gave. Send it back unchanged, or empty for a new dialogue.",
      {
        param: "context",
        code: "invalid_value",
      },
    );
  }
}
