/** Constrained decoding over a vocabulary: masks, end of output, tokens that span several parts, memory. */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import {
  type GrammarState,
  type Vocabulary,
  compileGrammar,
  validateGrammar,
} from "../../src/engine/grammar.ts";
import { limits } from "../../src/engine/grammar/errors.ts";
import type { GrammarSpec } from "../../src/engine/messages.ts";
import {
  allowedIds,
  isAllowed,
  pick,
  seededRandom,
  syntheticVocabulary,
} from "../support/grammar_vocabulary.ts";
import { randomExample } from "../support/random_schema.ts";

const vocabulary = syntheticVocabulary(1500);
const endId = vocabulary.endIds[0]!;
const encoder = new TextEncoder();

function idOf(text: string, from: Vocabulary = vocabulary): number {
  const wanted = Buffer.from(text);
  return from.bytes.findIndex((bytes) => wanted.equals(bytes));
}

function after(spec: GrammarSpec, text: string): GrammarState {
  const state = compileGrammar(spec, vocabulary).start();
  for (const byte of encoder.encode(text)) expect(state.accept(byte)).toBe(true);
  return state;
}

/** By definition: a token is allowed where its bytes are, one after the other. */
function bruteForce(state: GrammarState, id: number): boolean {
  const bytes = vocabulary.bytes[id]!;
  const copy = state.clone();
  return bytes.length > 0 && bytes.every((byte) => copy.accept(byte));
}

describe("masks", () => {
  test("equal brute force over bytes at every step of random outputs", () => {
    const random = seededRandom(11);
    const specs: GrammarSpec[] = [
      { kind: "json_object" },
      { kind: "regex", pattern: "(the |[a-f]{2,9}|é+中?)*[.]" },
      {
        kind: "json_schema",
        schema: { type: "array", minItems: 1, items: { type: "string", maxLength: 300, minLength: 60 } },
      },
      { kind: "json_schema", schema: { type: "object", properties: { a: {}, ab: { type: "string" } } } },
    ];
    for (let i = 0; i < 12; i++) specs.push({ kind: "json_schema", schema: randomExample(random).schema });
    let allowedCount = 0;
    for (const spec of specs) {
      const state = compileGrammar(spec, vocabulary).start();
      for (let step = 0; step < 25 && !state.done; step++) {
        const mask = state.mask();
        for (const id of vocabulary.bytes.keys()) {
          if (id === endId) expect(isAllowed(mask, id)).toBe(state.clone().accept(endId));
          else expect(isAllowed(mask, id)).toBe(bruteForce(state, id));
        }
        const allowed = allowedIds(mask).filter((id) => id !== endId);
        allowedCount += allowed.length;
        const long = allowed.filter((id) => vocabulary.bytes[id]!.length > 1);
        expect(state.accept(pick(random() < 0.5 && long.length > 0 ? long : allowed, random))).toBe(true);
      }
    }
    expect(allowedCount).toBeGreaterThan(10_000);
  });

  test("tokens that span several parts of JSON are allowed", () => {
    const spec: GrammarSpec = {
      kind: "json_schema",
      schema: {
        type: "array",
        items: {
          type: "object",
          properties: { id: { type: "string" } },
          required: ["id"],
          additionalProperties: false,
        },
      },
    };
    expect(isAllowed(after(spec, '[{"id').mask(), idOf('":"'))).toBe(true);
    expect(isAllowed(after(spec, '[{"id').mask(), idOf('": "'))).toBe(true);
    expect(isAllowed(after(spec, '[{"id":"x').mask(), idOf('"},{"'))).toBe(true);
    expect(isAllowed(after(spec, '[{"id":"x').mask(), idOf('","'))).toBe(false);
    expect(isAllowed(after(spec, "").mask(), idOf('["'))).toBe(false);
    expect(isAllowed(after(spec, "").mask(), idOf("[]"))).toBe(true);
  });

  test("half a character is followed by its other half only", () => {
    const state = after({ kind: "json_object" }, '{"');
    expect(state.accept(0xf0)).toBe(true);
    expect(
      allowedIds(state.mask()).every(
        (id) => vocabulary.bytes[id]![0]! >= 0x90 && vocabulary.bytes[id]![0]! <= 0xbf,
      ),
    ).toBe(true);
    expect(state.accept(0x41)).toBe(false);
    expect(state.accept(0x9f)).toBe(true);
    expect(state.accept(vocabulary.bytes.findIndex((bytes) => bytes.length === 2 && bytes[0] === 0x98))).toBe(
      true,
    );
    expect(isAllowed(state.mask(), idOf('":"'))).toBe(true);
  });
});

