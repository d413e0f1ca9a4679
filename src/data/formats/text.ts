/** Plain text for continued pre-training: `{"text": ...}` records; .txt files come here as such records too. */
import { readText, RecordFault } from "../record.ts";
import type { Format } from "./format.ts";

export const textFormat: Format = {
  name: "text",
  keys: "text",
  matches: (value) => typeof value.text === "string",
  parse(value) {
    const text = readText(value, "text");
    if (text.trim() === "") throw new RecordFault("the text is empty");
    return { record: { kind: "text", text }, repairs: [] };
  },
};
