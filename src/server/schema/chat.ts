/** POST /v1/chat/completions: request, answer and stream chunk. */

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
import { chatModerationSchema, moderationParamSchema } from "./moderations.ts";

const textPart = z.strictObject({ type: z.literal("text"), text: z.string() });
const content = z
  .union([z.string(), z.array(textPart).max(FIELD.contentParts)])
  .describe("Text, or parts of text.");
const name = optional(z.string().max(FIELD.nameLength), "The speaker's name, for templates that show it.");
const toolName = z.string().regex(/^[\w.-]{1,128}$/);

const toolCallSchema = z
  .strictObject({
    id: z.string().max(FIELD.nameLength),
    type: z.literal("function"),
    function: z.strictObject({ name: toolName, arguments: z.string() }),
  })
  .meta({ id: "ToolCall" });

/** An assistant message as clients hand it back, with the fields that OpenAI's answers carry. */
const assistantMessage = z.strictObject({
  role: z.literal("assistant"),
  content: content.nullish(),
  name,
  tool_calls: optional(z.array(toolCallSchema).max(FIELD.toolCalls), "What the model called."),
  reasoning_content: optional(z.string(), "For templates that show it."),
  refusal: optional(z.string(), "Used as the content where that is empty."),
  annotations: optional(z.array(z.unknown()).max(0), "Empty, as our answers carry it."),
  audio: optional(z.null(), "null"),
  function_call: optional(z.null(), "null"),
});

export const messageSchema = z
  .discriminatedUnion("role", [
    z.strictObject({ role: z.literal("system"), content, name }),
    z.strictObject({ role: z.literal("developer"), content, name }),
    z.strictObject({ role: z.literal("user"), content, name }),
    assistantMessage,
    z.strictObject({
      role: z.literal("tool"),
      content,
      tool_call_id: z.string().max(FIELD.nameLength),
      name,
    }),
  ])
  .meta({ id: "Message" });
export type RequestMessage = z.infer<typeof messageSchema>;

export const toolSchema = z
  .strictObject({
    type: z.literal("function"),
    function: z.strictObject({
      name: toolName,
      description: optional(z.string(), "What it does."),
      parameters: optional(z.record(z.string(), z.unknown()), "JSON Schema of the arguments."),
      strict: optional(z.boolean(), "The schema is enforced wherever a call is."),
    }),
  })
  .meta({ id: "Tool" });
export type Tool = z.infer<typeof toolSchema>;

const toolChoiceSchema = z
  .union([
    z.enum(["none", "auto", "required"]),
    z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: toolName }) }),
  ])
  .meta({ id: "ToolChoice" });
export type ToolChoice = z.infer<typeof toolChoiceSchema>;

export const markerSchema = z
  .union([z.enum(["positive", "negative"]), z.string().min(1).max(FIELD.markerLength)])
  .meta({ id: "Marker", description: "`positive`, `negative`, or words of your own; never special tokens." });

const contrastSchema = z
  .strictObject({
    strength: z
      .number()
      .min(0)
      .max(FIELD.contrastStrength)
      .describe("logits + strength * (logits - logits behind the other marker); 0: the plain answer."),
    marker: optional(markerSchema, "The marker to push away from. Default negative."),
    plausibility: optional(
      z.number().min(0).max(1),
      "Only tokens of at least this share of the best one's probability are weighed. Default 0.1.",
    ),
  })
  .meta({
    id: "Contrast",
    description:
      "Contrastive decoding between two markers. It takes two places of the batch; `usage` counts one prompt, " +
      "and `logprobs` are those of the combined distribution.",
  });

