/** Preference pairs: `{prompt?, chosen, rejected}` with texts or messages; Anthropic's HH transcripts; LLaMA-Factory's
 *  `{conversations, chosen: {from, value}, rejected}`. */
import { isObject, type Json, type JsonObject } from "../../text/tokenizer_file.ts";
import {
  preferenceOfConversations,
  preferenceRecord,
  readMessages,
  RecordFault,
  type Parsed,
  type TrainingMessage,
} from "../record.ts";
import type { Format } from "./format.ts";
import { readTurn, readTurns } from "./sharegpt.ts";

export const preferenceFormat: Format = {
  name: "pairs",
  keys: "chosen and rejected, with prompt or conversations",
  matches: (value) => value.chosen !== undefined && value.rejected !== undefined,
  parse(value) {
    if (value.conversations !== undefined) return sharegptPair(value);
    if (value.prompt !== undefined) return promptedPair(value);
    const { chosen, rejected } = value;
    if (typeof chosen === "string" && typeof rejected === "string")
      return preferenceOfConversations(transcript(chosen, "chosen"), transcript(rejected, "rejected"));
    return preferenceOfConversations(readMessages(chosen, "chosen"), readMessages(rejected, "rejected"));
  },
};

function sharegptPair(value: JsonObject): Parsed {
  return preferenceRecord(
    readTurns(value.conversations, "conversations"),
    [readTurn(value.chosen, "chosen")],
    [readTurn(value.rejected, "rejected")],
  );
}

/** A prompt that is an HH transcript, a question, or messages; sides that repeat the prompt are told by their first message. */
function promptedPair(value: JsonObject): Parsed {
  const prompt =
    typeof value.prompt === "string" ? promptMessages(value.prompt) : readMessages(value.prompt, "prompt");
  const side = (name: "chosen" | "rejected"): TrainingMessage[] => readSide(value[name], name);
  const [chosen, rejected] = [side("chosen"), side("rejected")];
  if (chosen[0]!.role !== "assistant" && rejected[0]!.role !== "assistant")
    return preferenceOfConversations(chosen, rejected);
  return preferenceRecord(prompt, chosen, rejected);
}

function readSide(value: Json | undefined, name: string): TrainingMessage[] {
  if (typeof value === "string") return [{ role: "assistant", content: value }];
  if (isObject(value) && "role" in value) return readMessages([value], name);
  return readMessages(value, name);
}

export function promptMessages(prompt: string): TrainingMessage[] {
  if (!turnStart.test(prompt)) return [{ role: "user", content: prompt }];
  const turns = transcript(prompt, "prompt");
  const last = turns.at(-1)!;
  return last.role === "assistant" && last.content === "" ? turns.slice(0, -1) : turns;
}

const turnStart = /^\s*Human:/;

/** HH: `\n\nHuman: ...\n\nAssistant: ...`. Only a name at the start of a paragraph begins a turn: KDP, which split at every
 *  "Human:", misread 1.7 % of the records. */
export function transcript(text: string, where: string): TrainingMessage[] {
  const parts = `\n\n${text.trimStart()}`.split(/\n\n(Human|Assistant):(?= |\n|$)/);
  if (parts[0] !== "" || parts.length < 3)
    throw new RecordFault(`${where} is neither messages nor a transcript of Human and Assistant`);
  const turns: TrainingMessage[] = [];
  for (let i = 1; i < parts.length; i += 2) {
    const role = parts[i] === "Human" ? "user" : "assistant";
    turns.push({ role, content: parts[i + 1]!.trim() });
  }
  return turns;
}
