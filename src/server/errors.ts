/** Failures as HTTP: OpenAI's error shape, the right status, and headers that say whether to try again.
 *  Our own mistakes are logged with the request's id and reach the client as one neutral sentence. */

import { EngineUnavailableError, QueueFullError } from "../engine/messages.ts";
import { RequestError } from "../util/errors.ts";

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

export interface HttpFailure {
  status: number;
  body: ErrorBody;
  headers: Record<string, string>;
  /** Not the client's doing: worth a line in the log. */
  unexpected: boolean;
}

/** The engine ended a sequence because of something on our side; the sentence is meant for the user. */
export class GenerationFailedError extends Error {
  override name = "GenerationFailedError";
}

/** 503 for good: clients are told not to try again. */
export class ModelGoneError extends Error {
  override name = "ModelGoneError";
}

export function httpFailure(error: unknown, requestId: string): HttpFailure {
  if (error instanceof RequestError) return requestFailure(error);
  if (error instanceof QueueFullError)
    return failure(429, error.message, "rate_limit_error", "queue_full", {
      "retry-after": "1",
      "retry-after-ms": "500",
    });
  if (error instanceof EngineUnavailableError) return unavailable(error.message, { retry: true });
  if (error instanceof ModelGoneError) return unavailable(error.message, { retry: false });
  if (error instanceof GenerationFailedError)
    return { ...failure(500, error.message, "server_error", "generation_failed"), unexpected: true };
  const message = `The server made a mistake with this request. Its log has the details under request id ${requestId}.`;
  return { ...failure(500, message, "server_error", "internal_error"), unexpected: true };
}

/** 503. `retry: false` tells clients that trying again is of no use. */
export function unavailable(message: string, options: { retry: boolean }): HttpFailure {
  const headers: Record<string, string> = options.retry
    ? { "retry-after": "2", "retry-after-ms": "2000" }
    : { "x-should-retry": "false" };
  return failure(503, message, "service_unavailable", "service_unavailable", headers);
}

/** What the log is told: never a body, a prompt or a header; JSON, so that no value can forge a line. */
export function logLine(error: unknown, request: { id: string; method: string; path: string }): string {
  const known = error instanceof Error;
  return JSON.stringify({
    time: new Date().toISOString(),
    level: "error",
    request: request.id,
    method: request.method,
    path: request.path.slice(0, 200),
    error: known ? `${error.name}: ${error.message}`.slice(0, 2000) : "a value that is no Error was thrown",
    stack: known
      ? error.stack
          ?.split("\n")
          .slice(1, 12)
          .map((line) => line.trim())
      : undefined,
  });
}

function requestFailure(error: RequestError): HttpFailure {
  const { status = 400, param = null, code = null, retryAfterMs } = error.options;
  const type = error.options.type ?? (status >= 500 ? "server_error" : "invalid_request_error");
  const headers: Record<string, string> = {};
  if (retryAfterMs !== undefined) {
    headers["retry-after-ms"] = String(retryAfterMs);
    headers["retry-after"] = String(Math.ceil(retryAfterMs / 1000));
  }
  return {
    status,
    body: { error: { message: error.message, type, param, code } },
    headers,
    unexpected: false,
  };
}

function failure(
  status: number,
  message: string,
  type: string,
  code: string,
  headers: Record<string, string> = {},
): HttpFailure {
  return { status, body: { error: { message, type, param: null, code } }, headers, unexpected: false };
}
