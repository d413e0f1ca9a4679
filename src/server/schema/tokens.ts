/** /tokenize, /detokenize and /tokenizer_info: vLLM's shapes, which lm-evaluation-harness reads. */

import { z } from "zod";
import { FIELD } from "../limits.ts";
import { markerSchema, messageSchema, toolSchema } from "./chat.ts";
import { optional } from "./common.ts";

const model = optional(z.string().min(1).max(FIELD.nameLength), "A name from /v1/models.");

export const tokenizeRequestSchema = z
  .strictObject({
    model,
    prompt: optional(z.string(), "A text; or give messages."),
    messages: optional(
      z.array(messageSchema).min(1).max(FIELD.messages),
      "A dialogue, rendered by the chat template.",
    ),
    tools: optional(z.array(toolSchema).max(FIELD.tools), "With messages."),
    add_special_tokens: optional(z.boolean(), "Put the model's BOS first. Default true; only for a prompt."),
    add_generation_prompt: optional(z.boolean(), "Default true; only for messages."),
    continue_final_message: optional(z.boolean(), "Default false; only for messages."),
    marker: optional(markerSchema, "As in a chat request; only for messages."),
    return_token_strs: optional(z.boolean(), "Also answer with the tokens as they stand in the vocabulary."),
  })
  .meta({ id: "TokenizeRequest" });

export const tokenizeResponseSchema = z
  .object({
    tokens: z.array(z.int()),
    count: z.int(),
    max_model_len: z.int(),
    token_strs: z.array(z.string()).nullable(),
  })
  .meta({ id: "TokenizeResponse" });

export const detokenizeRequestSchema = z
  .strictObject({
    model,
    tokens: z.array(z.int().min(0).max(FIELD.int32)),
    skip_special_tokens: optional(z.boolean(), "Default false."),
  })
  .meta({ id: "DetokenizeRequest" });

export const detokenizeResponseSchema = z.object({ prompt: z.string() }).meta({ id: "DetokenizeResponse" });

export const tokenizerInfoSchema = z
  .object({
    tokenizer_class: z.string(),
    vocab_size: z.int(),
    model_max_length: z.int(),
    bos_token: z.string().nullable(),
    eos_token: z.string().nullable(),
    unk_token: z.string().nullable(),
    pad_token: z.string().nullable(),
    bos_token_id: z.int().nullable(),
    eos_token_ids: z.array(z.int()),
    chat_template: z.string().nullable(),
  })
  .meta({ id: "TokenizerInfo" });
