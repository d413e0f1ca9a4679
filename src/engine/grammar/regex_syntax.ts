/** Regular expressions as in JavaScript with the u flag, as far as a finite automaton can follow them: no lookaround,
 *  no backreferences, no word boundaries; ^ and $ only around the whole expression or one of its alternatives. */
import { GrammarError, limits } from "./errors.ts";
import { type CodePoints, complement, union } from "./unicode.ts";

export type Regex =
  | { kind: "class"; set: CodePoints }
  | { kind: "sequence"; parts: Regex[] }
  | { kind: "choice"; options: Regex[] }
  | { kind: "repeat"; part: Regex; min: number; max: number }
  | { kind: "anchor"; at: "start" | "end" };

const digits: CodePoints = [[0x30, 0x39]];
const word = union(digits, [[0x41, 0x5a]], [[0x5f, 0x5f]], [[0x61, 0x7a]]);
const space = union(
  [[0x09, 0x0d]],
  [[0x20, 0x20]],
  [[0xa0, 0xa0]],
  [[0x1680, 0x1680]],
  [[0x2000, 0x200a]],
  [[0x2028, 0x2029]],
  [[0x202f, 0x202f]],
  [[0x205f, 0x205f]],
  [[0x3000, 0x3000]],
  [[0xfeff, 0xfeff]],
);
const lineEnds = union([[0x0a, 0x0a]], [[0x0d, 0x0d]], [[0x2028, 0x2029]]);
const shorthand: Record<string, CodePoints> = {
  d: digits,
  w: word,
  s: space,
  D: complement(digits),
  W: complement(word),
  S: complement(space),
};
const controls: Record<string, number> = { t: 9, n: 10, v: 11, f: 12, r: 13, "0": 0 };

export function parseRegex(source: string): Regex {
  return new Parser(source).parse();
}

class Parser {
  private readonly text: string[];
  private at = 0;
  private depth = 0;

  constructor(private readonly source: string) {
    if (source.length > limits.patternLength) {
      throw new GrammarError(
        `A regular expression has ${source.length} characters; at most ${limits.patternLength} are allowed.`,
      );
    }
    this.text = [...source];
  }

  parse(): Regex {
    const regex = this.choice();
    if (this.at < this.text.length) this.fail('has an unmatched ")"');
    return regex;
  }

  private choice(): Regex {
    const options = [this.sequence()];
    while (this.take("|")) options.push(this.sequence());
    return options.length === 1 ? options[0]! : { kind: "choice", options };
  }

  private sequence(): Regex {
    const parts: Regex[] = [];
    while (this.at < this.text.length && this.text[this.at] !== "|" && this.text[this.at] !== ")") {
      parts.push(this.quantified(this.atom()));
    }
    return parts.length === 1 ? parts[0]! : { kind: "sequence", parts };
  }

  private quantified(part: Regex): Regex {
    const counts = this.quantifier();
    if (counts === null) return part;
    if (part.kind === "anchor") this.fail("repeats an anchor");
    this.take("?"); // Lazy or not, the same texts match.
    if (this.quantifier() !== null) this.fail("has two quantifiers in a row");
    if (counts.max < counts.min)
      this.fail(`repeats something at least ${counts.min} and at most ${counts.max} times`);
    return { kind: "repeat", part, ...counts };
  }

  private quantifier(): { min: number; max: number } | null {
    if (this.take("*")) return { min: 0, max: Infinity };
    if (this.take("+")) return { min: 1, max: Infinity };
    if (this.take("?")) return { min: 0, max: 1 };
    if (!this.take("{")) return null;
    const min = this.count();
    const max = !this.take(",") ? min : this.text[this.at] === "}" ? Infinity : this.count();
    if (!this.take("}")) this.fail('has a "{" without a count; write "\\{" for the character');
    return { min, max };
  }

  private count(): number {
    let digitsRead = "";
    while (/^[0-9]$/.test(this.text[this.at] ?? "")) digitsRead += this.text[this.at++];
    if (digitsRead === "") this.fail('has a "{" without a count; write "\\{" for the character');
    return Number(digitsRead);
  }

  private atom(): Regex {
    const c = this.text[this.at++]!;
    if (c === "(") return this.group();
    if (c === "[") return { kind: "class", set: this.bracket() };
    if (c === ".") return { kind: "class", set: complement(lineEnds) };
    if (c === "^") return { kind: "anchor", at: "start" };
    if (c === "$") return { kind: "anchor", at: "end" };
    if (c === "\\") return { kind: "class", set: this.escape(false) };
    if ("*+?{".includes(c)) this.fail(`has nothing before "${c}" to repeat`);
    return { kind: "class", set: this.character(c.codePointAt(0)!) };
  }