export const chatRequestSchema = z
  .strictObject({
    ...samplingFields,
    messages: z.array(messageSchema).min(1).max(FIELD.messages),
    max_tokens: optional(z.int().min(1).max(FIELD.int32), "Default: up to the end of the context."),
    max_completion_tokens: optional(
      z.int().min(1).max(FIELD.int32),
      "The same, OpenAI's newer name; it wins.",
    ),
    logprobs: optional(z.boolean(), "Logprobs of the answer's tokens."),
    top_logprobs: optional(z.int().min(0).max(FIELD.topLogprobs), "And of so many alternatives."),
    response_format: optional(responseFormatSchema, "What the answer must match."),
    tools: optional(z.array(toolSchema).max(FIELD.tools), "Functions that the model may call."),
    tool_choice: optional(toolChoiceSchema, "Default auto where tools are given."),
    parallel_tool_calls: optional(z.boolean(), "false: at most one call an answer. Default true."),
    modalities: optional(z.array(z.literal("text")).max(1), "Only text."),
    add_generation_prompt: optional(
      z.boolean(),
      "End the prompt with the assistant's opening. Default true.",
    ),
    continue_final_message: optional(
      z.boolean(),
      "The answer continues the last message instead of opening a new one.",
    ),
    chat_template_kwargs: optional(
      z.record(z.string().max(64), z.unknown()),
      "Variables of the template; only names of an allow-list, such as enable_thinking.",
    ),
    marker: optional(markerSchema, "What asks for the answer, in Koala's format. Default: the model's own."),
    contrast: optional(contrastSchema, "Answer away from another marker, in Koala's format."),
    moderation: optional(moderationParamSchema, "Judge the input and the answers, and tell the results."),
  })
  .meta({ id: "ChatCompletionRequest" });
export type ChatRequest = z.infer<typeof chatRequestSchema>;

const tokenLogprob = { token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() };
export const chatTokenLogprobSchema = z
  .object({ ...tokenLogprob, top_logprobs: z.array(z.object(tokenLogprob)) })
  .meta({ id: "TokenLogprob" });
export type ChatTokenLogprob = z.infer<typeof chatTokenLogprobSchema>;

const chatLogprobsSchema = z.object({
  content: z.array(chatTokenLogprobSchema).nullable(),
  refusal: z.null(),
});

const choiceFields = {
  index: z.int(),
  logprobs: chatLogprobsSchema.nullable(),
  finish_reason: finishReasonSchema.nullable(),
  stop_reason: z
    .union([z.string(), z.int()])
    .nullish()
    .describe("The stop text or stop token id that ended it."),
  token_ids: z.array(z.int()).optional(),
};

export const chatChoiceSchema = z.object({
  ...choiceFields,
  message: z.object({
    role: z.literal("assistant"),
    content: z.string().nullable(),
    refusal: z.null(),
    tool_calls: z.array(toolCallSchema).optional(),
  }),
});
export type ChatChoice = z.infer<typeof chatChoiceSchema>;

const envelope = { id: z.string(), created: z.int(), model: z.string() };

export const chatCompletionSchema = z
  .object({
    ...envelope,
    object: z.literal("chat.completion"),
    choices: z.array(chatChoiceSchema),
    usage: usageSchema,
    moderation: chatModerationSchema.optional(),
    prompt_logprobs: promptLogprobsSchema.optional(),
    prompt_token_ids: z.array(z.int()).optional(),
  })
  .meta({ id: "ChatCompletion" });
export type ChatCompletion = z.infer<typeof chatCompletionSchema>;

const deltaSchema = z.object({
  role: z.literal("assistant").optional(),
  content: z.string().optional(),
  tool_calls: z
    .array(
      z.object({
        index: z.int(),
        id: z.string().optional(),
        type: z.literal("function").optional(),
        function: z.object({ name: z.string().optional(), arguments: z.string() }),
      }),
    )
    .optional(),
});
export type ChatDelta = z.infer<typeof deltaSchema>;

export const chatChunkSchema = z
  .object({
    ...envelope,
    object: z.literal("chat.completion.chunk"),
    choices: z.array(z.object({ ...choiceFields, delta: deltaSchema })),
    usage: usageSchema.nullish(),
    moderation: chatModerationSchema.optional(),
    prompt_token_ids: z.array(z.int()).optional(),
  })
  .meta({
    id: "ChatCompletionChunk",
    description: "The first has the role, all the same id; [DONE] ends the stream.",
  });
export type ChatChunk = z.infer<typeof chatChunkSchema>;
