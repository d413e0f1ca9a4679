/** Drops dialogues in which a word of a list stands: by default the original's list, which removes talk about OpenAI's models.
 *  Always: case does not matter; the original's substring search, which also finds "open ai" in "open air", is `substring`. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { contentText } from "../record.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { allMessages } from "./texts.ts";

/** koala_data_pipeline's list for ShareGPT. */
export const originalKeywords = [
  "openai",
  "chatgpt",
  "gpt-3",
  "chadgpt",
  "gpt3",
  "chat-gpt",
  "open-ai",
  "open ai",
];

export const keywordOptions = z.strictObject({
  rule: z.literal("keywords"),
  words: z.array(z.string().min(1)).min(1).default(originalKeywords),
  /** word: not inside another word ("gpt-3" is found in "GPT-3.5", "open ai" not in "open air"); substring: anywhere, as
   *  the original does. */
  match: z.enum(["word", "substring"]).default("word"),
});

export class Keywords implements Filter {
  readonly name = "keywords";
  private readonly pattern: RegExp;

  constructor({ words, match }: z.output<typeof keywordOptions>) {
    const any = words.map((word) => RegExp.escape(word)).join("|");
    this.pattern =
      match === "substring"
        ? new RegExp(any, "iu")
        : new RegExp(`(?<![\\p{L}\\p{N}])(?:${any})(?![\\p{L}\\p{N}])`, "iu");
  }

  apply(dialogue: Dialogue): Outcome {
    for (const message of allMessages(dialogue)) {
      const text = contentText(message);
      const found = this.pattern.exec(text);
      if (!found) continue;
      const around = text.slice(Math.max(0, found.index - 30), found.index + found[0].length + 30);
      return dropped(
        `holds the word "${found[0].toLowerCase()}"`,
        `${message.role}: …${around.replaceAll("\n", " ")}…`,
      );
    }
    return kept(dialogue);
  }
}
