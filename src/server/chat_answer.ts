/** One choice of a chat answer, whole or as a stream's chunks: content, tool calls, logprobs and the reason to end. */

import { ToolCallParser, type ToolCallDelta } from "../text/tool_calls.ts";
import type { ServedModel } from "./context.ts";
import type { ScoredToken, SequenceEvent, SequencePlan, SequenceResult } from "./generation.ts";
import { chatTokenLogprobs } from "./logprobs.ts";
import { templateOf } from "./prompt.ts";
import { stopStrings } from "./sampling.ts";
import type { ChatChoice, ChatChunk, ChatDelta, ChatRequest } from "./schema/chat.ts";

export interface ChatJob {
  id: string;
  created: number;
  model: ServedModel;
  request: ChatRequest;
  plans: SequencePlan[];
  /** Functions that may be called; empty: the answer is text. */
  toolNames: string[];
}

export function wholeChoice(job: ChatJob, result: SequenceResult, index: number): ChatChoice {
  const reader = new AnswerReader(job);
  const deltas = [reader.push(result.text), reader.end()];
  const content = deltas.map((delta) => delta.content ?? "").join("");
  const calls = joinCalls(deltas.flatMap((delta) => delta.calls));
  return {
    index,
    message: {
      role: "assistant",
      content: content === "" && calls.length > 0 ? null : content,
      refusal: null,
      ...(calls.length > 0 ? { tool_calls: calls } : {}),
    },
    logprobs: logprobsOf(job, result.tokens),
    finish_reason: finishReason(result.finish.reason, reader.called),
    stop_reason: stopReason(job, result.finish.stop),
    ...(job.request.return_token_ids ? { token_ids: result.ids } : {}),
  };
}

type WholeCall = NonNullable<ChatChoice["message"]["tool_calls"]>[number];

function joinCalls(deltas: readonly ToolCallDelta[]): WholeCall[] {
  const calls: WholeCall[] = [];
  for (const { index, id = "", name = "", argumentsDelta } of deltas) {
    const call = (calls[index] ??= { id, type: "function", function: { name, arguments: "" } });
    call.function.arguments += argumentsDelta;
  }
  return calls;
}

type ChunkChoice = ChatChunk["choices"][number];

/** One choice of a stream. */
export class ChatChunkWriter {
  started = false;
  readonly #reader: AnswerReader;

  constructor(
    readonly job: ChatJob,
    readonly plan: SequencePlan,
  ) {
    this.#reader = new AnswerReader(job);
  }

  opening(): ChunkChoice {
    this.started = true;
    return this.#choice({ role: "assistant", content: "" }, [], []);
  }

  chunks(event: SequenceEvent): ChunkChoice[] {
    if (event.type === "delta") return this.#delta(this.#reader.push(event.text), event.tokens, event.ids);
    if (event.type !== "finish") return [];
    const last = this.#delta(this.#reader.end(), [], []);
    const reason = finishReason(event.reason, this.#reader.called);
    return [
      ...last,
      { ...this.#choice({}, [], []), finish_reason: reason, stop_reason: stopReason(this.job, event.stop) },
    ];
  }

  #delta(read: AnswerDelta, tokens: ScoredToken[], ids: number[]): ChunkChoice[] {
    const { request } = this.job;
    const delta: ChatDelta = {
      ...(read.content === undefined ? {} : { content: read.content }),
      ...(read.calls.length === 0 ? {} : { tool_calls: read.calls.map(callDelta) }),
    };
    const silent =
      Object.keys(delta).length === 0 &&
      !(request.logprobs && tokens.length > 0) &&
      !(request.return_token_ids && ids.length > 0);
    return silent ? [] : [this.#choice(delta, tokens, ids)];
  }

  #choice(delta: ChatDelta, tokens: ScoredToken[], ids: number[]): ChunkChoice {
    return {
      index: this.plan.index,
      delta,
      logprobs: tokens.length > 0 ? logprobsOf(this.job, tokens) : null,
      finish_reason: null,
      ...(this.job.request.return_token_ids ? { token_ids: ids } : {}),
    };
  }
}

const callDelta = ({ index, id, name, argumentsDelta }: ToolCallDelta) =>
  id === undefined
    ? { index, function: { arguments: argumentsDelta } }
    : { index, id, type: "function" as const, function: { name: name ?? "", arguments: argumentsDelta } };

interface AnswerDelta {
  content?: string;
  calls: ToolCallDelta[];
}

/** The answer's text as content and tool calls. */
class AnswerReader {
  /** A call was read. */
  called = false;
  readonly #parser: ToolCallParser | null;
  readonly #parallel: boolean;

  constructor(job: ChatJob) {
    const format = job.model.toolFormat ?? templateOf(job.model).toolFormat;
    this.#parser = job.toolNames.length === 0 ? null : new ToolCallParser(format, { tools: job.toolNames });
    this.#parallel = job.request.parallel_tool_calls ?? true;
  }

  push(text: string): AnswerDelta {
    if (this.#parser === null) return text === "" ? { calls: [] } : { content: text, calls: [] };
    return this.#read(this.#parser.push(text));
  }

  end(): AnswerDelta {
    return this.#parser === null ? { calls: [] } : this.#read(this.#parser.end());
  }

  #read(output: AnswerDelta): AnswerDelta {
    const calls = this.#parallel ? output.calls : output.calls.filter((call) => call.index === 0);
    if (calls.length > 0) this.called = true;
    return { ...(output.content === undefined ? {} : { content: output.content }), calls };
  }
}

function logprobsOf(job: ChatJob, tokens: readonly ScoredToken[]): ChatChoice["logprobs"] {
  return job.request.logprobs
    ? { content: chatTokenLogprobs(tokens, job.model.tokenizer), refusal: null }
    : null;
}

const finishReason = (
  reason: "stop" | "length" | "abort" | "content_filter",
  called: boolean,
): "stop" | "length" | "abort" | "content_filter" | "tool_calls" =>
  reason === "stop" && called ? "tool_calls" : reason;

/** The template's own stop texts are the model's end, not the request's. */
const stopReason = (job: ChatJob, stop: string | number | null): string | number | null =>
  typeof stop === "string" && !stopStrings(job.request.stop).includes(stop) ? null : stop;
