/** Exact dedup of dialogues by a key of what the user asked: of equal keys the longest dialogue stays, the first of equals.
 *  Always: two passes; memory is one 64-bit hash, one length and one id a distinct key, never a text. At 10^6 keys the
 *  chance that any two different ones share a hash is 3e-8. */
import { z } from "zod";
import { type Dialogue, userTurns } from "../dialogue.ts";
import { contentText } from "../record.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { conversations, normalized, textLength } from "./texts.ts";

export const dedupOptions = z.strictObject({
  rule: z.literal("dedup"),
  /** first-query: the first user turn, normalised; all-queries: every user turn, normalised; fastchat: FastChat's rule, of
   *  equal ids of the raw file the first, and then by the exact texts of the first question and the first answer. */
  key: z.enum(["first-query", "all-queries", "fastchat"]).default("first-query"),
});

type Options = z.output<typeof dedupOptions>;

interface Best {
  id: string;
  length: number;
}

export class Dedup implements Filter {
  readonly name = "dedup";
  private readonly best = new Map<bigint, Best>();
  /** Of FastChat's rule: raw id to the first dialogue that has it. */
  private readonly firsts = new Map<bigint, string>();

  constructor(private readonly options: Options) {}

  async prepare(dialogues: AsyncIterable<Dialogue>): Promise<void> {
    for await (const dialogue of dialogues) {
      if (this.earlier(dialogue) !== null) continue;
      const key = this.byKey(dialogue);
      if (key === null) continue;
      const length = textLength(dialogue);
      const best = this.best.get(key);
      if (!best || length > best.length) this.best.set(key, { id: dialogue.id, length });
    }
  }

  apply(dialogue: Dialogue): Outcome {
    const earlier = this.earlier(dialogue);
    if (earlier !== null) return dropped("the raw file has its id twice", `kept or compared: ${earlier}`);
    const key = this.byKey(dialogue);
    const best = key === null ? undefined : this.best.get(key);
    if (best === undefined || best.id === dialogue.id) return kept(dialogue);
    return dropped("a duplicate of a dialogue that is kept", `kept: ${best.id}`);
  }

  private byKey(dialogue: Dialogue): bigint | null {
    return hashOf(keyTexts[this.options.key](dialogue));
  }

  /** The dialogue before this one with the same id in the raw data. */
  private earlier({ id, source, tags }: Dialogue): string | null {
    if (this.options.key !== "fastchat" || tags.id === undefined) return null;
    const key = Bun.hash.xxHash64(JSON.stringify([source, tags.id]));
    const first = this.firsts.get(key);
    if (first === undefined) this.firsts.set(key, id);
    return first === undefined || first === id ? null : first;
  }
}

const keyTexts: { [key in Options["key"]]: (dialogue: Dialogue) => string[] } = {
  "first-query": (dialogue) => userTurns(dialogue).slice(0, 1).map(normalized),
  "all-queries": (dialogue) => userTurns(dialogue).map(normalized),
  fastchat: (dialogue) => {
    const [messages = []] = conversations(dialogue);
    return ["user", "assistant"].flatMap((role) => {
      const first = messages.find((message) => message.role === role);
      return first ? [contentText(first)] : [];
    });
  },
};

/** Null without a question: such dialogues are no duplicates of each other. */
function hashOf(texts: readonly string[]): bigint | null {
  return texts.every((text) => text === "") ? null : Bun.hash.xxHash64(JSON.stringify(texts));
}
