/** Splits long dialogues between exchanges (a question and everything up to the next one).
 *  Always: nothing is lost: the pieces' exchanges, laid end to end, are the dialogue's, also the last one and one that is
 *  longer than the limit alone, which stays a piece of its own; no piece is empty; system messages stand before each. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { contentText, type TrainingMessage } from "../record.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";

export const splitOptions = z.strictObject({
  rule: z.literal("split"),
  /** Longest piece. */
  max: z.int().min(1),
  unit: z.enum(["tokens", "characters"]).default("tokens"),
  /** Added for each turn, for the template's own tokens; FastChat's figure. */
  per_turn: z.int().min(0).default(6),
  /** One exchange that is longer than `max`. */
  oversize: z.enum(["keep", "drop"]).default("keep"),
});

export class Split implements Filter {
  readonly name = "split";

  /** `count` is the length of a text in the options' unit. */
  constructor(
    private readonly options: z.output<typeof splitOptions>,
    private readonly count: (text: string) => number,
  ) {}

  apply(dialogue: Dialogue): Outcome {
    const { record } = dialogue;
    const { max, oversize } = this.options;
    // Both sides of a preference record hang on one prompt: it has nothing to split.
    if (record.kind !== "chat" || this.length(record.messages) <= max) return kept(dialogue);
    const { head, exchanges } = exchangesOf(record.messages);
    const { pieces, long } = this.packed(exchanges, max - this.length(head));
    const notes = long > 0 ? [`an exchange is longer than ${max} ${this.options.unit}`] : [];
    if (long > 0 && oversize === "drop") return dropped(notes[0]!);
    if (pieces.length === 1) return kept(dialogue, notes);
    const parts = pieces.map((messages, i) => ({
      ...dialogue,
      id: `${dialogue.id}#${i + 1}`,
      record: { ...record, messages: [...head, ...messages] },
    }));
    return { kept: parts, changes: ["split at turn boundaries"], notes };
  }

  private packed(
    exchanges: TrainingMessage[][],
    room: number,
  ): { pieces: TrainingMessage[][]; long: number } {
    const pieces: TrainingMessage[][] = [];
    let used = 0;
    let long = 0;
    for (const exchange of exchanges) {
      const length = this.length(exchange);
      if (length > room) long++;
      if (pieces.length > 0 && used + length <= room) {
        pieces.at(-1)!.push(...exchange);
        used += length;
      } else {
        pieces.push([...exchange]);
        used = length;
      }
    }
    return { pieces, long };
  }

  private length(messages: readonly TrainingMessage[]): number {
    const { per_turn: perTurn } = this.options;
    return messages.reduce((sum, message) => sum + this.count(contentText(message)) + perTurn, 0);
  }
}

function exchangesOf(messages: readonly TrainingMessage[]): {
  head: TrainingMessage[];
  exchanges: TrainingMessage[][];
} {
  const isSystem = ({ role }: TrainingMessage): boolean => role === "system" || role === "developer";
  const start = messages.findIndex((message) => !isSystem(message));
  const exchanges: TrainingMessage[][] = [];
  for (const message of messages.slice(Math.max(start, 0))) {
    if (exchanges.length > 0 && message.role !== "user") exchanges.at(-1)!.push(message);
    // Questions in a row belong together: a piece must not end with one.
    else if (exchanges.at(-1)?.at(-1)?.role === "user") exchanges.at(-1)!.push(message);
    else exchanges.push([message]);
  }
  return { head: messages.slice(0, Math.max(start, 0)), exchanges };
}
