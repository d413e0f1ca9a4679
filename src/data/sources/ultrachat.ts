/** UltraChat in its two shapes: `{prompt, messages}` (the 200k set), and `{id, data: [question, answer, question, ...]}`. */
import type { Json } from "../../text/tokenizer_file.ts";
import { chatRecord, readMessages, RecordFault, type ChatRecord, type TrainingMessage } from "../record.ts";
import type { Source } from "./source.ts";

export const ultrachatSource: Source = {
  name: "ultrachat",
  about: "Conversations of UltraChat: messages with their prompt, or a list of texts in turn.",
  keys: "prompt and messages, or data as a list of texts",
  licence: "MIT",
  matches: (value) =>
    (typeof value.prompt === "string" && Array.isArray(value.messages)) ||
    (Array.isArray(value.data) && typeof value.data[0] === "string"),
  parse(value) {
    const messages =
      value.data === undefined ? readMessages(value.messages, "messages") : textsInTurn(value.data);
    const { record, repairs } = chatRecord(messages);
    return [{ record: record as ChatRecord, repairs }];
  },
};

function textsInTurn(value: Json): TrainingMessage[] {
  if (!Array.isArray(value) || !value.every((text) => typeof text === "string"))
    throw new RecordFault("data is not a list of texts");
  return value.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));
}
