/** OpenAI's fine-tuning format: `{"messages": [...], "tools"?: [...]}` with `weight` 0 or 1 on answers. */
import { chatRecord, readMessages, readTools } from "../record.ts";
import type { Format } from "./format.ts";

export const messagesFormat: Format = {
  name: "messages",
  keys: "messages",
  matches: (value) => Array.isArray(value.messages),
  parse: (value) => chatRecord(readMessages(value.messages, "messages"), readTools(value.tools)),
};
