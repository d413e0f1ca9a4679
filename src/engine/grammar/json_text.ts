/** JSON as generated text: values, strings, numbers, and how much white space may stand between them.
 *  Always: what these patterns match, JSON.parse reads, numbers without overflow. White space is optional and bounded:
 *  one space, or a line break with up to 32 spaces, after "{", "[", "," and before "}" and "]"; one space after ":". */
import type { JsonValue } from "../messages.ts";
import { GrammarError, limits } from "./errors.ts";
import type { Pattern } from "./program.ts";
import {
  byteSet,
  choice,
  literals,
  nothing,
  oneOf,
  optional,
  repeat,
  rule,
  sequence,
  text,
} from "./patterns.ts";
import { type CodePoints, anyCodePoint, complement, has, union, utf8, without } from "./unicode.ts";

/** Must be escaped in a JSON string. */
const special: CodePoints = [
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
];
const unescaped = complement(special);
const plainAscii: CodePoints = without([[0x20, 0x7f]], special);

const hex = oneOf("0123456789abcdefABCDEF");
const digit = byteSet([0x30, 0x39]);
const nonZeroDigit = byteSet([0x31, 0x39]);

/** One character of a string, in any spelling; surrogate escapes only in pairs. */
const unicodeEscape = choice(
  sequence(oneOf("012345679abcefABCEF8"), hex, hex, hex),
  sequence(oneOf("dD"), oneOf("01234567"), hex, hex),
  sequence(oneOf("dD"), oneOf("89abAB"), hex, hex, text("\\u"), oneOf("dD"), oneOf("cdefCDEF"), hex, hex),
);
const anyCharacter = choice(
  utf8(unescaped),
  sequence(text("\\"), choice(oneOf('"\\/bfnrt'), sequence(text("u"), unicodeEscape))),
);

/** A string of min to max code points. */
export function string(min: number, max: number): Pattern {
  return rule(
    `string ${min} ${max}`,
    () => sequence(text('"'), repeat(anyCharacter, min, max), text('"')),
    true,
  );
}

/** A character of `set` inside a string: as itself where JSON allows that, otherwise in the spelling of JSON.stringify. */
export function stringCharacter(set: CodePoints): Pattern {
  const letters = [...'"\\bfnrt'].filter((c) => has(set, JSON.parse(`"\\${c}"`).charCodeAt(0)));
  const escapes: Pattern[] = letters.length > 0 ? [oneOf(letters.join(""))] : [];
  for (const row of [0x00, 0x10]) {
    const inRow = [..."0123456789abcdef"].filter((_, i) => has(set, row + i) && !hasLetter(row + i));
    if (inRow.length > 0) escapes.push(sequence(text(`u00${row / 16}`), oneOf(inRow.join(""))));
  }
  const plain = without(set, special);
  if (escapes.length === 0) return utf8(plain);
  const escape = sequence(text("\\"), choice(...escapes));
  return plain.length === 0 ? escape : choice(utf8(plain), escape);
}

function hasLetter(code: number): boolean {
  return JSON.stringify(String.fromCharCode(code)).length < 8;
}

/** JSON.stringify's spelling between the quotes. */
export function escaped(value: string): string {
  return JSON.stringify(value).slice(1, -1);
}

/** Any string but these, each character in one spelling only (another spelling could name an excluded key again). */
export function stringExcept(names: readonly string[]): Pattern {
  if (names.length === 0) return string(0, Infinity);
  const root = nameTree(names);
  return rule(`except ${JSON.stringify(names)}`, () => exceptTree(root), true);
}

/** Follows the names; the first character that leaves them all leads to the rest of a free string. */
function exceptTree(root: NameNode): Pattern {
  return (build, next) => {
    const quote = text('"')(build, next);
    const rest = repeat(stringCharacter(anyCodePoint), 0, Infinity)(build, quote);
    const unusual = stringCharacter(without(anyCodePoint, plainAscii))(build, rest);
    const emit = (node: NameNode): number => {
      const followers = union(...[...node.children.keys()].map((c): CodePoints => [[c, c]]));
      // Most followers are plain letters: then all other characters share their states over the whole tree.
      const others = without(followers, plainAscii).length === 0;
      let entry = others
        ? build.split(utf8(without(plainAscii, followers))(build, rest), unusual)
        : stringCharacter(complement(followers))(build, rest);
      if (!node.isName) entry = build.split(entry, quote);
      for (const [c, child] of node.children) {
        entry = build.split(stringCharacter([[c, c]])(build, emit(child)), entry);
      }
      return entry;
    };
    return text('"')(build, emit(root));
  };
}

