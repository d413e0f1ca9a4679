/** Grammars made to hurt: each ends quickly, in a GrammarError of one sentence or in a grammar that works. */
import { describe, expect, test } from "bun:test";
import {
  GrammarError,
  type GrammarState,
  compileGrammar,
  validateGrammar,
} from "../../src/engine/grammar.ts";
import { limits } from "../../src/engine/grammar/errors.ts";
import type { GrammarSpec, JsonValue } from "../../src/engine/messages.ts";
import { allowedIds, syntheticVocabulary } from "../support/grammar_vocabulary.ts";

const vocabulary = syntheticVocabulary(3000);

function schema(value: JsonValue): GrammarSpec {
  return { kind: "json_schema", schema: value };
}

/** The message, or null where the grammar compiles and its first mask allows something. */
function verdict(spec: GrammarSpec): string | null {
  try {
    validateGrammar(spec);
    expect(allowedIds(compileGrammar(spec, vocabulary).start().mask()).length).toBeGreaterThan(0);
    return null;
  } catch (error) {
    expect(error).toBeInstanceOf(GrammarError);
    const { message } = error as GrammarError;
    expect(message.length).toBeLessThan(400);
    expect(message).toMatch(/^[A-Z].*[.]$/);
    return message;
  }
}

function nested(depth: number, wrap: (inner: JsonValue) => JsonValue, inner: JsonValue = {}): JsonValue {
  for (let i = 0; i < depth; i++) inner = wrap(inner);
  return inner;
}

function definitions(count: number, make: (i: number) => JsonValue): JsonValue {
  const $defs = Object.fromEntries(Array.from({ length: count }, (_, i) => [`d${i}`, make(i)]));
  return { $ref: "#/$defs/d0", $defs: { ...$defs, [`d${count}`]: { type: "integer" } } };
}

describe("hostile regular expressions", () => {
  const refused: [name: string, pattern: string, message: RegExp][] = [
    ["60,000 nested groups", "(".repeat(60_000) + "a" + ")".repeat(60_000), /at most 8192/],
    ["4,000 nested groups", "(".repeat(4000) + "a" + ")".repeat(4000), /nested more than 200/],
    ["4,000 open groups", "(".repeat(4000), /nested more than 200/],
    ["a billion copies", "a{1000000000}", /at most 1000000/],
    ["a count beyond all numbers", `a{${"9".repeat(400)}}`, /at most 1000000/],
  ];
  for (const [name, pattern, message] of refused) {
    test(`${name}: refused`, () => expect(verdict({ kind: "regex", pattern })).toMatch(message));
  }

  const harmless: [name: string, pattern: string][] = [
    ["exponential backtracking", "(a+)+$"],
    ["nested stars", "((((a*)*)*)*)*"],
    ["doubling plus", `${"(".repeat(150)}a${")+".repeat(150)}`],
    ["a million copies of a million", "(a{1000000}){1000000}"],
    ["2,700 optional characters", "a?".repeat(2700)],
    [
      "4,000 alternatives",
      Array.from({ length: 2000 }, (_, i) => `${i}b`)
        .join("|")
        .slice(0, 8000),
    ],
    ["1,000 classes of all characters", "[^]".repeat(1000)],
  ];
  for (const [name, pattern] of harmless) {
    test(`${name}: works`, () => expect(verdict({ kind: "regex", pattern })).toBeNull());
  }

  test("overlapping counts stay within the steps of one token", () => {
    const state = compileGrammar(
      { kind: "regex", pattern: ".*a.{3000}|(a{0,900}){0,900}" },
      vocabulary,
    ).start();
    for (let i = 0; i < 200; i++) {
      expect(allowedIds(state.mask()).length).toBeGreaterThan(100);
      expect(state.accept(0x61)).toBe(true);
    }
  });

  test("a token that costs too many steps is an error for its own sequence only", () => {
    const saved = limits.steps;
    const own = { ...vocabulary };
    const costly = compileGrammar({ kind: "regex", pattern: ".*a.{3000}" }, own).start();
    const cheap = compileGrammar({ kind: "literal", text: "a".repeat(300) }, own).start();
    const run = (state: GrammarState) => {
      for (let i = 0; i < 300; i++) {
        state.mask();
        expect(state.accept(0x61)).toBe(true);
      }
    };
    try {
      limits.steps = 5000;
      expect(() => run(costly)).toThrow(/too many alternatives/);
      run(cheap);
      expect(cheap.done).toBe(true);
    } finally {
      limits.steps = saved;
    }
    run(costly);
  });
});

