/** Regular expressions by constrained decoding, judged by JavaScript's own RegExp. */
import { describe, expect, test } from "bun:test";
import { GrammarError, compileGrammar, validateGrammar } from "../../src/engine/grammar.ts";
import type { GrammarSpec } from "../../src/engine/messages.ts";
import { pick, seededRandom, syntheticVocabulary } from "../support/grammar_vocabulary.ts";

const vocabulary = syntheticVocabulary(600);
const endId = vocabulary.endIds[0]!;
const encoder = new TextEncoder();

function accepts(spec: GrammarSpec, text: string | Uint8Array): boolean {
  const state = compileGrammar(spec, vocabulary).start();
  const bytes = typeof text === "string" ? encoder.encode(text) : text;
  return bytes.every((byte) => state.accept(byte)) && state.accept(endId);
}

/** Also where nothing at all matches, which compiling says. */
function refuses(spec: GrammarSpec, text: string): boolean {
  try {
    return !accepts(spec, text);
  } catch (error) {
    return error instanceof GrammarError && error.message.startsWith("No text matches");
  }
}

function randomRegex(random: () => number, depth: number): string {
  const atoms = [
    "a",
    "b",
    "é",
    "中",
    "😀",
    ".",
    "\\d",
    "\\w",
    "[a-c]",
    "[^a]",
    "[^\\sé]",
    "\\.",
    "\\u00e9",
    "[b中-龥]",
    "\\S",
    '"',
    "\\\\",
  ];
  if (depth === 0 || random() < 0.3) return pick(atoms, random);
  const inner = () => randomRegex(random, depth - 1);
  const kind = random();
  if (kind < 0.4) return inner() + inner();
  if (kind < 0.6) return `(${inner()}|${inner()}|)`;
  return `(?:${inner()})${pick(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "{3,5}"], random)}`;
}

const alphabet = ["a", "b", "c", "é", "中", "😀", "1", " ", ".", '"', "\\", "\n", "\u2028", "龥"];

function randomText(random: () => number): string {
  return Array.from({ length: Math.floor(random() * 6) }, () => pick(alphabet, random)).join("");
}

