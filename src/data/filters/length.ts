/** Drops dialogues that are too short or too long, by characters (UTF-16 units) or by turns. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { contentText } from "../record.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { conversations } from "./texts.ts";

const count = z.int().min(0).optional();

export const lengthOptions = z.strictObject({
  rule: z.literal("length"),
  /** Of all turns together; of a preference record, of its longer side. */
  min_characters: count,
  max_characters: count,
  /** Of each answer. */
  min_answer_characters: count,
  max_answer_characters: count,
  /** Messages of any role. */
  min_turns: count,
  max_turns: count,
});

type Options = z.output<typeof lengthOptions>;

export class Length implements Filter {
  readonly name = "length";

  constructor(private readonly options: Options) {}

  apply(dialogue: Dialogue): Outcome {
    const sides = conversations(dialogue);
    const characters = sides.map((side) => side.reduce((sum, one) => sum + contentText(one).length, 0));
    const answers = sides.flatMap((side) =>
      side.filter(({ role }) => role === "assistant").map((one) => contentText(one).length),
    );
    const limits = this.options;
    const fault =
      outside("the dialogue", characters, "characters", limits.min_characters, limits.max_characters) ??
      outside(
        "an answer",
        answers,
        "characters",
        limits.min_answer_characters,
        limits.max_answer_characters,
      ) ??
      outside(
        "the dialogue",
        sides.map(({ length }) => length),
        "turns",
        limits.min_turns,
        limits.max_turns,
      );
    return fault ?? kept(dialogue);
  }
}

function outside(
  what: string,
  values: readonly number[],
  unit: string,
  least = 0,
  most = Infinity,
): Outcome | null {
  // A loop and not Math.max(...values): a dialogue may have more answers than a call has arguments.
  for (const value of values) {
    if (value < least) return dropped(`${what} has fewer than ${least} ${unit}`, `${value} ${unit}`);
    if (value > most) return dropped(`${what} has more than ${most} ${unit}`, `${value} ${unit}`);
  }
  return null;
}
