/** Cuts a text at its added tokens, as tokenizers' AddedVocabulary does: leftmost, then longest, with the
 *  single_word, lstrip and rstrip rules; first over the raw text, later (normalized tokens) over each normalized part. */
import type { AddedToken } from "./tokenizer_file.ts";

/** A part of a text: an added token (`id` set) or text between them. `start` is its place in the searched text. */
export interface Part {
  id: number | null;
  text: string;
  start: number;
}

export class AddedTokenSplitter {
  private readonly pattern: RegExp | null;
  private readonly tokens = new Map<string, AddedToken>();

  constructor(entries: readonly { literal: string; token: AddedToken }[]) {
    for (const { literal, token } of entries) if (literal !== "") this.tokens.set(literal, token);
    // Longest first: alternation in a regular expression is ordered, so this is leftmost-longest.
    const literals = [...this.tokens.keys()].sort((a, b) => b.length - a.length).map(escapeRegExp);
    this.pattern = literals.length > 0 ? new RegExp(literals.join("|"), "gu") : null;
  }

  split(text: string): Part[] {
    if (this.pattern === null || text === "") return text === "" ? [] : [{ id: null, text, start: 0 }];
    const parts: Part[] = [];
    let from = 0;
    for (const match of text.matchAll(this.pattern)) {
      const token = this.tokens.get(match[0])!;
      let start = match.index;
      let stop = start + match[0].length;
      if (start < from) continue; // swallowed by the rstrip of the token before
      if (
        token.singleWord &&
        (endsWithWord.test(text.slice(Math.max(0, start - 2), start)) ||
          startsWithWord.test(text.slice(stop, stop + 2)))
      )
        continue;
      if (token.lstrip) while (start > from && isSpace(text[start - 1]!)) start--;
      if (token.rstrip) while (stop < text.length && isSpace(text[stop]!)) stop++;
      if (start > from) parts.push({ id: null, text: text.slice(from, start), start: from });
      parts.push({ id: token.id, text: text.slice(start, stop), start });
      from = stop;
    }
    if (from < text.length) parts.push({ id: null, text: text.slice(from), start: from });
    return parts;
  }
}

export const escapeRegExp = (text: string): string => text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&");

// Rust's \w and \s, which JavaScript's shorthands are not.
const wordClass = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
const endsWithWord = new RegExp(`${wordClass}$`, "u");
const startsWithWord = new RegExp(`^${wordClass}`, "u");
// All of White_Space lies below U+10000: a UTF-16 unit decides.
const isSpace = (unit: string): boolean => /\p{White_Space}/u.test(unit);
