/** POST /v1/chat/completions: messages in, the assistant's next one out, whole or as a stream.
 *  Always in a stream: the role first, one id, an index in every choice, one finish reason a choice, then [DONE]. */

import type { Context } from "hono";
import type { ContrastRequest } from "../../engine/messages.ts";
import { idsOf } from "../../text/segments.ts";
import { toolTokens } from "../../text/tool_calls.ts";
import { RequestError } from "../../util/errors.ts";
import { ChatChunkWriter, wholeChoice, type ChatJob } from "../chat_answer.ts";
import type { ServedModel } from "../context.ts";
import { contrastOf } from "../contrast.ts";
import { collectSequences, runSequences, type SequencePlan } from "../generation.ts";
import { chatGrammar } from "../grammar.ts";
import { promptLogprobs } from "../logprobs.ts";
import { isSet, plainTools, renderChat, templateOf } from "../prompt.ts";
import { moderationOf } from "../moderation/default.ts";
import {
  cacheSalt,
  type ModeratedInput,
  readyModel,
  runOptions,
  streamCall,
  withoutEffect,
} from "../requests.ts";
import { defineRoute, type Call } from "../route.ts";
import { answerBudget, samplingParams, seedOf, stopStrings } from "../sampling.ts";
import {
  chatChunkSchema,
  chatCompletionSchema,
  chatRequestSchema,
  type ChatChunk,
  type ChatCompletion,
  type ChatRequest,
  type RequestMessage,
  type ToolChoice,
} from "../schema/chat.ts";
import type { EventStream } from "../sse.ts";
import { UsageCounter } from "../usage.ts";

export const chatCompletionsRoute = defineRoute({
  method: "post",
  path: "/v1/chat/completions",
  operationId: "createChatCompletion",
  tag: "OpenAI",
  summary: "Answer a dialogue",
  description:
    "The model's chat template makes the prompt. `response_format` and required tools are enforced while decoding; with " +
    "`tool_choice: auto` calls are read from what the model writes. `logprobs` leave out the token that ended the answer. " +
    "`finish_reason` is `abort` where a shutdown ended the answer, and `content_filter` where moderation blocked the input " +
    "(then nothing is generated) or the rest of an answer.",
  work: true,
  request: chatRequestSchema,
  response: chatCompletionSchema,
  chunk: chatChunkSchema,
  handle: (c, call) => {
    call.ignored.push(...withoutEffect(call.body));
    const job = prepare(call);
    return call.body.stream
      ? streamCall(c, call, (events) => produce(call, job, events))
      : answer(c, call, job);
  },
});

function prepare(call: Call<ChatRequest>): ChatJob {
  const request = call.body;
  const model = readyModel(call.context, request.model);
  checkCombinations(request);
  const choice = toolChoice(request);
  // "none" leaves the tools out of the prompt too: what the model does not know it cannot call.
  const tools = choice === "none" ? [] : plainTools(request.tools);
  const dialogue = choice === "none" ? { ...request, tools: null } : request;
  const prompt = idsOf(renderChat(model, dialogue));
  const contrast = contrastOf(model, dialogue, prompt);
  const id = `chatcmpl-${crypto.randomUUID()}`;
  const plans = plansOf(call, { model, prompt, contrast, choice, id });
  return {
    id,
    created: Math.floor(Date.now() / 1000),
    model,
    request,
    plans,
    toolNames: tools.map((tool) => tool.function.name),
  };
}

function checkCombinations(request: ChatRequest): void {
  if (isSet(request.top_logprobs) && request.top_logprobs > 0 && !request.logprobs)
    throw new RequestError("top_logprobs needs logprobs: true.", {
      param: "top_logprobs",
      code: "invalid_value",
    });
  if (request.stream && isSet(request.prompt_logprobs))
    throw new RequestError("prompt_logprobs cannot be streamed. Leave stream out.", {
      param: "prompt_logprobs",
      code: "invalid_value",
    });
}

function toolChoice(request: ChatRequest): ToolChoice {
  const given = isSet(request.tools) && request.tools.length > 0;
  const choice = request.tool_choice ?? (given ? "auto" : "none");
  if (given || choice === "auto" || choice === "none") return given ? choice : "none";
  throw new RequestError("tool_choice asks for a call, but tools is empty.", {
    param: "tool_choice",
    code: "invalid_value",
  });
}

