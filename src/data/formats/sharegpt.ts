/** ShareGPT as FastChat stores it: `{"conversations": [{"from": "human"|"gpt"|"system", "value"}]}`;
 *  some dumps call these role and content. */
import { isObject, type Json } from "../../text/tokenizer_file.ts";
import { chatRecord, RecordFault, type TrainingMessage } from "../record.ts";
import type { Format } from "./format.ts";

export const sharegptFormat: Format = {
  name: "sharegpt",
  keys: "conversations",
  matches: (value) => Array.isArray(value.conversations),
  parse(value) {
    const turns = readTurns(value.conversations, "conversations");
    if (typeof value.system === "string" && value.system !== "")
      turns.unshift({ role: "system", content: value.system });
    // Pages shared from the middle begin with an answer to a question that nobody has.
    const start = turns.findIndex((turn) => turn.role === "user");
    if (start < 0) throw new RecordFault("the conversation has no question");
    const kept = turns.filter((turn, i) => i >= start || turn.role === "system");
    const repairs = kept.length < turns.length ? ["answers before the first question were cut off"] : [];
    return chatRecord(kept, [], repairs);
  },
};

const roles: { [from: string]: string } = {
  human: "user",
  user: "user",
  gpt: "assistant",
  assistant: "assistant",
  chatgpt: "assistant",
  bing: "assistant",
  bard: "assistant",
  system: "system",
};

export function readTurns(value: Json | undefined, where: string): TrainingMessage[] {
  if (!Array.isArray(value) || value.length === 0) throw new RecordFault(`${where} is not a list of turns`);
  return value.map((turn) => readTurn(turn, where));
}

export function readTurn(turn: Json | undefined, where: string): TrainingMessage {
  const from = isObject(turn) ? (turn.from ?? turn.role) : null;
  const content = isObject(turn) ? (turn.value ?? turn.content) : null;
  if (typeof from !== "string" || typeof content !== "string")
    throw new RecordFault(`${where} has a turn without from and value`);
  if (!Object.hasOwn(roles, from))
    throw new RecordFault(`${where} has a turn from neither human, gpt nor system`);
  return { role: roles[from]!, content };
}
