/** The OpenAI API as the page uses it: the model list and streamed answers.
 *  Every failure is thrown as a ProblemError; an abort by the caller is not a failure and just ends the stream. */
import { type ParamBody } from "./params.ts";
import {
  cutProblem,
  isRecord,
  ProblemError,
  problemOfResponse,
  problemOfStreamError,
  problemOfThrown,
} from "./problem.ts";
import { readEvents } from "./sse.ts";

export interface WireMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface Usage {
  promptTokens: number;
  completionTokens: number;
}

export type AnswerEvent =
  { type: "text"; text: string } | { type: "finish"; reason: string } | { type: "usage"; usage: Usage };

export interface Access {
  apiKey: string;
  signal: AbortSignal;
}

export function streamChat(
  request: { model: string; messages: WireMessage[]; params: ParamBody },
  access: Access,
) {
  const { model, messages, params } = request;
  return streamAnswer("/v1/chat/completions", { model, messages, ...params }, access);
}

export function streamCompletion(
  request: { model: string; prompt: string; params: ParamBody },
  access: Access,
) {
  const { model, prompt, params } = request;
  return streamAnswer("/v1/completions", { model, prompt, ...params }, access);
}

export interface Model {
  id: string;
  /** Without one it only continues text. True where the server does not say. */
  hasChatTemplate: boolean;
  /** What people should know before they believe it. */
  description: string | null;
}

export async function listModels({ apiKey, signal }: Access): Promise<Model[]> {
  const response = await request("/v1/models", { headers: headersOf(apiKey), signal });
  const list: unknown = await response.json();
  const data = isRecord(list) && Array.isArray(list["data"]) ? list["data"] : [];
  return data.flatMap((model: unknown) =>
    isRecord(model) && typeof model["id"] === "string"
      ? [
          {
            id: model["id"],
            hasChatTemplate: model["has_chat_template"] !== false,
            description: typeof model["description"] === "string" ? model["description"] : null,
          },
        ]
      : [],
  );
}

async function* streamAnswer(
  path: string,
  body: object,
  { apiKey, signal }: Access,
): AsyncGenerator<AnswerEvent, void> {
  let finished = false;
  try {
    const response = await request(path, {
      method: "POST",
      headers: { ...headersOf(apiKey), "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    if (response.body === null) throw new ProblemError(cutProblem);
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") break;
      for (const event of readChunk(JSON.parse(data))) {
        if (event.type === "finish") finished = true;
        yield event;
      }
    }
  } catch (thrown) {
    if (signal.aborted) return;
    throw new ProblemError(problemOfThrown(thrown));
  }
  if (!finished && !signal.aborted) throw new ProblemError(cutProblem);
}

/** One chunk of either endpoint: chat has `delta.content`, completions have `text`. */
export function readChunk(chunk: unknown): AnswerEvent[] {
  if (!isRecord(chunk)) return [];
  if (chunk["error"] !== undefined && chunk["error"] !== null)
    throw new ProblemError(problemOfStreamError(chunk["error"]));
  const events: AnswerEvent[] = [];
  const choice: unknown = Array.isArray(chunk["choices"]) ? chunk["choices"][0] : undefined;
  if (isRecord(choice)) {
    const delta = choice["delta"];
    const text = isRecord(delta) ? delta["content"] : choice["text"];
    if (typeof text === "string" && text !== "") events.push({ type: "text", text });
    if (typeof choice["finish_reason"] === "string")
      events.push({ type: "finish", reason: choice["finish_reason"] });
  }
  const usage = chunk["usage"];
  if (isRecord(usage) && typeof usage["completion_tokens"] === "number") {
    const promptTokens = typeof usage["prompt_tokens"] === "number" ? usage["prompt_tokens"] : 0;
    events.push({ type: "usage", usage: { promptTokens, completionTokens: usage["completion_tokens"] } });
  }
  return events;
}

export interface Report {
  model: string | null;
  prompt: string;
  answer: string;
  category: string;
  note: string | null;
}

export async function sendReport(report: Report, apiKey: string): Promise<void> {
  try {
    await request("/v1/reports", {
      method: "POST",
      headers: { ...headersOf(apiKey), "content-type": "application/json" },
      body: JSON.stringify(report),
    });
  } catch (thrown) {
    throw new ProblemError(problemOfThrown(thrown));
  }
}

async function request(path: string, init: RequestInit): Promise<Response> {
  const response = await fetch(path, init);
  if (response.ok) return response;
  throw new ProblemError(problemOfResponse(response.status, response.headers, await response.text()));
}

function headersOf(apiKey: string): Record<string, string> {
  return apiKey === "" ? {} : { authorization: `Bearer ${apiKey}` };
}