  private group(): Regex {
    if (++this.depth > limits.patternDepth)
      this.fail(`has groups nested more than ${limits.patternDepth} deep`);
    if (this.take("?")) {
      const named = this.text
        .slice(this.at, this.at + 64)
        .join("")
        .match(/^<([\p{L}_$][\p{L}\p{N}_$]*)>/u);
      if (named !== null) this.at += [...named[0]].length;
      else if (!this.take(":")) this.fail("uses lookaround or flags, which cannot be enforced; remove them");
    }
    const inner = this.choice();
    if (!this.take(")")) this.fail('has an unmatched "("');
    this.depth--;
    return inner;
  }

  private bracket(): CodePoints {
    const negated = this.take("^");
    const parts: CodePoints[] = [];
    while (!this.take("]")) {
      if (this.at >= this.text.length) this.fail('has an unmatched "["');
      const low = this.bracketItem();
      if (this.text[this.at] !== "-" || this.text[this.at + 1] === "]" || this.at + 1 >= this.text.length) {
        parts.push(low);
        continue;
      }
      this.at++;
      const high = this.bracketItem();
      const from = single(low);
      const to = single(high);
      if (from === null || to === null || from > to) this.fail("has a character range that is out of order");
      parts.push([[from, to]]);
    }
    const set = union(...parts);
    return negated ? complement(set) : set;
  }

  private bracketItem(): CodePoints {
    const c = this.text[this.at++];
    if (c === undefined) this.fail('has an unmatched "["');
    return c === "\\" ? this.escape(true) : this.character(c.codePointAt(0)!);
  }

  private escape(inBracket: boolean): CodePoints {
    const c = this.text[this.at++];
    if (c === undefined) this.fail('ends in "\\"');
    if (Object.hasOwn(shorthand, c)) return shorthand[c]!;
    if (c === "b" && inBracket) return this.character(8);
    if (Object.hasOwn(controls, c) && !/^0[0-9]$/.test(c + (this.text[this.at] ?? ""))) {
      return this.character(controls[c]!);
    }
    if (c === "x") return this.character(this.hex(2));
    if (c === "u") return this.character(this.unicode());
    if (c === "c" && /^[a-zA-Z]$/.test(this.text[this.at] ?? "")) {
      return this.character(this.text[this.at++]!.charCodeAt(0) & 31);
    }
    if (/^[1-9k]$/.test(c)) this.fail("uses a backreference, which cannot be enforced; remove it");
    if (/^[pP]$/.test(c))
      this.fail(`uses "\\${c}", which is not supported; write the characters as a class like [a-zA-Z]`);
    if (/^[a-zA-Z0-9]$/.test(c)) this.fail(`uses "\\${c}", which is not supported; remove it`);
    return this.character(c.codePointAt(0)!);
  }

  private unicode(): number {
    if (this.take("{")) {
      const end = this.text.indexOf("}", this.at);
      const value = end < 0 ? "" : this.text.slice(this.at, end).join("");
      if (!/^0*[0-9a-fA-F]{1,6}$/.test(value)) this.fail('has a "\\u{" without a code point');
      this.at = end + 1;
      return parseInt(value, 16);
    }
    const unit = this.hex(4);
    const isPair =
      unit >= 0xd800 && unit < 0xdc00 && this.text[this.at] === "\\" && this.text[this.at + 1] === "u";
    if (!isPair) return unit;
    this.at += 2;
    const low = this.hex(4);
    if (low < 0xdc00 || low > 0xdfff) this.fail("names half of a surrogate pair");
    return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
  }

  private hex(length: number): number {
    const value = this.text.slice(this.at, this.at + length).join("");
    if (value.length !== length || !/^[0-9a-fA-F]+$/.test(value))
      this.fail(`has an escape without ${length} hex digits`);
    this.at += length;
    return parseInt(value, 16);
  }

  private character(codePoint: number): CodePoints {
    if (codePoint > 0x10ffff || (codePoint >= 0xd800 && codePoint <= 0xdfff)) {
      this.fail("names half of a surrogate pair or a code point above 10FFFF");
    }
    return [[codePoint, codePoint]];
  }

  private take(c: string): boolean {
    if (this.text[this.at] !== c) return false;
    this.at++;
    return true;
  }

  private fail(what: string): never {
    const shown = this.source.length > 60 ? `${this.source.slice(0, 60)}...` : this.source;
    throw new GrammarError(`The regular expression ${JSON.stringify(shown)} ${what}.`);
  }
}

function single(set: CodePoints): number | null {
  const range = set[0];
  return set.length === 1 && range !== undefined && range[0] === range[1] ? range[0] : null;
}
