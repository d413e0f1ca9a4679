/** What several requests share. Every optional field takes null as "not set", as OpenAI's clients send it.
 *  Objects are strict: a name that is not here is an error or is listed, never dropped in silence. */

import { z } from "zod";
import { FIELD } from "../limits.ts";

export const optional = <S extends z.ZodType>(schema: S, description: string) =>
  schema.nullish().describe(description);

/** Accepted because clients send it, without effect; listed in x-koala-ignored-parameters when present. */
export const NO_EFFECT = "Accepted without effect.";
const withoutEffect = <S extends z.ZodType>(schema: S) => optional(schema, NO_EFFECT);

/** 64 bits: a seed beyond 2^53 arrives as bigint. Seeds from 2^32 on, and negative ones, are hashed to 32 bits. */
export const seedSchema = z
  .union([
    z.int(),
    z
      .bigint()
      .min(-(2n ** 63n))
      .max(2n ** 64n - 1n),
  ])
  .meta({ id: "Seed", description: "Same seed, same tokens. Any signed or unsigned 64-bit integer." });

export const samplingFields = {
  model: optional(
    z.string().min(1).max(FIELD.nameLength),
    "A name from /v1/models; the first one where it is missing.",
  ),
  temperature: optional(
    z.number().min(0).max(2),
    "0 is greedy. Default: the model's generation_config.json, else 1.",
  ),
  top_p: optional(
    z.number().min(0).max(1),
    "Keep the most likely tokens up to this probability; 0 keeps one.",
  ),
  top_k: optional(z.int().min(-1).max(FIELD.int32), "Keep this many tokens; 0 and -1 keep all."),
  min_p: optional(
    z.number().min(0).max(1),
    "Keep tokens of at least this share of the best one's probability.",
  ),
  repetition_penalty: optional(z.number().gt(0).max(10), "Over prompt and answer; 1 changes nothing."),
  frequency_penalty: optional(z.number().min(-2).max(2), "Per earlier occurrence in the answer."),
  presence_penalty: optional(z.number().min(-2).max(2), "Once for a token that occurred in the answer."),
  logit_bias: optional(
    z
      .record(z.string().regex(/^\d{1,9}$/), z.number().min(-100).max(100))
      .refine((bias) => Object.keys(bias).length <= FIELD.logitBias, {
        error: `must have at most ${FIELD.logitBias} entries`,
      }),
    "Added to the logits of these token ids.",
  ),
  seed: optional(seedSchema, "Same seed, same tokens."),
  stop: optional(
    z.union([
      z.string().min(1).max(FIELD.stopLength),
      z.array(z.string().min(1).max(FIELD.stopLength)).max(FIELD.stops),
    ]),
    "Texts that end the answer; they are not part of it.",
  ),
  stop_token_ids: optional(
    z.array(z.int().min(0).max(FIELD.int32)).max(FIELD.stopTokenIds),
    "Token ids that end the answer.",
  ),
  include_stop_str_in_output: optional(z.boolean(), "Keep the stop text in the answer."),
  min_tokens: optional(z.int().min(0).max(FIELD.int32), "Nothing ends the answer before this many tokens."),
  ignore_eos: optional(z.boolean(), "Go on past the model's end-of-sequence tokens."),
  skip_special_tokens: optional(z.boolean(), "Leave special tokens out of texts. Default true."),
  return_token_ids: optional(z.boolean(), "Also answer with `prompt_token_ids` and `token_ids`."),
  prompt_logprobs: optional(
    z.int().min(0).max(FIELD.topLogprobs),
    "Score the prompt's tokens too, with so many alternatives.",
  ),
  n: optional(z.int().min(1).max(FIELD.choices), "Answers for each prompt."),
  stream: optional(z.boolean(), "Server-sent events, one a token."),
  stream_options: optional(
    z.strictObject({
      include_usage: optional(z.boolean(), "A last chunk with usage and no choices."),
      continuous_usage_stats: optional(z.boolean(), "Usage so far in every chunk."),
      include_obfuscation: withoutEffect(z.boolean()),
    }),
    "Only with stream.",
  ),
  priority: optional(z.int().min(-FIELD.priority).max(FIELD.priority), "Smaller runs earlier; 0 is normal."),
  cache_salt: optional(
    z.string().max(FIELD.nameLength),
    "Prefixes are shared only between requests of equal salt (and key).",
  ),
  user: withoutEffect(z.string().max(1024)),
  metadata: withoutEffect(z.record(z.string(), z.string())),
  store: optional(z.literal(false), `Only false: answers are never stored. ${NO_EFFECT}`),
  service_tier: withoutEffect(z.string().max(64)),
  safety_identifier: withoutEffect(z.string().max(1024)),
  prompt_cache_key: withoutEffect(z.string().max(1024)),
  prompt_cache_retention: withoutEffect(z.string().max(64)),
};

/** Top-level names that are accepted without effect. */
export const IGNORED_FIELDS: readonly string[] = Object.entries(samplingFields)
  .filter(([, schema]) => schema.description?.endsWith(NO_EFFECT))
  .map(([name]) => name);

export const responseFormatSchema = z
  .discriminatedUnion("type", [
    z.strictObject({ type: z.literal("text") }),
    z.strictObject({ type: z.literal("json_object") }),
    z.strictObject({
      type: z.literal("json_schema"),
      json_schema: z.strictObject({
        name: optional(z.string().max(FIELD.nameLength), "For the reader."),
        description: optional(z.string().max(4096), "For the reader."),
        schema: z.record(z.string(), z.unknown()).describe("JSON Schema; the answer always matches it."),
        strict: optional(z.boolean(), "The schema is always enforced."),
      }),
    }),
  ])
  .meta({ id: "ResponseFormat" });

export const usageSchema = z
  .object({
    prompt_tokens: z.int(),
    completion_tokens: z.int(),
    total_tokens: z.int(),
    prompt_tokens_details: z.object({ cached_tokens: z.int() }),
  })
  .meta({ id: "Usage" });
export type Usage = z.infer<typeof usageSchema>;

export const errorSchema = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().nullable(),
    }),
  })
  .meta({ id: "Error" });

export const finishReasonSchema = z
  .enum(["stop", "length", "tool_calls", "content_filter", "abort"])
  .meta({ id: "FinishReason" });

/** vLLM's shape: a prompt token's id to its logprob and rank; null for the first token. */
export const promptLogprobsSchema = z.array(
  z
    .record(
      z.string(),
      z.object({ logprob: z.number(), rank: z.int().nullable(), decoded_token: z.string() }),
    )
    .nullable(),
);
