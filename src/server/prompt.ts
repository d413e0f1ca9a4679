/** A dialogue as the model's prompt: messages as clients send them, through the template, to token segments. */

import type { ChatMessage } from "../text/chat_messages.ts";
import type { Segment } from "../text/segments.ts";
import type { JsonObject } from "../text/tokenizer_file.ts";
import type { ChatTemplate } from "../text/template.ts";
import type { Tool } from "../text/tool_calls.ts";
import { RequestError } from "../util/errors.ts";
import type { ServedModel } from "./context.ts";
import type { RequestMessage, Tool as RequestTool } from "./schema/chat.ts";

export interface ChatPrompt {
  messages: readonly RequestMessage[];
  tools?: readonly RequestTool[] | null;
  add_generation_prompt?: boolean | null;
  continue_final_message?: boolean | null;
  chat_template_kwargs?: Record<string, unknown> | null;
  marker?: string | null;
}

/** Throws a RequestError where the model has no template or the template refuses the dialogue. */
export function renderChat(model: ServedModel, chat: ChatPrompt): Segment[] {
  const continues = chat.continue_final_message ?? false;
  if (continues && chat.messages.at(-1)?.role !== "assistant")
    throw new RequestError("continue_final_message needs a last message of the assistant's.", {
      param: "continue_final_message",
      code: "invalid_value",
    });
  return templateOf(model).render(chat.messages.map(chatMessage), {
    tools: plainTools(chat.tools),
    continueFinalMessage: continues,
    ...(chat.add_generation_prompt === null || chat.add_generation_prompt === undefined
      ? {}
      : { addGenerationPrompt: chat.add_generation_prompt }),
    ...(chat.chat_template_kwargs ? { templateArguments: chat.chat_template_kwargs as JsonObject } : {}),
    ...(isSet(chat.marker) ? { marker: chat.marker } : {}),
  });
}

export function templateOf(model: ServedModel): ChatTemplate {
  if (model.template !== null) return model.template;
  throw new RequestError(
    `The model ${model.id} has no chat template. Start the server with --chat-template (koala, chatml or a Jinja file), or use /v1/completions.`,
    { code: "no_chat_template" },
  );
}

export const plainTools = (tools: readonly RequestTool[] | null | undefined): Tool[] =>
  (tools ?? []).map(({ type, function: { name, description, parameters, strict } }) => ({
    type,
    function: {
      name,
      ...(isSet(description) ? { description } : {}),
      ...(isSet(parameters) ? { parameters: parameters as JsonObject } : {}),
      ...(isSet(strict) ? { strict } : {}),
    },
  }));

/** Known fields only, and null as absent: templates ask `is defined`. */
function chatMessage(message: RequestMessage): ChatMessage {
  const { role, name } = message;
  const plain: ChatMessage = { role, content: message.content ?? null };
  if (isSet(name)) plain.name = name;
  if (message.role === "tool") plain.tool_call_id = message.tool_call_id;
  if (message.role !== "assistant") return plain;
  if (!isSet(message.content) && isSet(message.refusal)) plain.content = message.refusal;
  if (isSet(message.tool_calls)) plain.tool_calls = message.tool_calls;
  if (isSet(message.reasoning_content)) plain.reasoning_content = message.reasoning_content;
  return plain;
}

export const isSet = <T>(value: T): value is NonNullable<T> => value !== null && value !== undefined;