function plansOf(
  call: Call<ChatRequest>,
  of: {
    model: ServedModel;
    prompt: number[];
    contrast: ContrastRequest | null;
    choice: ToolChoice;
    id: string;
  },
): SequencePlan[] {
  const { model, prompt, contrast, choice, id } = of;
  const request = call.body;
  const template = templateOf(model);
  const n = request.n ?? 1;
  const param = isSet(request.max_completion_tokens) ? "max_completion_tokens" : "max_tokens";
  const params = samplingParams(request, model, {
    maxTokens: answerBudget(Math.max(prompt.length, contrast?.prompt.length ?? 0), model, {
      asked: request[param],
      fallback: null,
      param,
      prompt: "messages",
    }),
    logprobs: request.logprobs ? (request.top_logprobs ?? 0) : null,
    promptLogprobs: request.prompt_logprobs ?? null,
    grammar: chatGrammar({
      format: request.response_format,
      toolFormat: model.toolFormat ?? template.toolFormat,
      tools: plainTools(request.tools),
      choice,
      parallel: request.parallel_tool_calls ?? true,
    }),
    stopIds: template.stopIds,
  });
  const ofTemplate = request.ignore_eos ? [] : template.stopStrings;
  return Array.from({ length: n }, (_, index) => ({
    id: `${id}-${index}`,
    index,
    promptIndex: 0,
    prompt,
    contrast,
    params: {
      ...params,
      seed: seedOf(params.seed, index),
      promptLogprobs: index === 0 ? params.promptLogprobs : null,
    },
    group: n > 1 ? id : null,
    stops: [...stopStrings(request.stop), ...ofTemplate],
    includeStop: request.include_stop_str_in_output ?? false,
    skipSpecialTokens: request.skip_special_tokens ?? true,
    freshAnswer: template.freshAnswer && !(request.continue_final_message ?? false),
    visibleIds: choice === "none" ? [] : toolTokenIds(model),
    priority: request.priority ?? 0,
    cacheSalt: cacheSalt(call, request.cache_salt),
  }));
}

/** The parser must see the marks of a call where the tokenizer counts them as special. */
const toolTokenIds = ({ tokenizer }: ServedModel): number[] =>
  toolTokens.flatMap((token) => tokenizer.tokenId(token) ?? []).filter((id) => tokenizer.isSpecial(id));

async function answer(c: Context, call: Call<ChatRequest>, job: ChatJob): Promise<Response> {
  const { model, plans, request } = job;
  const moderated = moderatedInput(call);
  const results = await collectSequences(plans, runOptions(call, model, undefined, moderated));
  const usage = new UsageCounter(plans);
  results.forEach((result, i) => usage.countResult(plans[i]!, result));
  const scores = results[0]!.promptLogprobs;
  const body: ChatCompletion = {
    id: job.id,
    object: "chat.completion",
    created: job.created,
    model: model.id,
    choices: results.map((result, index) => wholeChoice(job, result, index)),
    usage: usage.usage(),
    ...(isSet(request.prompt_logprobs) && scores !== null
      ? { prompt_logprobs: promptLogprobs(scores, model.tokenizer) }
      : {}),
    ...(request.return_token_ids ? { prompt_token_ids: plans[0]!.prompt } : {}),
    ...(await moderated.by?.field()),
  };
  return c.json(body);
}

async function produce(call: Call<ChatRequest>, job: ChatJob, events: EventStream): Promise<void> {
  const { model, plans, request } = job;
  const usage = new UsageCounter(plans);
  const { include_usage: withUsage = false, continuous_usage_stats: always = false } =
    request.stream_options ?? {};
  const send = (choices: ChatChunk["choices"], tail: Partial<ChatChunk> = {}): void => {
    const chunk: ChatChunk = {
      id: job.id,
      object: "chat.completion.chunk",
      created: job.created,
      model: model.id,
      choices,
    };
    events.send({
      ...chunk,
      ...(always ? { usage: usage.usage() } : withUsage ? { usage: null } : {}),
      ...tail,
    });
  };
  const writers = new Map(plans.map((plan) => [plan, new ChatChunkWriter(job, plan)]));
  const moderated = moderatedInput(call);
  await runSequences(plans, runOptions(call, model, events.left, moderated), (plan, event) => {
    usage.count(plan, event);
    const writer = writers.get(plan)!;
    if (!writer.started)
      send([writer.opening()], request.return_token_ids ? { prompt_token_ids: plan.prompt } : {});
    for (const choice of writer.chunks(event)) send([choice]);
  });
  const told = await moderated.by?.field();
  if (told?.moderation !== undefined) send([], told);
  if (withUsage) send([], { usage: usage.usage() });
}

/** Every message is judged, whoever it claims to be from: the client wrote them all. */
const moderatedInput = (call: Call<ChatRequest>): ModeratedInput => ({
  by: moderationOf(call, call.body.moderation),
  texts: () => call.body.messages.map(messageText).filter((text) => text !== ""),
});

function messageText(message: RequestMessage): string {
  const { content } = message;
  const parts = typeof content === "string" ? [content] : (content ?? []).map((part) => part.text);
  if (message.role === "assistant")
    parts.push(
      ...[message.refusal, message.reasoning_content].filter(isSet),
      ...(message.tool_calls ?? []).map((call) => call.function.arguments),
    );
  return parts.join("\n");
}
