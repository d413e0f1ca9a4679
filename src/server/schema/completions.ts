/** POST /v1/completions: request, answer and stream chunk. */

import { z } from "zod";
import { FIELD } from "../limits.ts";
import {
  finishReasonSchema,
  optional,
  promptLogprobsSchema,
  responseFormatSchema,
  samplingFields,
  usageSchema,
} from "./common.ts";

const tokenId = z.int().min(0).max(FIELD.int32);

export const promptSchema = z
  .union([
    z.string(),
    z.array(z.string()).min(1),
    z.array(tokenId).min(1),
    z.array(z.array(tokenId).min(1)).min(1),
  ])
  .meta({ id: "Prompt", description: "A text, token ids, or a batch of either." });

export const completionRequestSchema = z
  .strictObject({
    ...samplingFields,
    prompt: promptSchema,
    max_tokens: optional(z.int().min(0).max(FIELD.int32), "Default 16; 0 with echo only scores the prompt."),
    echo: optional(z.boolean(), "Put the prompt in front of the answer; with logprobs also score it."),
    logprobs: optional(
      z.int().min(0).max(FIELD.topLogprobs),
      "Logprobs of the tokens and of so many alternatives.",
    ),
    best_of: optional(
      z.int().min(1).max(FIELD.bestOf),
      "Generate so many, answer with the n of highest mean logprob.",
    ),
    suffix: optional(z.literal(""), "Filling in is not supported: null or empty."),
    add_special_tokens: optional(
      z.boolean(),
      "Put the model's BOS before a text prompt. Default true; never applies to token ids.",
    ),
    response_format: optional(responseFormatSchema, "What the answer must match."),
  })
  .meta({ id: "CompletionRequest" });
export type CompletionRequest = z.infer<typeof completionRequestSchema>;

export const completionLogprobsSchema = z.object({
  tokens: z.array(z.string()).describe("A token that is no whole character reads bytes:\\xe2\\x82."),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(z.int()).describe("Where the token begins in `text`, in Unicode code points."),
});
export type CompletionLogprobs = z.infer<typeof completionLogprobsSchema>;

export const completionChoiceSchema = z.object({
  index: z.int(),
  text: z.string(),
  logprobs: completionLogprobsSchema.nullable(),
  finish_reason: finishReasonSchema.nullable(),
  stop_reason: z
    .union([z.string(), z.int()])
    .nullable()
    .describe("The stop text or stop token id that ended it."),
  prompt_logprobs: promptLogprobsSchema.optional(),
  prompt_token_ids: z.array(z.int()).optional(),
  token_ids: z.array(z.int()).optional(),
});
export type CompletionChoice = z.infer<typeof completionChoiceSchema>;

export const completionSchema = z
  .object({
    id: z.string(),
    object: z.literal("text_completion"),
    created: z.int(),
    model: z.string(),
    choices: z.array(completionChoiceSchema),
    usage: usageSchema.nullish(),
  })
  .meta({ id: "Completion", description: "Also each chunk of a stream." });
export type Completion = z.infer<typeof completionSchema>;
