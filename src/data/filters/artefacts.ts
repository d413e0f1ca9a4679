/** What scraping left in texts: HTML, page counters, "Copy code" buttons, length labels, and error messages as answers.
 *  Always: each rule is named and counted; a rule that finds nothing leaves the text as it was, to the letter. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { htmlToMarkdown } from "../html_markdown.ts";
import { contentText, type TrainingMessage } from "../record.ts";
import { dropped, type Filter, type Outcome } from "./filter.ts";
import { withoutPageCounter } from "./page_counter.ts";
import { allMessages, mapTexts } from "./texts.ts";

const cleaners = ["html", "page-counter", "copy-code", "copy-chars"] as const;
const judges = ["error-answers", "wrong-lists"] as const;

export const artefactOptions = z.strictObject({
  rule: z.literal("artefacts"),
  /** html: scraped HTML to Markdown; page-counter: `2 / 2` before a turn; copy-code: labels of buttons around code;
   *  copy-chars: "Copy123 chars / 45 words"; error-answers: drops dialogues with "Too many requests" and the like for an
   *  answer, or one that cleaning left empty; wrong-lists: drops those whose lists count 1. 1. 1. (FastChat's rule). */
  clean: z
    .array(z.enum([...cleaners, ...judges]))
    .min(1)
    .default([...cleaners, "error-answers"]),
});

export class Artefacts implements Filter {
  readonly name = "artefacts";
  private readonly rules: Set<string>;

  constructor({ clean }: z.output<typeof artefactOptions>) {
    this.rules = new Set(clean);
  }

  apply(dialogue: Dialogue): Outcome {
    const changes = new Set<string>();
    const cleaned = mapTexts(dialogue, (text, message) => this.clean(text, message, changes)) ?? dialogue;
    const fault = this.rules.has("error-answers") ? errorAnswer(dialogue, cleaned) : null;
    if (fault) return fault;
    if (this.rules.has("wrong-lists") && allMessages(cleaned).some(isWrongList))
      return dropped("a list counts 1. again and again");
    return { kept: [cleaned], changes: [...changes] };
  }

  private clean(text: string, message: TrainingMessage, changes: Set<string>): string {
    for (const rule of cleaners) {
      if (!this.rules.has(rule)) continue;
      const after = cleanerOf[rule](text, message);
      if (after !== text) changes.add(rule);
      text = after;
    }
    return text;
  }
}

const cleanerOf: { [rule in (typeof cleaners)[number]]: (text: string, message: TrainingMessage) => string } =
  {
    // A user's turn was shown as it was typed, so its HTML is what it is about.
    html: (text, { role }) => (role === "assistant" ? htmlToMarkdown(text).text : text),
    "page-counter": withoutPageCounter,
    "copy-code": (text) =>
      text.includes("Copy code")
        ? text
            .replace(/```[ \t]*([\w+#.-]*)[ \t]*\n?(?:Copy code)+\n?([\s\S]*?)\s*```/g, fenced)
            .replaceAll("\nCopy code\n", "\n\n")
        : text,
    "copy-chars": (text) => text.replace(/Copy\d+ chars \/ \d+ words/g, ""),
  };

/** FastChat: "```pythonCopy codex = 1```" is a block of Python; one without code goes. */
const fenced = (_: string, language: string, code: string): string =>
  code.trim() === "" ? "" : `\`\`\`${language}\n${code}\n\`\`\``;

const errors =
  /^\W*(?:too many requests in 1 hour|only one message at a time|an error occurred\. (?:if this|either)|something went wrong[.,] (?:if this|please)|the server (?:had|experienced) an error while processing|conversation not found$|network error$|request timed out|our systems are a bit busy|you've reached our limit of messages)/i;

function errorAnswer(before: Dialogue, after: Dialogue): Outcome | null {
  const cleaned = allMessages(after);
  for (const [i, message] of allMessages(before).entries()) {
    if (message.role !== "assistant") continue;
    const text = contentText(cleaned[i]!).trim();
    if (errors.test(text)) return dropped("an answer is an error message of the service", text.slice(0, 100));
    if (text === "" && contentText(message).trim() !== "")
      return dropped("an answer held nothing but artefacts", contentText(message).slice(0, 100));
  }
  return null;
}

const isWrongList = (message: TrainingMessage): boolean =>
  message.role === "assistant" && /\n1\. [^2]*\n1\. /.test(contentText(message));
