/** What parsers of raw files share: one question with its answer, turns put in order, and choices that depend on the text.
 *  Always: nothing that somebody wrote is lost by a repair; only turns that hold nothing are. */
import { contentText, type ChatRecord, type TrainingMessage } from "../record.ts";

export function exchange(question: string, answer: string): ChatRecord {
  return {
    kind: "chat",
    messages: [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ],
    tools: [],
  };
}

/** Turns of a transcript in alternation: empty turns are taken out, then neighbours of one role joined by an empty line. The
 *  last turn stays even when it is empty, so that an empty answer is seen as one. */
export function regularTurns(messages: readonly TrainingMessage[]): {
  messages: TrainingMessage[];
  repairs: string[];
} {
  const repairs = new Set<string>();
  const regular: TrainingMessage[] = [];
  for (const [i, message] of messages.entries()) {
    const text = contentText(message);
    if (text.trim() === "" && i < messages.length - 1) {
      repairs.add("empty turns were taken out");
      continue;
    }
    const before = regular.at(-1);
    if (before?.role === message.role) {
      repairs.add("turns of one speaker in a row were joined");
      before.content = `${contentText(before)}\n\n${text}`.trim();
    } else regular.push({ ...message });
  }
  return { messages: regular, repairs: [...repairs] };
}

/** One of the phrases, by the text that it stands before: the same whatever else is read, and in whatever order. */
export function phraseFor(text: string, phrases: readonly string[], seed: unknown): string {
  const hash = Bun.hash.xxHash32(text, typeof seed === "number" ? seed : 0);
  return phrases[hash % phrases.length]!;
}
