/** Drops dialogues whose answers speak of themselves as a language model, or refuse in such words.
 *  Always: only answers that are trained as good ones are looked at: the chosen side, never the rejected one. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { contentText } from "../record.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { conversations } from "./texts.ts";

const phrases = [
  "as an ai language model",
  "as a language model",
  "as an ai assistant",
  "as an ai model",
  "i'm just an ai",
  "i am just an ai",
  "i'm an ai language model",
  "i am an ai language model",
];

export const refusalOptions = z.strictObject({
  rule: z.literal("refusals"),
  phrases: z.array(z.string().min(1)).min(1).default(phrases),
  /** start: in the first 200 characters of an answer; anywhere. */
  where: z.enum(["start", "anywhere"]).default("anywhere"),
});

export class Refusals implements Filter {
  readonly name = "refusals";

  constructor(private readonly options: z.output<typeof refusalOptions>) {}

  apply(dialogue: Dialogue): Outcome {
    if (dialogue.marker === "negative") return kept(dialogue);
    const [messages = []] = conversations(dialogue);
    for (const message of messages) {
      if (message.role !== "assistant") continue;
      const text = contentText(message).toLowerCase().replaceAll("’", "'");
      const part = this.options.where === "start" ? text.slice(0, 200) : text;
      const found = this.options.phrases.find((phrase) => part.includes(phrase.toLowerCase()));
      if (found !== undefined) return dropped(`an answer says "${found}"`);
    }
    return kept(dialogue);
  }
}
