/** One record of a training file after its format was understood: a conversation, a pair of answers, text, or fields.
 *  Always: roles are OpenAI's; a conversation ends with an answer; what cannot be understood is a RecordFault. */
import type { ChatMessage } from "../text/chat_messages.ts";
import { isObject, type Json, type JsonObject } from "../text/tokenizer_file.ts";
import type { Tool } from "../text/tool_formats.ts";

/** `weight` of an answer: 0 masks it, 1 (default) trains on it, fractions lie between. */
export interface TrainingMessage extends ChatMessage {
  weight?: number;
}

export interface ChatRecord {
  kind: "chat";
  messages: TrainingMessage[];
  tools: Tool[];
  /** "negative": its answers stand behind the negative marker of the Koala format. */
  marker?: "positive" | "negative";
}

/** Both sides go on after `messages`. */
export interface PreferenceRecord {
  kind: "preference";
  messages: TrainingMessage[];
  chosen: TrainingMessage[];
  rejected: TrainingMessage[];
  tools: Tool[];
}

/** An answer that somebody found good or bad: KTO. */
export interface LabelledRecord {
  kind: "labelled";
  messages: TrainingMessage[];
  answer: TrainingMessage[];
  good: boolean;
  tools: Tool[];
}

export interface TextRecord {
  kind: "text";
  text: string;
}

/** EasyLM's fields: each part is tokenised alone. */
export interface FieldsRecord {
  kind: "fields";
  parts: FieldPart[];
}

export type FieldPart =
  | { kind: "text"; text: string; loss: number }
  | { kind: "token"; token: "bos" | "eos" | number; loss: number }
  | { kind: "ids"; ids: number[]; loss: number };

export type TrainingRecord = ChatRecord | PreferenceRecord | LabelledRecord | TextRecord | FieldsRecord;

/** A record and what had to be mended to get it; no repairs means the verdict "ok". */
export interface Parsed {
  record: TrainingRecord;
  repairs: string[];
}

/** A record that is dropped; the message is the reason, without values, so that equal reasons can be counted. */
export class RecordFault extends Error {
  override name = "RecordFault";
}

/** Questions after the last answer teach nothing: they are cut off, and that is a repair. */
export function chatRecord(messages: TrainingMessage[], tools: Tool[] = [], repairs: string[] = []): Parsed {
  const last = messages.findLastIndex((message) => message.role === "assistant");
  if (last < 0) throw new RecordFault("the conversation has no answer");
  if (last < messages.length - 1) repairs = [...repairs, "messages after the last answer were cut off"];
  return { record: { kind: "chat", messages: messages.slice(0, last + 1), tools }, repairs };
}

/** Two whole conversations: what they share is the prompt, the rest of each is a side. */
export function preferenceOfConversations(
  chosen: TrainingMessage[],
  rejected: TrainingMessage[],
  tools: Tool[] = [],
): Parsed {
  const same = (i: number): boolean => JSON.stringify(chosen[i]) === JSON.stringify(rejected[i]);
  let shared = 0;
  while (shared < Math.min(chosen.length, rejected.length) && same(shared)) shared++;
  return preferenceRecord(chosen.slice(0, shared), chosen.slice(shared), rejected.slice(shared), tools);
}

export function preferenceRecord(
  messages: TrainingMessage[],
  chosen: TrainingMessage[],
  rejected: TrainingMessage[],
  tools: Tool[] = [],
): Parsed {
  if (JSON.stringify(chosen) === JSON.stringify(rejected))
    throw new RecordFault("chosen and rejected are the same");
  for (const [name, side] of [
    ["chosen", chosen],
    ["rejected", rejected],
  ] as const) {
    if (side.at(-1)?.role !== "assistant")
      throw new RecordFault(`the ${name} side does not end with an answer`);
  }
  return { record: { kind: "preference", messages, chosen, rejected, tools }, repairs: [] };
}

