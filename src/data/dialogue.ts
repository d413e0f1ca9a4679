/** A dialogue on its way from a raw file through filters into a mixture, with where it came from.
 *  Always: an id is unique within a study and equal on every run over the same files; filters change `record` or drop the
 *  dialogue, never its origin. On disk a dialogue is one line of JSON, this object as it is. */
import type { ChatRecord, PreferenceRecord } from "./record.ts";

export interface Dialogue {
  kind: "dialogue";
  /** `<source>/<file>:<line>`, with `#n` behind it where one raw record gives several or a long one was split. */
  id: string;
  /** The source's name in the recipe; by default its parser's name. */
  source: string;
  /** Base name of the raw file, and the line (or, in parquet, the row) that the raw record began on, from 1. */
  file: string;
  line: number;
  /** SPDX or plain words; null where the source states none. */
  licence: string | null;
  /** What is trained on. Of a preference record, both sides. */
  record: ChatRecord | PreferenceRecord;
  /** The marker in front of the answers of a chat record; preference records say it by their sides. */
  marker: "positive" | "negative";
  /** What the source knows besides, such as HC3's `origin: reddit_eli5`. */
  tags: { [name: string]: string };
}

/** A raw record or a dialogue that went no further, and why. One line of JSON in a stage's dropped file. */
export interface Drop {
  /** The dialogue's id; of a raw record that gave none, `<source>/<file>:<line>`. */
  id: string;
  /** `parse`, or the filter's name. */
  rule: string;
  /** Equal reasons have equal words, so that they can be counted. */
  reason: string;
  /** What shows it: the other dialogue of a duplicate, the matched word, the evaluation query and its score. */
  detail: string | null;
  /** The first 200 characters of the first user turn, or of the raw line. */
  excerpt: string;
}

/** The texts of the user's turns, in order; of a preference record, those of the prompt. */
export function userTurns(dialogue: Dialogue): string[] {
  return dialogue.record.messages
    .filter(({ role }) => role === "user")
    .map((message) => textOf(message.content));
}

function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  return Array.isArray(content) ? content.map((part: { text?: string }) => part.text ?? "").join("\n") : "";
}
