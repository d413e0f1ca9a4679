/** ShareGPT, in the shapes in which it is passed on: FastChat's `{conversations: [{from, value}]}` (with role and content for
 *  from and value, or `items` for conversations), and KDP's `{human_0, gpt_1, human_2, ...}`, ordered by the number.
 *  Answers that were saved as the page's HTML become Markdown. Role order and empty turns are left to the filters. */
import type { JsonObject } from "../../text/tokenizer_file.ts";
import { sharegptFormat } from "../formats/sharegpt.ts";
import { htmlToMarkdown } from "../html_markdown.ts";
import {
  chatRecord,
  contentText,
  readText,
  RecordFault,
  type ChatRecord,
  type TrainingMessage,
} from "../record.ts";
import type { Source, SourceItem } from "./source.ts";

export const sharegptSource: Source = {
  name: "sharegpt",
  about: "Shared ChatGPT conversations, as FastChat, page dumps or Koala's pipeline store them.",
  keys: "conversations (from and value, or role and content), or human_0 and gpt_1",
  licence: null,
  options: {
    html: {
      about: "Turns saved as HTML become Markdown, or stay as they are.",
      type: "string",
      default: "markdown",
      choices: ["markdown", "keep"],
    },
  },
  matches: (value) => Array.isArray(value.conversations) || Array.isArray(value.items) || isNumbered(value),
  parse(value, { html }) {
    const item = isNumbered(value)
      ? numbered(value)
      : fromFormat(value.conversations === undefined ? { ...value, conversations: value.items! } : value);
    if (html === "keep") return [item];
    const { messages } = item.record;
    const converted = messages.map(toMarkdown);
    if (converted.every((message, i) => message === messages[i])) return [item];
    return [
      {
        ...item,
        record: { ...(item.record as ChatRecord), messages: converted },
        repairs: [...(item.repairs ?? []), "HTML was turned into Markdown"],
      },
    ];
  },
};

/** What users paste is theirs: of their turns only those that the page itself wrapped are converted. */
function toMarkdown(message: TrainingMessage): TrainingMessage {
  const before = contentText(message);
  if (message.role === "user" && !/^\s*<div class="[^"]*whitespace-pre-wrap/.test(before)) return message;
  const { text, changed } = htmlToMarkdown(before);
  return changed ? { ...message, content: text } : message;
}

function fromFormat(value: JsonObject): SourceItem {
  const { record, repairs } = sharegptFormat.parse(value, {});
  const tags: { [name: string]: string } = {};
  for (const key of ["id", "model", "lang"])
    if (typeof value[key] === "string" && value[key] !== "") tags[key] = value[key];
  return { record: record as ChatRecord, repairs, tags };
}

const numberedKey = /^(human|gpt|gpt_bad)_(\d{1,6})$/;

const isNumbered = (value: JsonObject): boolean => Object.keys(value).some((key) => numberedKey.test(key));

/** Koala's own records: of the answers, all are `gpt_n` or all `gpt_bad_n`, which asks for the negative marker. */
function numbered(value: JsonObject): SourceItem {
  const turns = Object.keys(value).flatMap((key) => {
    const [, speaker, index] = numberedKey.exec(key) ?? [];
    return speaker ? [{ key, speaker, index: Number(index) }] : [];
  });
  turns.sort((a, b) => a.index - b.index);
  const answers = new Set(turns.map(({ speaker }) => speaker).filter((speaker) => speaker !== "human"));
  if (answers.size > 1) throw new RecordFault("the record mixes good and bad answers");
  const first = turns.findIndex(({ speaker }) => speaker === "human");
  if (first < 0) throw new RecordFault("the conversation has no question");
  const { record, repairs } = chatRecord(
    turns.slice(first).map(({ key, speaker }) => ({
      role: speaker === "human" ? "user" : "assistant",
      content: readText(value, key),
    })),
    [],
    first > 0 ? ["answers before the first question were cut off"] : [],
  );
  return {
    record: record as ChatRecord,
    marker: answers.has("gpt_bad") ? "negative" : "positive",
    repairs,
  };
}
