/** OpenAI's fine-tuning format: `{"messages": [...], "tools"?: [...]}` with `weight` 0 or 1 on answers. */
import { chatRecord, readMessages, readTools, RecordFault } from "../record.ts";
import type { Format } from "./format.ts";

export const messagesFormat: Format = {
  name: "messages",
  keys: "messages",
  matches: (value) => Array.isArray(value.messages),
  parse(value) {
    // Training on an answer that somebody labelled bad must be asked for.
    if (typeof value.label === "boolean" || typeof value.kto_tag === "boolean")
      throw new RecordFault("it has a label, which this format would ignore: name the format labelled");
    return chatRecord(readMessages(value.messages, "messages"), readTools(value.tools));
  },
};
