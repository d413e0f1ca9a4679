/** Constrained decoding: microseconds for a mask and for accepting a token, on a synthetic vocabulary.
 *  `bun bench/grammar.bench.ts [vocabulary size]`; the first pass computes masks, the second finds them remembered. */
import { compileGrammar, type Grammar } from "../src/engine/grammar.ts";
import type { GrammarSpec } from "../src/engine/messages.ts";
import { sampleToken, seededRandom, syntheticVocabulary } from "../test/support/grammar_vocabulary.ts";

const size = Number(process.argv[2] ?? 128_000);
const vocabulary = syntheticVocabulary(size);

const person = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1, maxLength: 40 },
    age: { type: "integer", minimum: 0, maximum: 130 },
    email: { type: "string", format: "email" },
    tags: { type: "array", items: { type: "string" }, maxItems: 5 },
    role: { enum: ["user", "admin", "guest"] },
    address: {
      type: "object",
      properties: { street: { type: "string" }, zip: { type: "string", pattern: "^[0-9]{5}$" } },
      required: ["street", "zip"],
      additionalProperties: false,
    },
  },
  required: ["name", "age", "tags", "address"],
  additionalProperties: false,
};

const cases: [name: string, spec: GrammarSpec][] = [
  ["json_object", { kind: "json_object" }],
  ["person schema", { kind: "json_schema", schema: person }],
  ["open schema", { kind: "json_schema", schema: { ...person, additionalProperties: true } }],
  ["regex", { kind: "regex", pattern: "([a-z]+ ){3,20}[.!?]" }],
];

const started = performance.now();
compileGrammar({ kind: "literal", text: "x" }, vocabulary);
console.log(`vocabulary of ${size}: tree built in ${(performance.now() - started).toFixed(0)} ms`);

for (const [name, spec] of cases) {
  const before = performance.now();
  const grammar = compileGrammar(spec, vocabulary);
  console.log(`${name}: compiled in ${(performance.now() - before).toFixed(1)} ms`);
  for (const pass of ["first", "second"]) report(pass, run(grammar));
}

/** 20 outputs of at most 150 tokens. */
function run(grammar: Grammar): { masks: number[]; accepts: number[] } {
  const masks: number[] = [];
  const accepts: number[] = [];
  for (let seed = 1; seed <= 20; seed++) {
    const random = seededRandom(seed);
    const state = grammar.start();
    for (let step = 0; step < 150 && !state.done; step++) {
      const beforeMask = performance.now();
      const mask = state.mask();
      masks.push(performance.now() - beforeMask);
      const id = sampleToken(mask, random);
      const beforeAccept = performance.now();
      state.accept(id);
      accepts.push(performance.now() - beforeAccept);
    }
  }
  return { masks, accepts };
}

function report(pass: string, { masks, accepts }: { masks: number[]; accepts: number[] }): void {
  const describe = (times: number[]) => {
    const sorted = times.toSorted((x, y) => x - y);
    const at = (share: number) => (1000 * sorted[Math.floor(share * (sorted.length - 1))]!).toFixed(1);
    return `median ${at(0.5)} us, p95 ${at(0.95)} us, most ${at(1)} us`;
  };
  console.log(`  ${pass} pass, ${masks.length} tokens: mask ${describe(masks)}; accept ${describe(accepts)}`);
}
