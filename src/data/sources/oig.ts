/** OIG (LAION): `{"text": "<human>: ...\n<bot>: ...", "metadata"?}`, also with a background text before the first speaker.
 *  Koala's pipeline stopped at the first odd record; here each gets a verdict. */
import { isObject } from "../../text/tokenizer_file.ts";
import { chatRecord, contentText, readText, RecordFault, type TrainingMessage } from "../record.ts";
import type { Source, SourceItem } from "./source.ts";
import { regularTurns } from "./turns.ts";

export const oigSource: Source = {
  name: "oig",
  about: "Subsets of OIG: texts with <human>: and <bot>: turns.",
  keys: "text with <human>: and <bot>:",
  licence: "Apache-2.0",
  options: {
    leading: {
      about:
        "Text before the first speaker goes in front of the first question, or away as in Koala's pipeline.",
      type: "string",
      default: "question",
      choices: ["question", "drop"],
    },
  },
  matches: (value) => typeof value.text === "string" && /<(human|bot)>:/.test(value.text),
  parse(value, options) {
    const text = readText(value, "text");
    const repairs: string[] = [];
    let parts = split(text, /(?:^|\n)[ \t]*<(human|bot)>:/);
    if (parts.turns.every(({ role }) => role === "user") && /<bot>:/.test(text)) {
      parts = split(text, /<(human|bot)>:/);
      repairs.push("speakers were marked inside a line");
    }
    const { leading } = parts;
    const regular = regularTurns(parts.turns);
    const start = regular.messages.findIndex(({ role }) => role === "user");
    if (start < 0) throw new RecordFault("the text has no <human>: turn");
    const messages = regular.messages.slice(start);
    repairs.push(...regular.repairs);
    if (start > 0) repairs.push("answers before the first question were cut off");
    if (leading !== "" && options.leading === "drop")
      repairs.push("text before the first speaker was dropped");
    else if (leading !== "")
      messages[0] = { role: "user", content: `${leading}\n\n${contentText(messages[0]!)}` };
    const parsed = chatRecord(messages, [], repairs);
    if (parsed.record.kind !== "chat" || contentText(parsed.record.messages.at(-1)!) === "")
      throw new RecordFault("the last answer is empty");
    const from = isObject(value.metadata) ? value.metadata.source : undefined;
    const item: SourceItem = { record: parsed.record, repairs: parsed.repairs };
    if (typeof from === "string") item.tags = { origin: from };
    return [item];
  },
};

function split(text: string, mark: RegExp): { leading: string; turns: TrainingMessage[] } {
  const parts = text.split(mark);
  const turns: TrainingMessage[] = [];
  for (let i = 1; i < parts.length; i += 2)
    turns.push({ role: parts[i] === "human" ? "user" : "assistant", content: parts[i + 1]!.trim() });
  return { leading: parts[0]!.trim(), turns };
}
