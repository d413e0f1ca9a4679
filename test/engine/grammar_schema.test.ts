/** JSON Schema by constrained decoding: what it accepts and generates, judged by zod's reading of the same schema. */
import { describe, expect, test } from "bun:test";
import { z } from "zod";
import { type GrammarState, compileGrammar } from "../../src/engine/grammar.ts";
import { formats } from "../../src/engine/grammar/formats.ts";
import type { JsonValue } from "../../src/engine/messages.ts";
import {
  allowedIds,
  isAllowed,
  pick,
  seededRandom,
  syntheticVocabulary,
} from "../support/grammar_vocabulary.ts";
import { mutated, randomExample } from "../support/random_schema.ts";

const vocabulary = syntheticVocabulary(2000);
const endId = vocabulary.endIds[0]!;
const encoder = new TextEncoder();

function start(schema: JsonValue): GrammarState {
  return compileGrammar({ kind: "json_schema", schema }, vocabulary).start();
}

/** Byte tokens only: the first 256 ids are the bytes. */
function accepts(schema: JsonValue, text: string): boolean {
  const state = start(schema);
  return encoder.encode(text).every((byte) => state.accept(byte)) && state.accept(endId);
}

function acceptsValue(schema: JsonValue, value: JsonValue): boolean {
  return accepts(schema, JSON.stringify(value));
}

function oracle(schema: JsonValue): z.ZodType {
  return z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);
}

/** Draws allowed tokens; half of the time one that closes something (or is what the test's patterns end in), so that it ends. */
function randomWalk(state: GrammarState, random: () => number): string {
  const output: Uint8Array[] = [];
  for (let step = 0; step < 3000; step++) {
    const allowed = allowedIds(state.mask());
    const closing =
      random() < 0.5
        ? allowed.filter((id) => id === endId || (id < 256 && '"}]b@\\\\'.includes(String.fromCharCode(id))))
        : [];
    const id = pick(closing.length > 0 ? closing : allowed, random);
    expect(state.accept(id)).toBe(true);
    if (id === endId) return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(output));
    output.push(vocabulary.bytes[id]!);
  }
  throw new Error("the walk did not end");
}

describe("random schemas", () => {
  test("accept their values, and changed values exactly when zod does", () => {
    const random = seededRandom(1);
    const verdicts = { valid: 0, invalid: 0 };
    for (let round = 0; round < 300; round++) {
      const { schema, value } = randomExample(random);
      const zod = oracle(schema);
      for (let i = 0; i < 4; i++) {
        const original = value();
        expect(zod.safeParse(original).success, JSON.stringify({ schema, original })).toBe(true);
        expect(acceptsValue(schema, original), JSON.stringify({ schema, original })).toBe(true);
        const changed = mutated(original, random);
        const valid = zod.safeParse(changed).success;
        verdicts[valid ? "valid" : "invalid"]++;
        expect(acceptsValue(schema, changed), JSON.stringify({ schema, changed })).toBe(valid);
      }
    }
    expect(verdicts.valid).toBeGreaterThan(100);
    expect(verdicts.invalid).toBeGreaterThan(100);
  });

  test("accept the same value in any tokenisation", () => {
    const random = seededRandom(2);
    for (let round = 0; round < 60; round++) {
      const { schema, value } = randomExample(random);
      const text = encoder.encode(JSON.stringify(value()));
      const state = start(schema);
      for (let at = 0; at < text.length;) {
        const fitting = vocabulary.bytes.flatMap((bytes, id) =>
          bytes.length > 0 && bytes.every((byte, i) => text[at + i] === byte) ? [id] : [],
        );
        const id = pick(fitting, random);
        expect(isAllowed(state.mask(), id)).toBe(true);
        expect(state.accept(id)).toBe(true);
        at += vocabulary.bytes[id]!.length;
      }
      expect(state.accept(endId)).toBe(true);
    }
  });

  test("generate values that parse and that zod finds valid, whatever tokens are drawn", () => {
    const random = seededRandom(3);
    for (let round = 0; round < 200; round++) {
      const { schema } = randomExample(random);
      const text = randomWalk(start(schema), random);
      const verdict = oracle(schema).safeParse(JSON.parse(text));
      expect(verdict.success, `${JSON.stringify(schema)} ${text} ${verdict.error?.message}`).toBe(true);
    }
  });
});