describe("the end of the output", () => {
  test("is allowed exactly where the text is complete", () => {
    const state = after({ kind: "regex", pattern: "ab?(cd)*" }, "");
    const verdicts: boolean[] = [];
    for (const byte of encoder.encode("abcdc")) {
      state.accept(byte);
      verdicts.push(isAllowed(state.mask(), endId));
    }
    expect(verdicts).toEqual([true, true, false, true, false]);
    expect(state.accept(endId)).toBe(false);
    expect(state.accept(0x64)).toBe(true);
    expect(state.done).toBe(false);
  });

  test("is forced when nothing else can follow", () => {
    const state = after({ kind: "json_object" }, '{"a":1}');
    expect(state.done).toBe(true);
    expect(allowedIds(state.mask())).toEqual([endId]);
    expect(state.accept(endId)).toBe(true);
    expect(state.done).toBe(true);
    expect(state.accept(0x20)).toBe(false);
    expect(allowedIds(state.mask())).toEqual([endId]);
  });
});

describe("states", () => {
  test("are unchanged by a refused token and independent of their clones", () => {
    const state = after({ kind: "literal", text: "abc" }, "a");
    const copy = state.clone();
    expect(state.accept(idOf("abc"))).toBe(false);
    expect(state.accept(-1)).toBe(false);
    expect(state.accept(vocabulary.bytes.length - 1)).toBe(false);
    for (const byte of encoder.encode("bc")) expect(state.accept(byte)).toBe(true);
    expect(state.done).toBe(true);
    expect(copy.done).toBe(false);
    expect(copy.accept(0x62)).toBe(true);
  });

  test("survive the release of their grammar's memory", () => {
    const saved = { ...limits };
    const spec: GrammarSpec = {
      kind: "json_schema",
      schema: { type: "object", properties: { deep: {}, s: { maxLength: 500 } } },
    };
    const text = `{"deep":${"[".repeat(40)}{"x":"é"}${"]".repeat(40)},"s":"${"y".repeat(100)}"}`;
    try {
      limits.machineBytes = 0;
      limits.maskBytes = 0;
      const state = compileGrammar(spec, { ...vocabulary }).start();
      const usual = compileGrammar(spec, vocabulary).start();
      for (const byte of encoder.encode(text)) {
        expect(state.mask()).toEqual(usual.mask());
        expect(state.accept(byte) && usual.accept(byte)).toBe(true);
      }
      expect(state.accept(endId)).toBe(true);
    } finally {
      Object.assign(limits, saved);
    }
  });

  test("of one spec share a grammar, and old grammars are dropped when all take too much", () => {
    const own = { ...vocabulary };
    const saved = limits.cacheBytes;
    const spec = (i: number): GrammarSpec => ({ kind: "literal", text: `text ${i}` });
    const first = compileGrammar(spec(0), own);
    expect(compileGrammar(spec(0), own)).toBe(first);
    try {
      limits.cacheBytes = 50_000;
      for (let i = 1; i < 40; i++) compileGrammar(spec(i), own);
      expect(compileGrammar(spec(39), own)).toBe(compileGrammar(spec(39), own));
      expect(compileGrammar(spec(0), own)).not.toBe(first);
    } finally {
      limits.cacheBytes = saved;
    }
  });
});

