/** Regular expressions as pieces of grammar: over plain text, or over the characters of a JSON string. */
import { GrammarError } from "./errors.ts";
import { choice, repeat, sequence } from "./patterns.ts";
import type { Pattern } from "./program.ts";
import { type Regex, parseRegex } from "./regex_syntax.ts";
import { type CodePoints, anyCodePoint } from "./unicode.ts";

/** How one character of a set is spelled: `utf8` or `stringCharacter`. */
export type Spelling = (set: CodePoints) => Pattern;

const anything: Regex = { kind: "repeat", part: { kind: "class", set: anyCodePoint }, min: 0, max: Infinity };

/** The whole text matches. */
export function wholeMatch(source: string): Regex {
  return anchored(parseRegex(source), source, { unanchored: null });
}

/** Some part of the text matches, as JSON Schema's `pattern` says. */
export function partMatch(source: string): Regex {
  return anchored(parseRegex(source), source, { unanchored: anything });
}

export function regexPattern(regex: Regex, spelling: Spelling): Pattern {
  switch (regex.kind) {
    case "class":
      return spelling(regex.set);
    case "sequence":
      return sequence(...regex.parts.map((part) => regexPattern(part, spelling)));
    case "choice":
      return choice(...regex.options.map((option) => regexPattern(option, spelling)));
    case "repeat":
      return repeat(regexPattern(regex.part, spelling), regex.min, regex.max);
    case "anchor":
      throw new GrammarError(
        "A regular expression has ^ or $ inside; put them at its beginning and end only.",
      );
    default:
      return regex satisfies never;
  }
}

/** Fewest and most characters. */
export function lengthOf(regex: Regex): { min: number; max: number } {
  switch (regex.kind) {
    case "class":
      return { min: 1, max: 1 };
    case "anchor":
      return { min: 0, max: 0 };
    case "sequence": {
      const lengths = regex.parts.map(lengthOf);
      return { min: sum(lengths.map((x) => x.min)), max: sum(lengths.map((x) => x.max)) };
    }
    case "choice": {
      const lengths = regex.options.map(lengthOf);
      return { min: Math.min(...lengths.map((x) => x.min)), max: Math.max(...lengths.map((x) => x.max)) };
    }
    case "repeat": {
      const { min, max } = lengthOf(regex.part);
      return { min: min * regex.min, max: max === 0 || regex.max === 0 ? 0 : max * regex.max };
    }
    default:
      return regex satisfies never;
  }
}

/** The same texts of min to max characters only; null where that takes more than other counts for one repeat. */
export function withLength(regex: Regex, min: number, max: number): Regex | null {
  const own = lengthOf(regex);
  if (own.min >= min && own.max <= max) return regex;
  const only = regex.kind === "sequence" && regex.parts.length === 1 ? regex.parts[0]! : regex;
  if (only.kind !== "repeat" || only.part.kind !== "class") return null;
  return { ...only, min: Math.max(only.min, min), max: Math.min(only.max, max) };
}

function anchored(regex: Regex, source: string, options: { unanchored: Regex | null }): Regex {
  if (regex.kind === "choice") {
    return { kind: "choice", options: regex.options.map((option) => anchored(option, source, options)) };
  }
  const parts = regex.kind === "sequence" ? [...regex.parts] : [regex];
  let starts = false;
  let ends = false;
  while (isAnchor(parts[0], "start")) starts = parts.shift() !== undefined;
  while (isAnchor(parts.at(-1), "end")) ends = parts.pop() !== undefined;
  if (parts.some(hasAnchor)) {
    throw new GrammarError(
      `The regular expression ${JSON.stringify(source.slice(0, 60))} has ^ or $ inside; put them at its beginning and end only.`,
    );
  }
  if (options.unanchored !== null && !starts) parts.unshift(options.unanchored);
  if (options.unanchored !== null && !ends) parts.push(options.unanchored);
  return { kind: "sequence", parts };
}

function isAnchor(regex: Regex | undefined, at: "start" | "end"): boolean {
  return regex?.kind === "anchor" && regex.at === at;
}

function hasAnchor(regex: Regex): boolean {
  switch (regex.kind) {
    case "anchor":
      return true;
    case "class":
      return false;
    case "sequence":
      return regex.parts.some(hasAnchor);
    case "choice":
      return regex.options.some(hasAnchor);
    case "repeat":
      return hasAnchor(regex.part);
    default:
      return regex satisfies never;
  }
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
