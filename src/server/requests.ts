/** The steps that every route with a model takes: which model, is it there, which salt, which headers, which failure. */

import type { Context } from "hono";
import { RequestError } from "../util/errors.ts";
import type { ServedModel, ServerContext } from "./context.ts";
import { httpFailure, ModelGoneError, logLine, type HttpFailure } from "./errors.ts";
import type { RunOptions } from "./generation.ts";
import { moderationOf } from "./moderation/default.ts";
import type { ModeratedCall } from "./moderation/moderated_call.ts";
import { isSet } from "./prompt.ts";
import type { Call } from "./route.ts";
import { checkTokenIds } from "./sampling.ts";
import { IGNORED_FIELDS } from "./schema/common.ts";
import { streamEvents, type EventStream } from "./sse.ts";

/** The named model, loaded; else 404 or 503. */
export function readyModel(context: ServerContext, name: string | null | undefined): ServedModel {
  const model = context.models.find(name);
  const { state } = model.engine;
  if (state === "ready") return model;
  if (state === "loading")
    throw new RequestError(`The model ${model.id} is still loading. Try again in a moment.`, {
      status: 503,
      code: "model_loading",
      type: "service_unavailable",
      retryAfterMs: 1000,
    });
  throw new ModelGoneError(
    `The model ${model.id} is not available: its engine has ${state}. See the server's log.`,
  );
}

/** Tenants do not share prefixes, and so do not see each other's timing: the key is a part of the salt. */
export const cacheSalt = (call: Call<unknown>, asked: string | null | undefined): string =>
  call.keyId === null && !asked ? "" : JSON.stringify([call.keyId, asked ?? ""]);

/** Fields that were accepted without effect, for the header. */
export function withoutEffect(body: {
  stream_options?: { include_obfuscation?: boolean | null } | null;
}): string[] {
  const given = IGNORED_FIELDS.filter((name) => isSet((body as Record<string, unknown>)[name]));
  return isSet(body.stream_options?.include_obfuscation)
    ? [...given, "stream_options.include_obfuscation"]
    : given;
}

/** The failure as HTTP, logged where it was our fault. */
export function failed(
  error: unknown,
  context: ServerContext,
  request: { id: string; method: string; path: string },
): HttpFailure {
  const failure = httpFailure(error, request.id);
  if (failure.unexpected) context.log(logLine(error, request));
  return failure;
}

export function failedCall(c: Context, call: Call<unknown>, error: unknown): HttpFailure {
  return failed(error, call.context, { id: call.requestId, method: c.req.method, path: c.req.path });
}

/** A text as ids, BOS first unless told otherwise. An empty prompt has nothing to continue. */
export function encodePrompt(
  model: ServedModel,
  text: string,
  addSpecialTokens: boolean,
  param: string,
): number[] {
  const ids = model.tokenizer.encode(text, { addSpecialTokens });
  // A tokenizer may have added tokens that the model has no row for.
  checkTokenIds(ids, model, param);
  if (ids.length > 0) return ids;
  throw new RequestError(`${param} has no tokens: this model puts none before an empty text.`, {
    param,
    code: "invalid_value",
  });
}

/** `moderated`: where the request says itself how; otherwise the server's own policy holds, on the prompt as the model reads it. */
export function runOptions(
  call: Call<unknown>,
  model: ServedModel,
  left?: AbortSignal,
  moderated: ModeratedInput | null = null,
): RunOptions {
  const { metrics, limits } = call.context;
  const signal = left === undefined ? call.signal : AbortSignal.any([call.signal, left]);
  const moderation = moderated?.by ?? moderationOf(call);
  const gate: RunOptions["gate"] =
    moderation === null
      ? null
      : (plan, events, signal) =>
          moderation.gate(plan, events, {
            prompt:
              moderated?.texts ?? (() => [model.tokenizer.decode(plan.prompt, { skipSpecialTokens: true })]),
            signal,
          });
  return { model, metrics, signal, atOnce: limits.sequencesAtOnce, gate };
}

export interface ModeratedInput {
  by: ModeratedCall | null;
  /** What the client wrote, without what the template adds. */
  texts: () => readonly string[];
}

/** A streamed answer; the request counts as in flight until its last byte is handed over. */
export function streamCall(
  c: Context,
  call: Call<unknown>,
  produce: (events: EventStream) => Promise<void>,
): Promise<Response> {
  return streamEvents(produce, {
    limits: call.context.limits,
    fail: (error) => failedCall(c, call, error),
    closed: call.keep(),
  });
}
