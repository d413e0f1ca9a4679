/** HH transcripts as Koala's own pipeline cut them, with its two faults, each by its own switch: for data that must be the
 *  original's, and to count what the faults do. Source: koala_data_pipeline, create_hf_data_v2.py, process_dialogue. */
import { transcript } from "../formats/preference.ts";
import { contentText, RecordFault, type TrainingMessage } from "../record.ts";
import type { SourceItem } from "./source.ts";

export interface HhFaults {
  /** Every "Human:" and "Assistant:" begins a turn, also inside a text; what follows a second "Assistant:" is lost. */
  anywhere: boolean;
  /** A question without a reply is answered by itself. */
  echo: boolean;
}

/** Both sides, each a conversation of its own: what they share cannot be told once they are cut differently. */
export function koalaSides(chosen: string, rejected: string, faults: HhFaults): SourceItem[] {
  return [
    { record: side(chosen, faults), marker: "positive" },
    { record: side(rejected, faults), marker: "negative" },
  ];
}

function side(text: string, { anywhere, echo }: HhFaults): Extract<SourceItem["record"], { kind: "chat" }> {
  const exchanges = anywhere ? cutAnywhere(text) : cutAtParagraphs(text);
  const messages = exchanges.flatMap(({ question, reply }): TrainingMessage[] => {
    const answer = reply ?? (echo ? question : null);
    if (answer === null) return [];
    return [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ];
  });
  if (messages.length === 0) throw new RecordFault("the transcript has no question with a reply");
  return { kind: "chat", messages, tools: [] };
}

interface Exchange {
  question: string;
  reply: string | null;
}

const cutAnywhere = (text: string): Exchange[] =>
  text
    .split("Human:")
    .slice(1)
    .map((part) => {
      const [question = "", reply] = part.split("Assistant:");
      return { question: question.trim(), reply: reply === undefined ? null : reply.trim() };
    });

function cutAtParagraphs(text: string): Exchange[] {
  const exchanges: Exchange[] = [];
  for (const message of transcript(text, "a side")) {
    const content = contentText(message);
    const last = exchanges.at(-1);
    if (message.role === "user") exchanges.push({ question: content, reply: null });
    else if (last && last.reply === null) last.reply = content;
  }
  return exchanges;
}
