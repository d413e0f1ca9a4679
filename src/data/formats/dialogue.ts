/** Curated files: one dialogue a line as curation writes them (data/dialogue.ts). Training takes the record and its marker. */
import { isObject, type JsonObject } from "../../text/tokenizer_file.ts";
import {
  chatRecord,
  preferenceRecord,
  readMessages,
  readTools,
  RecordFault,
  type ChatRecord,
  type Parsed,
} from "../record.ts";
import type { Format } from "./format.ts";

export const dialogueFormat: Format = {
  name: "dialogue",
  keys: 'kind "dialogue", record and marker',
  matches: (value) => value.kind === "dialogue" && isObject(value.record),
  parse(value) {
    if (!isObject(value.record)) throw new RecordFault("record is missing");
    const { record, marker } = value;
    if (marker !== "positive" && marker !== "negative")
      throw new RecordFault("marker is neither positive nor negative");
    if (record.kind === "preference") return pair(record);
    if (record.kind !== "chat") throw new RecordFault("the record is neither chat nor preference");
    const parsed = chatRecord(readMessages(record.messages, "record.messages"), readTools(record.tools));
    return { ...parsed, record: { ...(parsed.record as ChatRecord), marker } };
  },
};

function pair(record: JsonObject): Parsed {
  // A prompt may be empty: sides may differ from their first message on.
  const messages =
    Array.isArray(record.messages) && record.messages.length === 0
      ? []
      : readMessages(record.messages, "record.messages");
  return preferenceRecord(
    messages,
    readMessages(record.chosen, "record.chosen"),
    readMessages(record.rejected, "record.rejected"),
    readTools(record.tools),
  );
}
