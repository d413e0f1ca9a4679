/** POST /v1/embeddings: the mean of the last hidden states over a text's tokens, scaled to length 1. */

import { RequestError } from "../../util/errors.ts";
import type { ServedModel } from "../context.ts";
import { cacheSalt, encodePrompt, readyModel } from "../requests.ts";
import { defineRoute, type Call } from "../route.ts";
import { checkTokenIds } from "../sampling.ts";
import {
  embeddingRequestSchema,
  embeddingResponseSchema,
  type EmbeddingRequest,
  type EmbeddingResponse,
} from "../schema/embeddings.ts";

export const embeddingsRoute = defineRoute({
  method: "post",
  path: "/v1/embeddings",
  operationId: "createEmbedding",
  tag: "OpenAI",
  summary: "A vector for a text",
  description:
    "The mean of the decoder's last hidden states (after the final norm) over the text's tokens, BOS included, then scaled to " +
    "Euclidean length 1 as OpenAI's embeddings are (`normalize: false` leaves it). A language model's states were not trained " +
    "for search: a model made for embeddings ranks better.",
  work: true,
  request: embeddingRequestSchema,
  response: embeddingResponseSchema,
  handle: async (c, call) => {
    const { body } = call;
    const model = readyModel(call.context, body.model);
    checkDimensions(body.dimensions, model);
    const prompts = readInputs(body, model);
    const vectors = await embedAll(call, model, prompts);
    const tokens = prompts.reduce((sum, prompt) => sum + prompt.length, 0);
    if (body.user !== null && body.user !== undefined) call.ignored.push("user");
    const answer: EmbeddingResponse = {
      object: "list",
      data: vectors.map((vector, index) => ({ object: "embedding", index, embedding: encode(vector, body) })),
      model: model.id,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    };
    return c.json(answer);
  },
});

function checkDimensions(dimensions: number | null | undefined, model: ServedModel): void {
  const size = model.engine.info?.hiddenSize;
  if (dimensions === null || dimensions === undefined || dimensions === size) return;
  throw new RequestError(
    `dimensions is ${dimensions}, but this model's vectors have ${size} and were not trained to be shortened.`,
    {
      param: "dimensions",
      code: "invalid_value",
    },
  );
}

function readInputs(request: EmbeddingRequest, model: ServedModel): number[][] {
  const { input } = request;
  const one = (item: string | number[]): number[] => {
    const ids =
      typeof item === "string"
        ? encodePrompt(model, item, request.add_special_tokens ?? true, "input")
        : item;
    checkTokenIds(ids, model, "input");
    if (ids.length <= model.maxModelLen) return ids;
    throw new RequestError(
      `This model's context is ${model.maxModelLen} tokens, but the input has ${ids.length}. Shorten it.`,
      {
        param: "input",
        code: "context_length_exceeded",
      },
    );
  };
  if (typeof input === "string") return [one(input)];
  if (typeof input[0] === "number") return [one(input as number[])];
  return (input as (string | number[])[]).map(one);
}

/** At most `sequencesAtOnce` in the engine, in order; the first failure ends the rest. */
async function embedAll(
  call: Call<EmbeddingRequest>,
  model: ServedModel,
  prompts: number[][],
): Promise<Float32Array[]> {
  const id = `embd-${crypto.randomUUID()}`;
  const salt = cacheSalt(call, call.body.cache_salt);
  const stop = new AbortController();
  const signal = AbortSignal.any([call.signal, stop.signal]);
  const vectors: Float32Array[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let i = next++; i < prompts.length; i = next++)
      vectors[i] = await model.engine.embed(
        { id: `${id}-${i}`, prompt: prompts[i]!, cacheSalt: salt },
        signal,
      );
  };
  const workers = Array.from(
    { length: Math.min(call.context.limits.sequencesAtOnce, prompts.length) },
    worker,
  );
  try {
    await Promise.all(workers);
  } catch (error) {
    stop.abort();
    await Promise.allSettled(workers);
    throw error;
  }
  return vectors;
}

function encode(vector: Float32Array, request: EmbeddingRequest): number[] | string {
  const scaled = (request.normalize ?? true) ? toUnitLength(vector) : vector;
  if (request.encoding_format !== "base64") return [...scaled];
  // Float32Array is little-endian on every machine that Bun runs on.
  return Buffer.from(scaled.buffer, scaled.byteOffset, scaled.byteLength).toString("base64");
}

function toUnitLength(vector: Float32Array): Float32Array {
  let squares = 0;
  for (const value of vector) squares += value * value;
  const length = Math.sqrt(squares);
  return length === 0 ? vector : vector.map((value) => value / length);
}
