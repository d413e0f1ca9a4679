/** Contrasted sequences: who runs in which step (fake runner), and real weights against the formula on separately computed logits. */
import { afterAll, describe, expect, test } from "bun:test";
import { EngineCore } from "../../src/engine/core.ts";
import type { LlamaRunner } from "../../src/engine/llama_runner.ts";
import type { ContrastRequest, EngineEvent, GenerateRequest } from "../../src/engine/messages.ts";
import { CoreDriver } from "../support/engine_core.ts";
import { contrasted, expectedTokens, type FakeRunnerOptions, greedy } from "../support/fake_runner.ts";
import { openModel } from "../support/models.ts";
import { familyDirectory } from "../support/paths.ts";

const contrast: ContrastRequest = { prompt: [], strength: 1.5, plausibility: 0.1 };
const tokens = (count: number, start = 0) =>
  Array.from({ length: count }, (_, index) => (start + index * 7) % 50);

function recorded(options: FakeRunnerOptions): { driver: CoreDriver; steps: number[][] } {
  const steps: number[][] = [];
  const driver = new CoreDriver({
    ...options,
    onStep: (rows) => steps.push(rows.map((row) => row.tokens.length)),
  });
  return { driver, steps };
}

describe("scheduling", () => {
  test("the guide takes the shared prefix from the cache, and both prompts end in one step", () => {
    const { driver, steps } = recorded({ pageSize: 4, maxTokens: 64 });
    const prompt = tokens(21);
    const other = [...prompt.slice(0, 17), 3, 3, 3];
    driver.submit("a", prompt, { maxTokens: 4 }, { contrast: { ...contrast, prompt: other } });
    driver.drain();
    // 20 of 21 tokens first; of the guide's 20 tokens 16 lie in pages of the first prompt.
    expect(steps).toEqual([[20], [1, 4], [1, 1], [1, 1], [1, 1]]);
    expect(driver.of("a").tokens).toEqual(
      expectedTokens(prompt, { ...greedy, maxTokens: 4 }, 50, { ...contrast, prompt: other }),
    );
    expect(driver.of("a").tokens).not.toEqual(expectedTokens(prompt, { ...greedy, maxTokens: 4 }));
  });

  test("a pair waits until two rows are free, and counts as one request", () => {
    const { driver, steps } = recorded({ maxRows: 3 });
    driver.submit("a", tokens(3), { maxTokens: 8 });
    driver.submit("b", tokens(3, 5), { maxTokens: 8 });
    driver.submit(
      "pair",
      tokens(3, 9),
      { maxTokens: 2 },
      { contrast: { ...contrast, prompt: tokens(4, 2) } },
    );
    driver.step();
    expect(driver.core.stats).toMatchObject({ running: 2, waiting: 1 });
    driver.drain();
    expect(Math.max(...steps.map((rows) => rows.length))).toBe(2);
    expect(driver.of("pair").finish?.reason).toBe("length");
  });

  test("when pages run out both lose theirs together, and the answer is the same", () => {
    const { driver } = recorded({ pageSize: 2, pageCount: 20 });
    const other = { ...contrast, prompt: tokens(5, 4) };
    driver.submit("old", tokens(6), { maxTokens: 16 });
    driver.submit("pair", tokens(6, 3), { maxTokens: 12 }, { contrast: other });
    driver.drain();
    expect(driver.core.stats.preemptions).toBeGreaterThan(0);
    expect(driver.of("pair").tokens).toEqual(
      expectedTokens(tokens(6, 3), { ...greedy, maxTokens: 12 }, 50, other),
    );
    expect(driver.core.stats.pagesUsed).toBe(0);
  });

  test("an abort at any step frees both", () => {
    for (let after = 0; after < 8; after++) {
      const { driver } = recorded({ pageSize: 2, maxTokens: 4 });
      driver.submit("pair", tokens(6), { maxTokens: 8 }, { contrast: { ...contrast, prompt: tokens(9, 4) } });
      for (let step = 0; step < after; step++) driver.step();
      driver.abort("pair");
      expect(driver.core.stats).toMatchObject({ running: 0, waiting: 0, pagesUsed: 0 });
      expect(driver.core.idle).toBe(true);
    }
  });

  test("a step that fails ends a pair with one event", () => {
    const driver = new CoreDriver({
      onStep: () => {
        throw new Error("lost");
      },
    });
    driver.submit("pair", tokens(1), { maxTokens: 8 }, { contrast: { ...contrast, prompt: tokens(1, 4) } });
    expect(driver.step()?.message).toBe("lost");
    expect(driver.of("pair").events.map(({ type }) => type)).toEqual(["finish"]);
    expect(driver.core.idle).toBe(true);
  });

  test("what never fits is refused with the reason", () => {
    const { driver } = recorded({ pageSize: 2, pageCount: 10, maxModelLen: 30, maxRows: 1 });
    const refused = (id: string, prompt: number[], other: number[]) => {
      driver.submit(id, prompt, { maxTokens: 4 }, { contrast: { ...contrast, prompt: other } });
      return driver.of(id).finish?.error;
    };
    expect(refused("a", tokens(3), tokens(40))).toContain("The prompt has 40 tokens");
    expect(refused("b", tokens(3), [])).toContain("no tokens");
    expect(refused("c", tokens(3), [50])).toContain("the token id 50");
    expect(refused("d", tokens(3), tokens(3))).toContain("takes two sequences");
    const wide = recorded({ pageSize: 2, pageCount: 10, maxModelLen: 30 }).driver;
    wide.submit("e", tokens(8), { maxTokens: 4 }, { contrast: { ...contrast, prompt: tokens(9) } });
    expect(wide.of("e").finish?.error).toContain("here of up to 12 and 11 tokens");
  });
});