/** `answer` is what the label is about; without it, the conversation's last answer. */
export function labelledRecord(
  messages: TrainingMessage[],
  answer: TrainingMessage[] | null,
  good: boolean,
  tools: Tool[] = [],
): Parsed {
  const last = answer ?? messages.slice(-1);
  if (last.at(-1)?.role !== "assistant")
    throw new RecordFault("the labelled conversation does not end with an answer");
  const before = answer ? messages : messages.slice(0, -1);
  if (!before.some(({ role }) => role === "user"))
    throw new RecordFault("the labelled answer has no question");
  return { record: { kind: "labelled", messages: before, answer: last, good, tools }, repairs: [] };
}

/** OpenAI's messages, checked; `where` names them in reasons. */
export function readMessages(value: Json | undefined, where: string): TrainingMessage[] {
  if (!Array.isArray(value) || value.length === 0)
    throw new RecordFault(`${where} is not a list of messages`);
  return value.map((message) => readMessage(message, where));
}

const roles = new Set(["system", "developer", "user", "assistant", "tool", "function"]);

function readMessage(value: Json, where: string): TrainingMessage {
  if (!isObject(value)) throw new RecordFault(`${where} holds something that is not a message`);
  const { role, content, tool_calls: calls, weight } = value;
  if (typeof role !== "string") throw new RecordFault(`${where} has a message without a role`);
  if (!roles.has(role))
    throw new RecordFault(
      `${where} has the role ${JSON.stringify(role.slice(0, 40))}, which is none of ${[...roles].join(", ")}`,
    );
  const empty = content === null || content === undefined;
  if (!empty && typeof content !== "string" && !isTextParts(content))
    throw new RecordFault(`${where} has content that is not text`);
  if (calls !== undefined && calls !== null && !isToolCalls(calls))
    throw new RecordFault(`${where} has tool_calls without function names`);
  const called = Array.isArray(calls) && calls.length > 0;
  if (empty && !(role === "assistant" && called))
    throw new RecordFault(`${where} has a message without content`);
  if (weight !== undefined && weight !== null) {
    if (role !== "assistant") throw new RecordFault(`${where} has a weight on a message that is no answer`);
    if (typeof weight !== "number" || !(weight >= 0 && weight <= 1))
      throw new RecordFault(`${where} has a weight that is not from 0 to 1`);
  }
  const message: TrainingMessage = { role, content: (content ?? null) as TrainingMessage["content"] };
  if (called) message.tool_calls = calls as unknown as NonNullable<ChatMessage["tool_calls"]>;
  if (typeof weight === "number") message.weight = weight;
  for (const key of ["name", "tool_call_id", "reasoning_content"] as const) {
    const text = value[key];
    if (typeof text === "string") message[key] = text;
  }
  return message;
}

const isTextParts = (content: Json): boolean =>
  Array.isArray(content) &&
  content.every((part) => isObject(part) && part.type === "text" && typeof part.text === "string");

const isToolCalls = (calls: Json): boolean =>
  Array.isArray(calls) &&
  calls.every(
    (call) =>
      isObject(call) &&
      isObject(call.function) &&
      typeof call.function.name === "string" &&
      (typeof call.function.arguments === "string" || isObject(call.function.arguments)),
  );

export function readTools(value: Json | undefined): Tool[] {
  if (value === undefined || value === null) return [];
  const wellFormed = (tool: Json): boolean =>
    isObject(tool) &&
    tool.type === "function" &&
    isObject(tool.function) &&
    typeof tool.function.name === "string";
  if (!Array.isArray(value) || !value.every(wellFormed))
    throw new RecordFault("tools is not a list of functions");
  return value as unknown as Tool[];
}

/** A text of the record, or a fault that names the key. */
export function readText(record: JsonObject, key: string): string {
  const value = record[key];
  if (typeof value === "string") return value;
  throw new RecordFault(value === undefined ? `${key} is missing` : `${key} is not text`);
}

/** The content as one text, parts joined as templates see them. */
export function contentText(message: ChatMessage): string {
  const { content } = message;
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => part.text ?? "").join("\n");
}