describe("schemas that zod writes", () => {
  const types = {
    strings: z.object({
      a: z.email(),
      b: z.uuidv4(),
      c: z.iso.datetime(),
      d: z.iso.date(),
      e: z.ipv4(),
      f: z.ipv6(),
    }),
    times: z.tuple([
      z.iso.time(),
      z.iso.datetime({ offset: true }),
      z.string().length(3),
      z.string().startsWith("ab"),
    ]),
    union: z.discriminatedUnion("kind", [
      z.object({ kind: z.literal("circle"), radius: z.number().positive() }),
      z.object({ kind: z.literal("square"), side: z.int().min(1).max(12), note: z.string().nullable() }),
    ]),
    record: z.record(z.string(), z.number().nonnegative()),
    optional: z.object({
      a: z.string().optional(),
      b: z.enum(["x", "y"]).nullable(),
      c: z.array(z.boolean()).min(1).max(3),
    }),
  };
  test.each(Object.keys(types) as (keyof typeof types)[])("%s: generated values satisfy the type", (name) => {
    const schema = JSON.parse(JSON.stringify(z.toJSONSchema(types[name]))) as JsonValue;
    const random = seededRandom(10);
    for (let i = 0; i < 15; i++) {
      const text = randomWalk(start(schema), random);
      expect(types[name].safeParse(JSON.parse(text)).success, text).toBe(true);
    }
  });
});

