/** Order of roles: system messages first, then questions and answers in turn, from a question to an answer.
 *  Always: `repair` cuts answers before the first question and questions after the last answer, as FastChat does; what then
 *  still does not alternate is dropped; nothing is reordered and no text is made up. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { rolesAlternate } from "../lints.ts";
import type { TrainingMessage } from "../record.ts";
import { changed, dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { conversations } from "./texts.ts";

export const roleOptions = z.strictObject({
  rule: z.literal("roles"),
  order: z.enum(["repair", "drop"]).default("repair"),
});

export class Roles implements Filter {
  readonly name = "roles";

  constructor(private readonly options: z.output<typeof roleOptions>) {}

  apply(dialogue: Dialogue): Outcome {
    const fault = faultOf(dialogue);
    if (fault === null) return kept(dialogue);
    if (this.options.order === "drop") return dropped(fault);
    const changes: string[] = [];
    const repaired = { ...dialogue, record: repair(dialogue.record, changes) };
    const left = faultOf(repaired);
    return left === null && changes.length > 0 ? changed(repaired, ...changes) : dropped(left ?? fault);
  }
}

function faultOf(dialogue: Dialogue): string | null {
  for (const messages of conversations(dialogue)) {
    const spoken = messages.filter(({ role }) => role !== "system" && role !== "developer");
    if (!spoken.some(({ role }) => role === "user")) return "there is no question";
    if (!spoken.some(({ role }) => role === "assistant")) return "there is no answer";
    if (spoken[0]!.role !== "user") return "the dialogue begins with an answer";
    if (spoken.at(-1)!.role !== "assistant") return "the dialogue ends with a question";
    if (!rolesAlternate(messages)) return "questions and answers do not alternate";
  }
  return null;
}

function repair(record: Dialogue["record"], changes: string[]): Dialogue["record"] {
  const messages = withoutLeadingAnswers(record.messages, changes);
  // The sides of a preference record end with answers already.
  if (record.kind === "preference") return { ...record, messages };
  const last = messages.findLastIndex(({ role }) => role === "assistant");
  if (last >= 0 && last < messages.length - 1) changes.push("messages after the last answer were cut off");
  return { ...record, messages: last < 0 ? messages : messages.slice(0, last + 1) };
}

function withoutLeadingAnswers(messages: TrainingMessage[], changes: string[]): TrainingMessage[] {
  const first = messages.findIndex(({ role }) => role === "user");
  const isSystem = ({ role }: TrainingMessage): boolean => role === "system" || role === "developer";
  if (first < 0 || messages.slice(0, first).every(isSystem)) return messages;
  changes.push("answers before the first question were cut off");
  return [...messages.slice(0, first).filter(isSystem), ...messages.slice(first)];
}