interface NameNode {
  isName: boolean;
  children: Map<number, NameNode>;
}

function nameTree(names: readonly string[]): NameNode {
  const root: NameNode = { isName: false, children: new Map() };
  for (const name of names) {
    if (name.length > limits.nameLength) {
      throw new GrammarError(
        `The JSON schema has a property name of ${name.length} characters; use at most ${limits.nameLength}, or set "additionalProperties" to false.`,
      );
    }
    let node = root;
    for (const character of name) {
      const c = character.codePointAt(0)!;
      let child = node.children.get(c);
      if (child === undefined) node.children.set(c, (child = { isName: false, children: new Map() }));
      node = child;
    }
    node.isName = true;
  }
  return root;
}

const indentation = rule("indentation", () => sequence(text("\n"), repeat(text(" "), 0, 32)));
export const gap: Pattern = optional(choice(text(" "), indentation));
export const comma: Pattern = sequence(text(","), gap);
export const colon: Pattern = sequence(text(":"), optional(text(" ")));

/** Any number that float64 holds: up to 21 digits, 24 decimals and an exponent that cannot overflow. */
export const number: Pattern = rule("number", () => {
  const fraction = optional(sequence(text("."), repeat(digit, 1, 24)));
  const integerPart = choice(text("0"), sequence(nonZeroDigit, repeat(digit, 0, 20)));
  const small = sequence(oneOf("eE"), optional(oneOf("+-")), digit, optional(digit));
  const tiny = sequence(oneOf("eE"), text("-"), digit, digit, digit);
  const hundreds = choice(sequence(oneOf("12"), digit, digit), sequence(text("30"), byteSet([0x30, 0x37])));
  const large = sequence(digit, fraction, oneOf("eE"), optional(text("+")), hundreds);
  const usual = sequence(integerPart, fraction, optional(choice(small, tiny)));
  return sequence(optional(text("-")), choice(usual, large));
});

export const anyObject: Pattern = rule("object", () => mapOf(string(0, Infinity), anyValue));
export const anyArray: Pattern = rule("array", () =>
  bracketed("[]", sequence(anyValue, repeat(sequence(comma, anyValue), 0, Infinity))),
);
export const anyValue: Pattern = rule("value", () =>
  choice(string(0, Infinity), number, anyObject, anyArray, text("true"), text("false"), text("null")),
);

function mapOf(key: Pattern, value: Pattern): Pattern {
  const member = sequence(key, colon, value);
  return bracketed("{}", sequence(member, repeat(sequence(comma, member), 0, Infinity)));
}

function bracketed([open, close]: string, content: Pattern): Pattern {
  return sequence(text(open!), gap, optional(sequence(content, gap)), text(close!));
}

/** Exactly this value; objects and arrays with the usual white space, keys in their order. */
export function literalValue(value: JsonValue): Pattern {
  if (value === null || typeof value !== "object") return text(JSON.stringify(value));
  const parts = Array.isArray(value)
    ? value.map(literalValue)
    : Object.entries(value).map(([key, item]) =>
        sequence(text(JSON.stringify(key)), colon, literalValue(item)),
      );
  const [first = nothing, ...others] = parts;
  const content = sequence(first, ...others.flatMap((part) => [comma, part]));
  const brackets = Array.isArray(value) ? "[]" : "{}";
  return sequence(text(brackets[0]!), gap, content, parts.length > 0 ? gap : nothing, text(brackets[1]!));
}

/** One of these values. */
export function oneOfValues(values: readonly JsonValue[]): Pattern {
  const encoder = new TextEncoder();
  const scalars = values.filter((value) => value === null || typeof value !== "object");
  const others = values.filter((value) => value !== null && typeof value === "object");
  return choice(
    literals(scalars.map((value) => encoder.encode(JSON.stringify(value)))),
    ...others.map(literalValue),
  );
}
