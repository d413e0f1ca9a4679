/** An answer held back until it is judged: text leaves only behind a window that was found harmless.
 *  Always: every character that leaves was in a checked text that passed, with at least `marginChars` after it or the
 *  answer's end, and with what came before it; a phrase of up to `marginChars` that is flagged never leaves, not even its
 *  beginning. What leaves is in order and unchanged. */
import type { SequenceEvent } from "../generation.ts";

/** Read on before text leaves, so that the end of a phrase is seen before its beginning is out. */
export const marginChars = 100;
/** Of what has left already, shown to the judge again. */
export const contextChars = 400;
/** So much new text is judged at the end of a sentence, */
const sentenceChars = 60;
/** and so much wherever it ends. */
const stepChars = 240;
/** More held text than this without the end of a sentence leaves at the end of a word. */
const heldMax = 480;

type Delta = Extract<SequenceEvent, { type: "delta" }>;

/** `passes`: whether this text may be read. Where it may not, the sequence ends with content_filter, and leaving the loop
 *  over `events` frees its place in the engine. */
export async function* heldBack(
  events: AsyncIterable<SequenceEvent>,
  passes: (text: string) => Promise<boolean>,
): AsyncGenerator<SequenceEvent> {
  const held: { event: Delta; end: number }[] = [];
  let text = "";
  let judged = 0;
  let released = 0;
  let tokenCount = 0;
  for await (const event of events) {
    if (event.type === "prompt") {
      yield event;
      continue;
    }
    if (event.type === "delta") {
      text += event.text;
      tokenCount += event.ids.length;
      held.push({ event, end: text.length });
    }
    const ends = event.type === "finish";
    if (!ends && !isDue(text, judged)) continue;
    if (text.length > judged && !(await passes(text.slice(contextStart(text, released)))))
      return yield { type: "finish", reason: "content_filter", stop: null, endToken: null, tokenCount };
    judged = text.length;
    const safe = ends ? judged : safeEnd(text, released, judged - marginChars);
    while (held.length > 0 && held[0]!.end <= safe) {
      const { event: delta, end } = held.shift()!;
      released = end;
      yield delta;
    }
    if (ends) return yield event;
  }
}

function isDue(text: string, judged: number): boolean {
  const fresh = text.length - judged;
  if (fresh >= stepChars) return true;
  return fresh >= sentenceChars && lastSentenceEnd(text, judged) > judged;
}

/** Not in the middle of a word: half of one may be another. */
function contextStart(text: string, released: number): number {
  const from = Math.max(0, released - contextChars);
  const space = text.lastIndexOf(" ", from);
  return from === 0 ? 0 : space >= 0 && from - space < 60 ? space + 1 : from;
}

/** The end of the last sentence before `limit`; of the last word where too much is waiting. */
function safeEnd(text: string, released: number, limit: number): number {
  if (limit <= released) return released;
  const ready = text.slice(0, limit);
  const sentence = lastSentenceEnd(ready, released);
  if (sentence > released || text.length - released <= heldMax) return sentence;
  const space = ready.lastIndexOf(" ") + 1;
  return space > released ? space : limit;
}

/** After the last mark in `text` that ends a sentence and lies behind `from`; `from` where there is none. */
function lastSentenceEnd(text: string, from: number): number {
  let end = from;
  for (const match of text.slice(from).matchAll(/[.!?…]["'”’)\]]*\s|[。！？]|\n/g))
    end = from + match.index + match[0].length;
  return end;
}