describe("specs", () => {
  const accepts = (spec: GrammarSpec, text: string): boolean => {
    const state = compileGrammar(spec, vocabulary).start();
    return encoder.encode(text).every((byte) => state.accept(byte)) && state.accept(endId);
  };

  test("sequence, choice and repeat with a separator: one or more tool calls", () => {
    const call = (name: string): GrammarSpec => ({
      kind: "sequence",
      parts: [
        { kind: "literal", text: `{"name":"${name}","arguments":` },
        {
          kind: "json_schema",
          schema: { type: "object", properties: { x: { type: "integer" } }, additionalProperties: false },
        },
        { kind: "literal", text: "}" },
      ],
    });
    const spec: GrammarSpec = {
      kind: "repeat",
      part: { kind: "choice", options: [call("add"), call("address")] },
      min: 1,
      max: 3,
      separator: "\n",
    };
    const add = '{"name":"add","arguments":{"x":1}}';
    const address = '{"name":"address","arguments":{}}';
    expect(accepts(spec, add)).toBe(true);
    expect(accepts(spec, `${address}\n${add}\n${add}`)).toBe(true);
    expect(accepts(spec, "")).toBe(false);
    expect(accepts(spec, `${add}${add}`)).toBe(false);
    expect(accepts(spec, [add, add, add, add].join("\n"))).toBe(false);
    expect(accepts({ ...spec, min: 0, max: null }, "")).toBe(true);
    expect(accepts({ ...spec, min: 0, max: null }, Array(9).fill(add).join("\n"))).toBe(true);
  });

  test("json_object is any JSON object and nothing else", () => {
    for (const text of ["{}", '{"a":{"b":[true,null,-0.5e3,"\\u00e9"]}}', '{"":[],"x": {}}']) {
      expect(accepts({ kind: "json_object" }, text), text).toBe(true);
    }
    for (const text of ["[]", "1", '"x"', '{"a":}', '{"a":1,}', "{a:1}", '{"a":1}{}', "{'a':1}"]) {
      expect(accepts({ kind: "json_object" }, text), text).toBe(false);
    }
  });
});

const tokenizerFile = new URL("../../../shared/models/stories260K/tokenizer.json", import.meta.url);
const hasTokenizer = existsSync(tokenizerFile);

describe("a real vocabulary", () => {
  test.skipIf(!hasTokenizer)(
    "stories260K writes valid JSON under a schema (skipped without ../shared/models)",
    () => {
      const { model } = JSON.parse(readFileSync(tokenizerFile, "utf8")) as {
        model: { vocab: Record<string, number> };
      };
      const bytes: Uint8Array[] = [];
      for (const [piece, id] of Object.entries(model.vocab)) {
        const byte = /^<0x([0-9A-F]{2})>$/.exec(piece);
        bytes[id] = byte
          ? Uint8Array.of(parseInt(byte[1]!, 16))
          : encoder.encode(id < 3 ? "" : piece.replaceAll("▁", " "));
      }
      const real: Vocabulary = { bytes, endIds: [2] };
      const schema = { type: "object", properties: { name: { type: "string", maxLength: 20 }, ages: { type: "array", items: { type: "integer" }, maxItems: 4 } }, required: ["name", "ages"], additionalProperties: false }; // prettier-ignore
      validateGrammar({ kind: "json_schema", schema });
      for (let seed = 1; seed <= 20; seed++) {
        const random = seededRandom(seed);
        const state = compileGrammar({ kind: "json_schema", schema }, real).start();
        let text = "";
        const decoder = new TextDecoder("utf-8", { fatal: true });
        while (!state.done) {
          const id = pick(allowedIds(state.mask()), random);
          expect(state.accept(id)).toBe(true);
          text += decoder.decode(bytes[id], { stream: true });
        }
        const value = JSON.parse(text + decoder.decode()) as { name: string; ages: number[] };
        expect([...value.name].length).toBeLessThanOrEqual(20);
        expect(value.ages.length <= 4 && value.ages.every(Number.isInteger)).toBe(true);
      }
    },
  );
});