describe("hostile schemas", () => {
  const refused: [name: string, value: () => JsonValue, message: RegExp][] = [
    ["60,000 nested arrays", () => nested(60_000, (items) => ({ items })), /nested more than 128/],
    [
      "60,000 nested lists as const",
      () => ({ const: nested(60_000, (inner) => [inner]) }),
      /nested more than 128/,
    ],
    [
      "200,000 properties",
      () => ({ properties: Object.fromEntries(Array.from({ length: 200_000 }, (_, i) => [i, {}])) }),
      /too large/,
    ],
    ["a megabyte of text", () => ({ const: "x".repeat(1 << 20) }), /too large/],
    ["a huge maxLength", () => ({ type: "string", maxLength: 2 ** 31 }), /0 to 1000000/],
    ["a negative count", () => ({ type: "array", minItems: -1 }), /0 to 1000000/],
    ["not a number", () => ({ type: "integer", minimum: "1" }), /must be a number/],
    ["itself", () => ({ $ref: "#" }), /refers to itself/],
    [
      "itself among others",
      () => ({ anyOf: [{ type: "null" }, { $ref: "#" }] as JsonValue[] }),
      /refers to itself/,
    ],
    [
      "merged with itself",
      () => ({ allOf: [{ $ref: "#" }, { type: "object" }] as JsonValue[] }),
      /more than 32 deep/,
    ],
    [
      "a ring of references",
      () => definitions(50, (i) => ({ $ref: `#/$defs/d${(i + 1) % 50}` })),
      /refers to itself/,
    ],
    [
      "2^15 merged references",
      () =>
        definitions(15, (i) => ({ allOf: [{ $ref: `#/$defs/d${i + 1}` }, { $ref: `#/$defs/d${i + 1}` }] })),
      /too large/,
    ],
    [
      "3^9 merged alternatives",
      () => ({
        allOf: Array.from({ length: 9 }, (_, i) => ({
          anyOf: [0, 1, 2].map((j) => ({ properties: { [`p${i}`]: { const: j } } })),
        })),
      }),
      /more than 128 alternatives/,
    ],
    [
      "a merge that grows for ever",
      () => ({
        allOf: [{ $ref: "#/$defs/a" }, { $ref: "#/$defs/b" }],
        $defs: {
          a: { properties: { n: { $ref: "#/$defs/a" }, m: { $ref: "#/$defs/b" } } },
          b: { properties: { n: { $ref: "#/$defs/b" }, m: { $ref: "#/$defs/a" } } },
        },
      }),
      /too large or too deep/,
    ],
    [
      "objects without end",
      () => ({ type: "object", properties: { a: { $ref: "#" } }, required: ["a"] }),
      /No text matches/,
    ],
    ["an empty enum", () => ({ enum: [] }), /No text matches/],
    ["a contradiction", () => ({ type: "integer", minimum: 2, maximum: 1 }), /No text matches/],
    ["another file", () => ({ $ref: "http://169.254.169.254/x" }), /only references within/],
    ["a prototype", () => ({ $ref: "#/__proto__/toString" }), /no schema/],
    ["a broken reference", () => ({ $ref: "#/$defs/%" }), /malformed/],
    ["a list of patterns", () => ({ type: "string", pattern: ["a"] }), /"pattern" that is not a string/],
    ["an unknown type", () => ({ type: "toString" }), /unknown type/],
    ["an unknown format", () => ({ type: "string", format: "constructor" }), /unknown format/],
    [
      "a pattern with a far length",
      () => ({ type: "string", pattern: "^(a|b)c*$", maxLength: 100_000 }),
      /too large/,
    ],
    [
      "a product of large counts",
      () => ({ type: "string", pattern: "^([a-c]{0,90}){0,90}$", format: "email", maxLength: 300 }),
      /too large/,
    ],
    ["a name of 100,000 letters", () => ({ properties: { ["x".repeat(100_000)]: {} } }), /at most 1024/],
  ];
  for (const [name, value, message] of refused) {
    test(`${name}: refused`, () => {
      const spec = schema(value());
      const started = performance.now();
      expect(verdict(spec)).toMatch(message);
      // The promise is 200 ms on a quiet machine; a tenfold margin still tells it from exponential work.
      expect(performance.now() - started).toBeLessThan(2000);
    });
  }

  test.each([
    "not",
    "if",
    "patternProperties",
    "propertyNames",
    "uniqueItems",
    "contains",
    "multipleOf",
    "minProperties",
    "unevaluatedProperties",
    "nullable",
    "x-own",
  ])('the keyword "%s" is refused by name', (key) => {
    expect(verdict(schema({ type: "object", [key]: {} }))).toContain(`"${key}"`);
    expect(
      verdict(schema({ properties: { deep: { items: { anyOf: [{ [key]: 1 }, { type: "null" }] } } } })),
    ).toContain(`"${key}"`);
  });

  const harmless: [name: string, value: () => JsonValue][] = [
    [
      "2^60 references",
      () =>
        definitions(60, (i) => ({
          type: "array",
          items: { anyOf: [{ $ref: `#/$defs/d${i + 1}` }, { $ref: `#/$defs/d${i + 1}` }] },
        })),
    ],
    [
      "properties that double",
      () =>
        definitions(60, (i) => ({
          properties: { a: { $ref: `#/$defs/d${i + 1}` }, b: { $ref: `#/$defs/d${i + 1}` } },
          additionalProperties: false,
        })),
    ],
    ["a chain of 5,000 references", () => definitions(5000, (i) => ({ $ref: `#/$defs/d${i + 1}` }))],
    ["a million characters at least", () => ({ type: "string", minLength: 1_000_000 })],
    [
      "1,000 optional properties",
      () => ({
        properties: Object.fromEntries(
          Array.from({ length: 1000 }, (_, i) => [`property${i}`, { type: "integer" }]),
        ),
      }),
    ],
    ["10,000 enum values", () => ({ enum: Array.from({ length: 10_000 }, (_, i) => `value ${i * 7919}`) })],
    ["arrays 60 deep", () => nested(60, (items) => ({ type: "array", items }))],
  ];
  for (const [name, value] of harmless) {
    test(`${name}: works`, () => expect(verdict(schema(value()))).toBeNull());
  }

  test("two recursive branches that differ only at their ends keep few stacks open", () => {
    const branch = (end: string): JsonValue => ({
      type: "object",
      properties: { a: { $ref: "#" }, end: { const: end } },
      required: ["a", "end"],
    });
    const state = compileGrammar(
      schema({ anyOf: [branch("x"), branch("y"), { type: "null" }] }),
      vocabulary,
    ).start();
    for (const byte of Buffer.from('{"a":'.repeat(200) + "null" + ',"end":"y"}'.repeat(200))) {
      expect(state.accept(byte)).toBe(true);
    }
    expect(state.done).toBe(true);
  });
});