describe("real weights", async () => {
  const runner = await openModel(familyDirectory("llama-gqa-rope3"), { dtype: "float32" });
  afterAll(() => runner.close());
  const prompt = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 512);
  const other = [...prompt.slice(0, 34), 9, 8, 7];
  const params = { ...greedy, maxTokens: 12, logprobs: 5 };
  const request = (id: string, more: Partial<GenerateRequest> = {}): GenerateRequest => ({
    id,
    prompt,
    params,
    group: null,
    priority: 0,
    cacheSalt: "",
    ...more,
  });

  function run(requests: GenerateRequest[]): Map<string, EngineEvent[]> {
    const core = new EngineCore({
      runner,
      compileGrammar: () => {
        throw new Error("no grammar here");
      },
      endIds: [],
    });
    const found = new Map<string, EngineEvent[]>(requests.map(({ id }) => [id, []]));
    for (const each of requests) core.generate(each);
    while (!core.idle) {
      expect(core.step()).toBeNull();
      for (const [id, event] of core.takeOutput().events)
        if (event.type === "token") found.get(id)!.push(event);
    }
    return found;
  }

  const pushed = { ...contrast, prompt: other };

  test("each token is the best of the formula on the logits of two plain sequences, with its logprob", () => {
    const events = run([request("pair", { contrast: pushed })]).get("pair")!;
    expect(events.length).toBe(12);
    const said: number[] = [];
    for (const event of events) {
      if (event.type !== "token") continue;
      const logits = contrasted(
        lastLogits(runner, [...prompt, ...said]),
        lastLogits(runner, [...other, ...said]),
        pushed,
      );
      const best = logits.indexOf(Math.max(...logits));
      const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - logits[best]!), 0));
      expect(event.id).toBe(best);
      expect(event.logprob!.logprob).toBeCloseTo(-total, 4);
      said.push(event.id);
    }
    expect(said).not.toEqual(
      run([request("plain")])
        .get("plain")!
        .map((event) => "id" in event && event.id) as number[],
    );
  });

  test("strength 0 is the plain request, bit for bit", () => {
    const plain = run([request("a")]).get("a")!;
    expect(run([request("a", { contrast: { ...pushed, strength: 0 } })]).get("a")).toEqual(plain);
  });

  test("neighbours change nothing, bit for bit, sampled too", () => {
    const warm = { ...params, temperature: 1, topP: 0.95, seed: 7, presencePenalty: 0.3 };
    const pair = request("pair", { contrast: pushed, params: warm });
    const alone = run([pair]).get("pair")!;
    const crowd = [
      request("x", { prompt: prompt.slice(3) }),
      pair,
      request("y", { contrast: { ...contrast, prompt: [4, 2] } }),
      request("z", { prompt: other }),
    ];
    expect(run(crowd).get("pair")).toEqual(alone);
  });
});

function lastLogits(runner: LlamaRunner, ids: number[]): number[] {
  const pages = Array.from({ length: Math.ceil(ids.length / runner.pageSize) }, (_, i) => i);
  const logits = runner.logitsOf({ tokens: ids, past: 0, pages, sample: null, score: null, embed: false });
  return Array.from(logits.subarray((ids.length - 1) * runner.vocabularySize));
}
