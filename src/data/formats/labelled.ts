/** Answers labelled good or bad, for KTO: TRL's `{prompt, completion, label}` and `{messages, label}`, LLaMA-Factory's ShareGPT
 *  and Alpaca records with `kto_tag`, and `{input: {messages}, output, label}` beside OpenAI's preference format. */
import { isObject, type Json, type JsonObject } from "../../text/tokenizer_file.ts";
import {
  labelledRecord,
  readMessages,
  readText,
  readTools,
  RecordFault,
  type Parsed,
  type TrainingMessage,
} from "../record.ts";
import { alpacaFormat } from "./alpaca.ts";
import type { Format, FormatOptions } from "./format.ts";
import { promptMessages } from "./preference.ts";
import { readTurns } from "./sharegpt.ts";

export const labelledFormat: Format = {
  name: "labelled",
  keys: "label or kto_tag, with messages, conversations, prompt and completion, or instruction and output",
  matches: (value) => isLabel(value.label ?? value.kto_tag) && shapeOf(value) !== null,
  parse(value, options) {
    const good = readLabel(value.label ?? value.kto_tag);
    const tools = readTools(value.tools);
    switch (shapeOf(value)) {
      case "completion":
        return labelledRecord(
          readPrompt(value.prompt),
          readAnswer(value.completion, "completion"),
          good,
          tools,
        );
      case "input": {
        const input = value.input as JsonObject;
        const messages = readMessages(input.messages, "input.messages");
        return labelledRecord(messages, readAnswer(value.output, "output"), good, readTools(input.tools));
      }
      case "messages":
        return labelledRecord(readMessages(value.messages, "messages"), null, good, tools);
      case "conversations":
        return labelledRecord(readConversation(value), null, good, tools);
      case "alpaca":
        return alpaca(value, options, good);
      default:
        throw new RecordFault("a labelled answer has no conversation");
    }
  },
};

function shapeOf(value: JsonObject): "completion" | "input" | "messages" | "conversations" | "alpaca" | null {
  if (value.prompt !== undefined && value.completion !== undefined) return "completion";
  if (isObject(value.input) && value.output !== undefined) return "input";
  // LLaMA-Factory names a list of ShareGPT turns either way.
  const turns = Array.isArray(value.messages) && isObject(value.messages[0]) && "from" in value.messages[0];
  if (Array.isArray(value.conversations) || turns) return "conversations";
  if (Array.isArray(value.messages)) return "messages";
  return typeof value.instruction === "string" && typeof value.output === "string" ? "alpaca" : null;
}

const isLabel = (value: Json | undefined): boolean =>
  typeof value === "boolean" || value === 0 || value === 1;

function readLabel(value: Json | undefined): boolean {
  if (!isLabel(value)) throw new RecordFault("the label is neither true nor false");
  return value === true || value === 1;
}

const readPrompt = (prompt: Json | undefined): TrainingMessage[] =>
  typeof prompt === "string" ? promptMessages(prompt) : readMessages(prompt, "prompt");

function readAnswer(value: Json | undefined, where: string): TrainingMessage[] {
  if (typeof value === "string") return [{ role: "assistant", content: value }];
  return readMessages(isObject(value) ? [value] : value, where);
}

function readConversation(value: JsonObject): TrainingMessage[] {
  const turns = readTurns(value.conversations ?? value.messages, "conversations");
  if (value.system === undefined || value.system === null || value.system === "") return turns;
  return [{ role: "system", content: readText(value, "system") }, ...turns];
}

function alpaca(value: JsonObject, options: FormatOptions, good: boolean): Parsed {
  const { record } = alpacaFormat.parse(value, options);
  if (record.kind !== "chat") throw new Error("an Alpaca record is a conversation");
  return labelledRecord(record.messages, null, good, record.tools);
}
