/** The texts of a dialogue, to look at and to change: what every filter needs.
 *  Always: a changed dialogue is a new object; messages that did not change are the same objects as before. */
import type { Dialogue } from "../dialogue.ts";
import { contentText, type TrainingMessage } from "../record.ts";

/** Every message in order; of a preference record the prompt, then the chosen, then the rejected side. */
export function allMessages({ record }: Dialogue): TrainingMessage[] {
  if (record.kind === "chat") return record.messages;
  return [...record.messages, ...record.chosen, ...record.rejected];
}

/** The conversations that are trained on: one, or the two sides of a preference record, each from the start. */
export function conversations({ record }: Dialogue): TrainingMessage[][] {
  if (record.kind === "chat") return [record.messages];
  return [
    [...record.messages, ...record.chosen],
    [...record.messages, ...record.rejected],
  ];
}

export const allText = (dialogue: Dialogue): string => allMessages(dialogue).map(contentText).join("\n");

/** Length in UTF-16 units, without joining. */
export const textLength = (dialogue: Dialogue): number =>
  allMessages(dialogue).reduce((sum, message) => sum + contentText(message).length, 0);

/** Changes every text; null where `change` left all of them alone. */
export function mapTexts(
  dialogue: Dialogue,
  change: (text: string, message: TrainingMessage) => string,
): Dialogue | null {
  let changed = false;
  const mapOne = (message: TrainingMessage): TrainingMessage => {
    const content = mapContent(message, change);
    if (content === message.content) return message;
    changed = true;
    const { ids: _, ...rest } = message; // ids of the old text would be trained on instead of the new one
    return { ...rest, content };
  };
  const record = mapMessages(dialogue.record, (messages) => messages.map(mapOne));
  return changed ? { ...dialogue, record } : null;
}

export function mapMessages(
  record: Dialogue["record"],
  change: (messages: TrainingMessage[]) => TrainingMessage[],
): Dialogue["record"] {
  if (record.kind === "chat") return { ...record, messages: change(record.messages) };
  const { messages, chosen, rejected } = record;
  return { ...record, messages: change(messages), chosen: change(chosen), rejected: change(rejected) };
}

function mapContent(
  message: TrainingMessage,
  change: (text: string, message: TrainingMessage) => string,
): TrainingMessage["content"] {
  const { content } = message;
  if (typeof content === "string") return change(content, message);
  if (!Array.isArray(content)) return content;
  const parts = content.map((part) => {
    const text = part.text === undefined ? undefined : change(part.text, message);
    return text === part.text ? part : { ...part, text: text! };
  });
  return parts.every((part, i) => part === content[i]) ? content : parts;
}

/** NFKC, lower-case, runs of white space as one space: texts that a reader takes for the same. */
export const normalized = (text: string): string =>
  text.normalize("NFKC").toLowerCase().replace(/\s+/g, " ").trim();

/** What a drop shows of its dialogue: the first 200 characters of the first user turn, or of the first message. */
export function excerptOf(dialogue: Dialogue): string {
  const messages = allMessages(dialogue);
  const first = messages.find(({ role }) => role === "user") ?? messages[0];
  return first ? contentText(first).slice(0, 200) : "";
}
