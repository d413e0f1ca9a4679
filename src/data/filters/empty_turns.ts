/** Turns without text: the dialogue is dropped, or cut before the exchange that holds the first empty turn.
 *  Always: white space and zero-width signs are no text; an answer that is a tool call may be empty. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { contentText, type TrainingMessage } from "../record.ts";
import { changed, dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { allMessages } from "./texts.ts";

export const emptyTurnOptions = z.strictObject({
  rule: z.literal("empty_turns"),
  /** cut: keeps the exchanges before the empty turn. */
  action: z.enum(["drop", "cut"]).default("drop"),
});

export class EmptyTurns implements Filter {
  readonly name = "empty_turns";

  constructor(private readonly options: z.output<typeof emptyTurnOptions>) {}

  apply(dialogue: Dialogue): Outcome {
    const empty = allMessages(dialogue).find(isEmpty);
    if (empty === undefined) return kept(dialogue);
    const reason = `a turn of the ${empty.role} is empty`;
    const { record } = dialogue;
    if (this.options.action === "drop" || record.kind !== "chat") return dropped(reason);
    const first = record.messages.findIndex(isEmpty);
    const end = record.messages.slice(0, first).findLastIndex(({ role }) => role === "user");
    const cut = empty.role === "user" ? first : end;
    const messages = record.messages.slice(0, Math.max(cut, 0));
    if (messages.at(-1)?.role !== "assistant") return dropped(reason);
    return changed({ ...dialogue, record: { ...record, messages } }, "cut before an empty turn");
  }
}

const isEmpty = (message: TrainingMessage): boolean =>
  !message.tool_calls &&
  contentText(message)
    .replace(/[\u200b-\u200d\u2060\ufeff]/g, "")
    .trim() === "";