describe("single keywords", () => {
  test.each(Object.keys(formats))("format %s generates only what zod finds valid", (format) => {
    const schema = { type: "string", format };
    const random = seededRandom(9);
    for (let i = 0; i < 25; i++) {
      const text = randomWalk(start(schema), random);
      expect(oracle(schema).safeParse(JSON.parse(text)).success, text).toBe(true);
    }
  });

  test("recursion through $ref follows to any depth", () => {
    const schema: JsonValue = {
      $ref: "#/$defs/tree",
      $defs: {
        tree: {
          type: "object",
          properties: { left: { $ref: "#/$defs/tree" }, value: { type: "integer" } },
          required: ["value"],
          additionalProperties: false,
        },
      },
    };
    const nested = (depth: number): JsonValue =>
      depth === 0 ? { value: 1 } : { left: nested(depth - 1), value: depth };
    for (const depth of [0, 1, 50]) expect(acceptsValue(schema, nested(depth))).toBe(true);
    expect(acceptsValue(schema, { left: { left: {} }, value: 1 })).toBe(false);
  });

  test("references with siblings, definitions, escaped pointers and the root", () => {
    const schema: JsonValue = {
      type: "object",
      properties: {
        "a/b": { type: "string" },
        x: { $ref: "#/properties/a~1b", description: "same", minLength: 2 },
        y: { $ref: "#" },
      },
      additionalProperties: false,
    };
    expect(acceptsValue(schema, { "a/b": "", x: "ab", y: { x: "abc" } })).toBe(true);
    expect(acceptsValue(schema, { x: "a" })).toBe(false);
    expect(acceptsValue(schema, { y: { y: 1 } })).toBe(false);
  });

  test("allOf merges objects, and anyOf beside properties distributes", () => {
    const schema: JsonValue = {
      allOf: [
        { type: "object", properties: { a: { type: "integer", minimum: 1 } }, required: ["a"] },
        {
          type: "object",
          properties: { a: { maximum: 5, type: "number" }, b: { type: "string" } },
          required: ["b"],
        },
      ],
      anyOf: [
        { properties: { kind: { const: "x" } }, required: ["kind"] },
        { properties: { kind: { const: "y" } } },
      ],
    };
    expect(acceptsValue(schema, { a: 3, b: "", kind: "x" })).toBe(true);
    expect(acceptsValue(schema, { a: 3, b: "" })).toBe(true);
    expect(acceptsValue(schema, { a: 6, b: "" })).toBe(false);
    expect(acceptsValue(schema, { a: 3.5, b: "" })).toBe(false);
    expect(acceptsValue(schema, { a: 3, b: "", kind: "z" })).toBe(false);
    expect(acceptsValue(schema, { a: 3 })).toBe(false);
  });

  test("allOf with additionalProperties false excludes the other side's properties", () => {
    const schema: JsonValue = {
      allOf: [
        { type: "object", properties: { a: {} }, additionalProperties: false },
        { type: "object", properties: { b: {} } },
      ],
    };
    expect(acceptsValue(schema, { a: 1 })).toBe(true);
    expect(acceptsValue(schema, { a: 1, b: 2 })).toBe(false);
  });

  test("lengths count code points, however they are spelled", () => {
    const schema = { type: "string", minLength: 2, maxLength: 2 };
    for (const text of ['"ab"', '"\\"\\\\"', '"😀😀"', '"\\ud83d\\ude00a"', '"\\u00e9é"', '"\\n\\/"']) {
      expect(accepts(schema, text), text).toBe(true);
    }
    for (const text of [
      '"a"',
      '"abc"',
      '"😀"',
      '"\\ud83d\\ude00"',
      '"\\ud83da"',
      '"\\ude00\\ud83d"',
      '"a\n"',
      '"\\x"',
      '"\\u00g0"',
    ]) {
      expect(accepts(schema, text), text).toBe(false);
    }
  });

  test("additional properties cannot spell a named one differently", () => {
    const schema: JsonValue = {
      type: "object",
      properties: { ab: { type: "integer" } },
      additionalProperties: { type: "string" },
    };
    expect(accepts(schema, '{"ab":1,"a":"","abc":"x","":""}')).toBe(true);
    expect(accepts(schema, '{"ab":"x"}')).toBe(false);
    expect(accepts(schema, '{"\\u0061b":"x"}')).toBe(false);
    expect(accepts(schema, '{"a\\u0062":"x"}')).toBe(false);
  });

  test("white space is optional and bounded", () => {
    const schema: JsonValue = {
      type: "object",
      properties: { a: { type: "array", items: { type: "integer" } } },
      additionalProperties: false,
    };
    expect(accepts(schema, JSON.stringify({ a: [1, 2] }, null, 2))).toBe(true);
    expect(accepts(schema, '{ "a": [1, 2] }')).toBe(true);
    expect(accepts(schema, '{"a":  [1]}')).toBe(false);
    expect(accepts(schema, '{"a":[1],\n\n}')).toBe(false);
    expect(accepts(schema, `{\n${" ".repeat(33)}"a":[]}`)).toBe(false);
    expect(accepts(schema, ' {"a":[]}')).toBe(false);
    expect(accepts(schema, '{"a":[]} ')).toBe(false);
  });

  test("integer bounds are exact over every number of digits", () => {
    for (const [minimum, maximum] of [
      [-105, 12],
      [0, 0],
      [7, 1003],
      [-3000, -99],
      [-1, 1],
      [99, 101],
    ] as const) {
      const schema = { type: "integer", minimum, maximum };
      for (let n = -3100; n <= 1100; n += n % 100 === 0 || Math.abs(n) < 130 ? 1 : 7) {
        expect(accepts(schema, String(n)), `${n} in [${minimum}, ${maximum}]`).toBe(
          minimum <= n && n <= maximum,
        );
      }
      for (const text of ["-0", "00", "01", "1.0", "1e1", "+1", ""])
        expect(accepts(schema, text)).toBe(false);
    }
  });

  test("number bounds are exact to the last digit", () => {
    const random = seededRandom(12);
    const bounds = [-1000, -12.5, -1, -0.25, -1e-7, 0, 1e-7, 0.125, 0.3, 1, 9.99, 10, 99.5, 1234.0625];
    const verdicts = [0, 0];
    for (let round = 0; round < 150; round++) {
      const [low, high] = [pick(bounds, random), pick(bounds, random)].toSorted((x, y) => x - y) as [
        number,
        number,
      ];
      const [lowOpen, highOpen] = [random() < 0.5, random() < 0.5];
      if (low === high && (lowOpen || highOpen)) continue;
      const schema: JsonValue = {
        type: "number",
        [lowOpen ? "exclusiveMinimum" : "minimum"]: low,
        [highOpen ? "exclusiveMaximum" : "maximum"]: high,
      };
      for (const near of [low, high, (low + high) / 2]) {
        for (const step of [0, 1e-7, -1e-7, 0.1, -0.1, 1, -1, 25, -25]) {
          const text = (near + step).toFixed(random() < 0.5 ? 7 : 1);
          if (Number(text) === 0 && text.startsWith("-")) continue; // "-0.0" is never generated.
          const value = Number(text);
          const valid = (lowOpen ? value > low : value >= low) && (highOpen ? value < high : value <= high);
          verdicts[Number(valid)]!++;
          expect(accepts(schema, text), JSON.stringify({ schema, text })).toBe(valid);
        }
      }
    }
    expect(Math.min(...verdicts)).toBeGreaterThan(500);
  });

  test("numbers are those of JSON and never overflow", () => {
    const schema = { type: "number" };
    for (const text of [
      "0",
      "-0",
      "1.5",
      "1e5",
      "1E+5",
      "-12.25e-3",
      "9.99e307",
      "1e-300",
      "123456789012345678901",
    ]) {
      expect(accepts(schema, text), text).toBe(true);
    }
    for (const text of ["01", "1.", ".5", "-", "1e", "1e999", "NaN", "+1", "1e309", "12e300"]) {
      expect(accepts(schema, text), text).toBe(false);
    }
  });

  test("without a type, the keywords' own types are generated; with none, anything", () => {
    expect(acceptsValue({ properties: { a: {} } }, { a: [1, { b: null }] })).toBe(true);
    expect(acceptsValue({ minLength: 1 }, "")).toBe(false);
    expect(acceptsValue({}, [1, "x", { y: [] }])).toBe(true);
    expect(acceptsValue({ type: ["string", "null"] }, null)).toBe(true);
  });
});
