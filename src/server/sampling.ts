/** A request's fields, the model's defaults and the engine's parameters: the first that says something wins.
 *  Also the checks that need the model: ids within the vocabulary, prompt and answer within the context. */

import type { GrammarSpec, SamplingParams } from "../engine/messages.ts";
import { RequestError } from "../util/errors.ts";
import type { ServedModel } from "./context.ts";

/** The sampling fields that completions and chat share, as the schemas leave them. */
export interface SamplingRequest {
  temperature?: number | null;
  top_p?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  repetition_penalty?: number | null;
  frequency_penalty?: number | null;
  presence_penalty?: number | null;
  logit_bias?: Record<string, number> | null;
  seed?: number | bigint | null;
  stop?: string | string[] | null;
  stop_token_ids?: number[] | null;
  min_tokens?: number | null;
  ignore_eos?: boolean | null;
}

export interface SamplingChoices {
  maxTokens: number;
  logprobs: number | null;
  promptLogprobs: number | null;
  grammar: GrammarSpec | null;
  /** The ids that end an answer of this model. */
  stopIds: readonly number[];
}

export function samplingParams(
  request: SamplingRequest,
  model: ServedModel,
  choices: SamplingChoices,
): SamplingParams {
  const defaults = model.generationDefaults;
  const topP = request.top_p ?? defaults.topP ?? 1;
  const topK = request.top_k ?? defaults.topK ?? 0;
  return {
    temperature: request.temperature ?? defaults.temperature ?? 1,
    // top_p = 0 asks for the most likely token alone; some clients write greedy decoding so.
    topK: topP === 0 ? 1 : Math.max(topK, 0),
    topP: topP === 0 ? 1 : topP,
    minP: request.min_p ?? defaults.minP ?? 0,
    repetitionPenalty: request.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
    frequencyPenalty: request.frequency_penalty ?? 0,
    presencePenalty: request.presence_penalty ?? 0,
    logitBias: Object.entries(request.logit_bias ?? {}).map(([id, bias]) => [
      checkedId(Number(id), model, "logit_bias"),
      bias,
    ]),
    seed: baseSeed(request.seed),
    minTokens: checkedMinTokens(request.min_tokens ?? 0, choices.maxTokens),
    maxTokens: choices.maxTokens,
    stopTokenIds: stopIds(request, model, choices.stopIds),
    logprobs: choices.logprobs,
    promptLogprobs: choices.promptLogprobs,
    grammar: choices.grammar,
  };
}

export const stopStrings = (stop: string | string[] | null | undefined): string[] =>
  stop === null || stop === undefined ? [] : typeof stop === "string" ? [stop] : stop;

/** The number of answer tokens, or an error with both numbers: nothing is ever cut in silence. */
export function answerBudget(
  promptTokens: number,
  model: ServedModel,
  options: { asked: number | null | undefined; fallback: number | null; param: string; prompt?: string },
): number {
  const room = model.maxModelLen - promptTokens;
  const { asked, fallback, param } = options;
  const needed = asked ?? 1;
  if (room >= needed) return asked ?? Math.min(fallback ?? room, room);
  const wanted = asked === null || asked === undefined ? "" : ` and ${param} asks for ${asked} more`;
  throw new RequestError(
    `This model's context is ${model.maxModelLen} tokens, but the prompt has ${promptTokens}${wanted}. Shorten the prompt${wanted === "" ? "" : ` or lower ${param}`}.`,
    {
      param: wanted === "" || room < 1 ? (options.prompt ?? "prompt") : param,
      code: "context_length_exceeded",
    },
  );
}

/** Ids that a client sent must name rows of the embedding. */
export function checkTokenIds(ids: readonly number[], model: ServedModel, param: string): void {
  for (const id of ids) checkedId(id, model, param);
}

function checkedId(id: number, model: ServedModel, param: string): number {
  const size = model.engine.info?.vocabularySize ?? model.tokenizer.vocabularySize;
  if (id < size) return id;
  throw new RequestError(`${param} has the token id ${id}, but this model's ids end at ${size - 1}.`, {
    param,
    code: "invalid_value",
  });
}

function checkedMinTokens(minTokens: number, maxTokens: number): number {
  if (minTokens <= maxTokens) return minTokens;
  throw new RequestError(
    `min_tokens is ${minTokens}, more than the ${maxTokens} tokens that the answer may have.`,
    {
      param: "min_tokens",
      code: "invalid_value",
    },
  );
}

function stopIds(request: SamplingRequest, model: ServedModel, ofModel: readonly number[]): number[] {
  const own = request.stop_token_ids ?? [];
  checkTokenIds(own, model, "stop_token_ids");
  return [...new Set([...own, ...(request.ignore_eos ? [] : ofModel)])];
}

/** 32 bits of a 64-bit seed; a fresh one where none is given. Seeds below 2^32 stay themselves. */
export function baseSeed(seed: number | bigint | null | undefined): number {
  if (seed === null || seed === undefined) return crypto.getRandomValues(new Uint32Array(1))[0]!;
  const wide = BigInt(seed);
  return wide >= 0n && wide < 1n << 32n ? Number(wide) : mix(wide);
}

/** The seed of a request's i-th sequence: the first has the request's own, so n = 1 and n = 4 begin with the same answer. */
export const seedOf = (base: number, index: number): number =>
  index === 0 ? base : mix(BigInt(base) + BigInt(index) * 0x9e3779b97f4a7c15n);

/** splitmix64 (Steele, Lea and Flood 2014), its upper 32 bits. */
function mix(value: bigint): number {
  let z = BigInt.asUintN(64, value + 0x9e3779b97f4a7c15n);
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return Number((z ^ (z >> 31n)) >> 32n);
}
