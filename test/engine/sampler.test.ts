/** The rows that the sampler prepares, against the order of operations in koala.h, and when a sequence ends. */
import { describe, expect, test } from "bun:test";
import type { Grammar, GrammarState } from "../../src/engine/grammar.ts";
import { Sampler, type SamplerInput } from "../../src/engine/sampler.ts";
import { uniform } from "../../src/util/rng.ts";
import { CoreDriver } from "../support/engine_core.ts";
import { greedy, maskOf } from "../support/fake_runner.ts";

const make = (input: Partial<SamplerInput> & { params: SamplerInput["params"] }) =>
  new Sampler({ prompt: [5, 6, 5], grammar: null, endIds: [], vocabularySize: 50, ...input });

const allowedIds = (mask: Uint32Array | null) =>
  Array.from({ length: 64 }, (_, id) => id).filter(
    (id) => mask === null || (mask[id >>> 5]! >>> (id & 31)) & 1,
  );

test("token i is drawn with number i of the seed's stream", () => {
  const sampler = make({ params: { ...greedy, temperature: 1, seed: 99 } });
  for (let index = 0; index < 4; index++) {
    expect(sampler.next().uniform).toBe(uniform(99, index));
    expect(sampler.next().uniform).toBe(uniform(99, index));
    sampler.accept(1);
  }
});

describe("history", () => {
  test("is empty where no penalty is on", () => {
    expect(make({ params: greedy }).next().history).toEqual([]);
  });

  test("lists distinct tokens of prompt and answer with the times they were generated", () => {
    const sampler = make({ params: { ...greedy, repetitionPenalty: 1.2 } });
    for (const id of [6, 9, 9]) sampler.accept(id);
    expect(sampler.next()).toMatchObject({ history: [5, 6, 9], counts: [0, 1, 2] });
  });

  test("leaves the prompt out where only frequency and presence count", () => {
    const sampler = make({ params: { ...greedy, frequencyPenalty: 1 } });
    for (const id of [6, 9, 9]) sampler.accept(id);
    expect(sampler.next()).toMatchObject({ history: [6, 9], counts: [1, 2] });
  });
});

describe("endings", () => {
  test("a stop id cannot come before minTokens and ends the sequence after", () => {
    const sampler = make({ params: { ...greedy, minTokens: 2, stopTokenIds: [3, 40] } });
    for (let index = 0; index < 2; index++) {
      const ids = allowedIds(sampler.next().mask);
      expect([ids.length, ids.includes(3), ids.includes(40), ids.includes(49)]).toEqual([
        48,
        false,
        false,
        true,
      ]);
      expect(sampler.accept(8)).toBeNull();
    }
    expect(sampler.next().mask).toBeNull();
    expect(sampler.accept(40)).toEqual({ reason: "stop", stopTokenId: 40, error: null });
  });

  test("maxTokens ends with length, a stop id in the last place with stop", () => {
    const sampler = make({ params: { ...greedy, maxTokens: 2, stopTokenIds: [3] } });
    expect(sampler.accept(1)).toBeNull();
    expect(sampler.accept(1)?.reason).toBe("length");
    const other = make({ params: { ...greedy, maxTokens: 1, stopTokenIds: [3] } });
    expect(other.accept(3)?.reason).toBe("stop");
  });
});

describe("a grammar", () => {
  test("decides the mask, and its end ends the sequence", () => {
    const params = { ...greedy, stopTokenIds: [0] };
    const sampler = make({ params, grammar: script([[7], [8, 9], [0]]), endIds: [0] });
    expect(allowedIds(sampler.next().mask)).toEqual([7]);
    expect(sampler.accept(7)).toBeNull();
    expect(allowedIds(sampler.next().mask)).toEqual([8, 9]);
    expect(sampler.accept(9)).toBeNull();
    expect(sampler.accept(0)).toEqual({ reason: "stop", stopTokenId: 0, error: null });
  });

  test("that is complete ends the sequence even where no stop id was asked for", () => {
    const withEnd = make({ params: greedy, grammar: script([[7], [0]]), endIds: [0] });
    expect(withEnd.accept(7)).toBeNull();
    expect(withEnd.accept(0)).toEqual({ reason: "stop", stopTokenId: 0, error: null });
    const without = make({ params: greedy, grammar: script([[7]]), endIds: [0] });
    expect(without.accept(7)).toEqual({ reason: "stop", stopTokenId: null, error: null });
  });

  test("and minTokens are both kept while they can be; then the grammar wins", () => {
    const params = { ...greedy, minTokens: 5, stopTokenIds: [0] };
    const sampler = make({ params, grammar: script([[0, 7], [0]]), endIds: [0] });
    expect(allowedIds(sampler.next().mask)).toEqual([7]);
    sampler.accept(7);
    expect(allowedIds(sampler.next().mask)).toEqual([0]);
  });

  test("that throws while it is compiled, asked or fed ends its own request only", () => {
    const broken: Record<string, () => Grammar> = {
      compile: () => {
        throw new Error("The schema nests 5000 levels deep; at most 64 are taken.");
      },
      mask: () => ({ start: () => ({ ...script([[1]]), mask: explode }) }),
      accept: () => ({ start: () => ({ ...script([[1]]), accept: explode }) }),
    };
    const compile = (spec: { kind: string; text?: string }) => broken[spec.text!]!();
    const driver = new CoreDriver({}, { compile: compile as never, endIds: [0] });
    driver.submit("neighbour", [1, 2, 3]);
    for (const text of Object.keys(broken))
      driver.submit(text, [1, 2, 3], { grammar: { kind: "literal", text } });
    driver.drain();
    expect(driver.of("compile").finish?.error).toContain("5000 levels deep");
    expect(driver.of("mask").finish?.error).toBe("The format took too long.");
    expect(driver.of("accept").finish?.error).toBe("The format took too long.");
    expect(driver.of("neighbour").tokens.length).toBe(16);
  });

  test("forces the tokens that it leaves", () => {
    const compile = () => ({ start: () => script([[11], [12, 13], [14], [0]]) });
    const driver = new CoreDriver({}, { compile, endIds: [0] });
    driver.submit("a", [1, 2, 3], { grammar: { kind: "literal", text: "" }, stopTokenIds: [0] });
    driver.drain();
    const [first, second, ...rest] = driver.of("a").tokens;
    expect([first, [12, 13].includes(second!), rest]).toEqual([11, true, [14, 0]]);
    expect(driver.of("a").finish?.reason).toBe("stop");
  });
});

function explode(): never {
  throw new Error("The format took too long.");
}

/** A grammar that allows these ids at these places. */
function script(places: number[][], start = 0): GrammarState {
  let at = start;
  return {
    mask: () => maskOf(Array.from({ length: 50 }, (_, id) => places[at]?.includes(id) ?? false)),
    accept: (id) => places[at++]?.includes(id) ?? false,
    get done() {
      return at >= places.length;
    },
    clone: () => script(places, at),
  };
}
