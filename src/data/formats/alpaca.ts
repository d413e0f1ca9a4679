/** Alpaca: `{"instruction", "input", "output"}`, with LLaMA-Factory's optional `system` and `history`.
 *  Instruction and input are joined by an empty line (Koala joined them by a space, which loses the boundary). */
import type { JsonObject } from "../../text/tokenizer_file.ts";
import { chatRecord, readText, RecordFault, type Parsed, type TrainingMessage } from "../record.ts";
import type { Format } from "./format.ts";

export const alpacaFormat: Format = {
  name: "alpaca",
  keys: "instruction and output",
  matches: (value) => typeof value.instruction === "string" && typeof value.output === "string",
  parse: (value) => alpacaRecord(value),
};

export function alpacaRecord(value: JsonObject, joiner = "\n\n"): Parsed {
  const instruction = readText(value, "instruction");
  const input = value.input === undefined || value.input === null ? "" : readText(value, "input");
  const messages: TrainingMessage[] = [];
  if (typeof value.system === "string" && value.system !== "")
    messages.push({ role: "system", content: value.system });
  for (const pair of Array.isArray(value.history) ? value.history : []) {
    if (!Array.isArray(pair) || typeof pair[0] !== "string" || typeof pair[1] !== "string")
      throw new RecordFault("history is not a list of pairs");
    messages.push({ role: "user", content: pair[0] }, { role: "assistant", content: pair[1] });
  }
  messages.push({ role: "user", content: input === "" ? instruction : `${instruction}${joiner}${input}` });
  messages.push({ role: "assistant", content: readText(value, "output") });
  return chatRecord(messages);
}
