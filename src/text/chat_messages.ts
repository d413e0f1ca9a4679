/** A conversation as OpenAI's clients send it, made plain for templates: content is a string, arguments are objects,
 *  "developer" is "system". Wrong shapes are RequestErrors that name the message. */
import { RequestError } from "../util/errors.ts";
import { isObject, type Json, type JsonObject } from "./tokenizer_file.ts";

export interface ToolCallMessage {
  id?: string;
  type?: string;
  function: { name: string; arguments: string | JsonObject };
}

export interface ChatMessage {
  role: string;
  content?: string | null | { type: string; text?: string }[];
  name?: string;
  tool_calls?: ToolCallMessage[];
  tool_call_id?: string;
  reasoning_content?: string;
  /** The ids that the model generated for this answer: used as they are where the template is built from segments. */
  ids?: number[];
}

/** What a template sees. */
export interface PlainMessage {
  role: string;
  content: string;
  name?: string;
  tool_calls?: {
    id?: string;
    type: "function";
    function: { name: string; arguments: JsonObject | string };
  }[];
  tool_call_id?: string;
  reasoning_content?: string;
  ids?: number[];
}

const roles: { [role: string]: string } = {
  system: "system",
  developer: "system",
  user: "user",
  assistant: "assistant",
  tool: "tool",
  function: "tool",
};

export function plainMessages(messages: readonly ChatMessage[]): PlainMessage[] {
  if (messages.length === 0)
    throw new RequestError("messages is empty; send at least one message.", { param: "messages" });
  return messages.map(plainMessage);
}

function plainMessage(message: ChatMessage, index: number): PlainMessage {
  const param = `messages[${index}]`;
  const role = Object.hasOwn(roles, message.role) ? roles[message.role]! : null;
  if (role === null) {
    throw new RequestError(
      `${param}.role is ${JSON.stringify(message.role)}; it is one of ${Object.keys(roles).join(", ")}.`,
      { param: `${param}.role` },
    );
  }
  const plain: PlainMessage = { role, content: textOf(message.content, `${param}.content`) };
  for (const key of ["name", "tool_call_id", "reasoning_content"] as const)
    if (message[key] !== undefined) plain[key] = message[key];
  if (message.ids) plain.ids = message.ids;
  if (message.tool_calls && message.tool_calls.length > 0) {
    plain.tool_calls = message.tool_calls.map((call) => ({
      ...(call.id === undefined ? {} : { id: call.id }),
      type: "function" as const,
      function: {
        name: call.function.name,
        arguments: argumentsOf(call.function.arguments, `${param}.tool_calls`),
      },
    }));
  }
  return plain;
}

function textOf(content: ChatMessage["content"], param: string): string {
  if (content === null || content === undefined) return "";
  if (typeof content === "string") return content;
  const texts = content.map((part, i) => {
    if (part.type === "text" && typeof part.text === "string") return part.text;
    throw new RequestError(
      `${param}[${i}] has the type ${JSON.stringify(part.type)}; this model reads text parts only.`,
      { param: `${param}[${i}]` },
    );
  });
  return texts.join("\n");
}

/** Clients send arguments as JSON text; templates write them with tojson, so text would come out quoted twice. */
function argumentsOf(value: string | JsonObject, param: string): JsonObject | string {
  const parsed = typeof value === "string" ? parseObject(value) : value;
  if (parsed) checkDepth(parsed, param);
  return parsed ?? value;
}

function parseObject(text: string): JsonObject | null {
  try {
    const parsed: unknown = JSON.parse(text);
    return isObject(parsed) ? parsed : null;
  } catch {
    return null;
  }
}

/** A deep copy in which every text, keys included, went through `change`. */
export function mapStrings(value: Json, change: (text: string) => string): Json {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [change(key), mapStrings(item, change)]),
  );
}

const depthMax = 64;

/** Level by level, since recursion would meet the stack's end first. */
export function checkDepth(value: Json, param: string): void {
  let level: Json[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > depthMax) throw new RequestError(`${param} nests deeper than ${depthMax} levels.`, { param });
    level = level.flatMap((item) => (Array.isArray(item) ? item : isObject(item) ? Object.values(item) : []));
  }
}