describe("regular expressions", () => {
  test("match whole texts exactly where RegExp does", () => {
    const random = seededRandom(4);
    let matches = 0;
    for (let round = 0; round < 400; round++) {
      const pattern = randomRegex(random, 4);
      const judge = new RegExp(`^(?:${pattern})$`, "u");
      for (let i = 0; i < 15; i++) {
        const text = randomText(random);
        matches += Number(judge.test(text));
        expect(accepts({ kind: "regex", pattern }, text), JSON.stringify({ pattern, text })).toBe(
          judge.test(text),
        );
      }
    }
    expect(matches).toBeGreaterThan(500);
  });

  test("as a JSON schema's pattern, match a part of the string unless anchored", () => {
    const random = seededRandom(5);
    for (let round = 0; round < 300; round++) {
      const pattern = pick(["", "^"], random) + `(?:${randomRegex(random, 3)})` + pick(["", "$"], random);
      const judge = new RegExp(pattern, "u");
      for (let i = 0; i < 10; i++) {
        const text = randomText(random);
        const spec: GrammarSpec = { kind: "json_schema", schema: { type: "string", pattern } };
        expect(accepts(spec, JSON.stringify(text)), JSON.stringify({ pattern, text })).toBe(judge.test(text));
      }
    }
  });

  test("beside minLength and maxLength, match exactly where both hold", () => {
    const random = seededRandom(8);
    let matches = 0;
    for (let round = 0; round < 200; round++) {
      const pattern = pick(["", "^"], random) + `(?:${randomRegex(random, 3)})` + pick(["", "$"], random);
      const judge = new RegExp(pattern, "u");
      const minLength = Math.floor(random() * 3);
      const maxLength = minLength + Math.floor(random() * 4);
      for (let i = 0; i < 10; i++) {
        const text = randomText(random);
        const valid = judge.test(text) && [...text].length >= minLength && [...text].length <= maxLength;
        matches += Number(valid);
        const spec: GrammarSpec = {
          kind: "json_schema",
          schema: { type: "string", pattern, minLength, maxLength },
        };
        if (valid) expect(accepts(spec, JSON.stringify(text)), JSON.stringify({ spec, text })).toBe(true);
        else expect(refuses(spec, JSON.stringify(text)), JSON.stringify({ spec, text })).toBe(true);
      }
    }
    expect(matches).toBeGreaterThan(200);
  });

  test("well-known ones: counts, alternatives with anchors, escapes, named groups", () => {
    const cases: [pattern: string, yes: string[], no: string[]][] = [
      ["^(?<year>\\d{4})-\\d\\d$", ["2024-01"], ["2024-1", "x2024-01"]],
      ["^a$|^b$", ["a", "b"], ["ab"]],
      ["[\\w.+-]+@[a-z]+\\.(com|org)", ["x.y+z@mail.org"], ["@a.com", "x@a.net"]],
      ["\\x41\\u{1F600}\\uD83D\\uDE00\\t\\cA", ["A😀😀\t\x01"], ["A"]],
      ["(a?){1000}b{1000}", ["b".repeat(1000), `aa${"b".repeat(1000)}`], ["b".repeat(999)]],
      ["[]a]", [], ["a", "]a", "a]"]],
      ["(a*)*(b|(c*)+)*", ["", "aab", "ccab".slice(0, 2)], ["x"]],
    ];
    for (const [pattern, yes, no] of cases) {
      const spec: GrammarSpec = { kind: "regex", pattern };
      if (yes.length === 0) expect(() => validateGrammar(spec)).toThrow(GrammarError);
      for (const text of yes) expect(accepts(spec, text), `${pattern} ${text}`).toBe(true);
      for (const text of yes.length === 0 ? [] : no)
        expect(accepts(spec, text), `${pattern} ${text}`).toBe(false);
    }
  });

  test("any text is exactly the well-formed UTF-8", () => {
    const random = seededRandom(6);
    const decoder = new TextDecoder("utf-8", { fatal: true });
    const spec: GrammarSpec = { kind: "regex", pattern: "[^]*" };
    const leads = [
      0x00, 0x41, 0x7f, 0x80, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff,
    ];
    const tails = [0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0];
    const verdicts = [0, 0];
    for (const lead of leads) {
      for (const second of tails) {
        for (let i = 0; i < 12; i++) {
          const bytes = Uint8Array.of(lead, second, pick(tails, random), pick(tails, random)).slice(
            0,
            1 + (i % 4),
          );
          let wellFormed = true;
          try {
            decoder.decode(bytes);
          } catch {
            wellFormed = false;
          }
          verdicts[Number(wellFormed)]!++;
          expect(accepts(spec, bytes), [...bytes].join(" ")).toBe(wellFormed);
        }
      }
    }
    expect(Math.min(...verdicts)).toBeGreaterThan(50);
  });

  test("what an automaton cannot follow is refused by name", () => {
    const cases: [pattern: string, message: RegExp][] = [
      ["(?=a)b", /lookaround/],
      ["(?<!a)b", /lookaround/],
      ["(?i:a)", /flags/],
      ["(a)\\1", /backreference/],
      ["\\bword", /"\\\\?b"/],
      ["\\p{L}+", /"\\p"/],
      ["(a", /unmatched "\("/],
      ["a)", /unmatched "\)"/],
      ["[a", /unmatched "\["/],
      ["[z-a]", /out of order/],
      ["a**", /two quantifiers/],
      ["*a", /nothing before "\*"/],
      ["a{3,1}", /at least 3 and at most 1/],
      ["a{x}", /without a count/],
      ["x(^a)y", /\^ or \$ inside/],
      ["\\ud800", /surrogate/],
      ["a\\", /ends in/],
    ];
    for (const [pattern, message] of cases) {
      expect(() => validateGrammar({ kind: "regex", pattern }), pattern).toThrow(message);
    }
  });
});
