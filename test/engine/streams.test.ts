/** Many streams on real kernels: prefixes shared, pages short, a third aborted. What is left equals, bit for bit, each request
 *  alone: tokens, logprobs and prompt logprobs. Here cached = uncached, chunked = whole and packed = single meet. */
import { afterAll, describe, expect, test } from "bun:test";
import { EngineCore } from "../../src/engine/core.ts";
import type { GenerateRequest } from "../../src/engine/messages.ts";
import type { ModelRunner } from "../../src/engine/runner.ts";
import { uniform } from "../../src/util/rng.ts";
import { greedy } from "../support/fake_runner.ts";
import { openModel } from "../support/models.ts";
import { families, familyDirectory } from "../support/paths.ts";

const STREAMS = 32;

const cases = [
  ...families.map((family) => [family, "float32", "auto"] as const),
  ["llama-gqa-rope3", "bfloat16", "auto"] as const,
  ["llama-gqa-rope3", "bfloat16", "fp8"] as const,
];

describe.each(cases)("%s in %s, cache %s", (family, dtype, kvCacheDtype) => {
  const opening = openModel(familyDirectory(family), {
    dtype,
    kvCacheDtype,
    maxSequences: 16,
    maxStepTokens: 48,
  });
  afterAll(async () => (await opening).close());

  test(`${STREAMS} streams with a third aborted equal the runs alone, and every page is free at the end`, async () => {
    const runner = await opening;
    const requests = Array.from({ length: STREAMS }, (_, index) => draw(index, runner.vocabularySize));
    const together = run(withPages(runner, 14), requests, true);
    const { stats } = together.core;
    expect(stats).toMatchObject({ running: 0, waiting: 0, pagesUsed: 0 });
    expect(stats.preemptions).toBeGreaterThan(0);
    expect(stats.prefixHitTokens).toBeGreaterThan(0);
    const survivors = requests.filter(({ id }) => !together.events.get(id)!.at(-1)!.includes("abort"));
    expect(survivors.length).toBeGreaterThan(STREAMS / 2);
    expect(survivors.length).toBeLessThan(STREAMS);
    for (const { id, params } of survivors)
      expect(together.events.get(id)!.length).toBe(params.maxTokens + 2);
    for (const request of survivors)
      expect(together.events.get(request.id)!).toEqual(run(runner, [request], false).events.get(request.id)!);
  });
});

/** Prompts of 3 to 50 tokens, most of which begin alike; half drawn, half greedy; some with penalties and prompt scores. */
function draw(index: number, vocabularySize: number): GenerateRequest {
  const length = 3 + ((index * 37) % 48);
  const shared = index % 4 === 0 ? 0 : 40;
  const prompt = Array.from({ length }, (_, at) =>
    Math.floor(uniform(at < shared ? 1000 : index, at) * vocabularySize),
  );
  const params = {
    ...greedy,
    maxTokens: 60 + ((index * 11) % 80),
    temperature: index % 2 === 0 ? 0 : 0.9,
    topK: index % 3 === 0 ? 40 : 0,
    topP: index % 5 === 0 ? 0.9 : 1,
    repetitionPenalty: index % 6 === 0 ? 1.3 : 1,
    seed: index,
    logprobs: index % 7,
    promptLogprobs: index % 8 === 0 ? 2 : null,
  };
  return { id: String(index), prompt, params, group: null, priority: 0, cacheSalt: "" };
}

/** The events of each request as JSON, so that logprobs are compared by their bits. */
function run(runner: ModelRunner, requests: GenerateRequest[], aborts: boolean) {
  const noGrammar = () => {
    throw new Error("This test has no grammar.");
  };
  const core = new EngineCore({ runner, compileGrammar: noGrammar, endIds: [] });
  const events = new Map(requests.map(({ id }) => [id, [] as string[]]));
  for (const request of requests) core.generate(request);
  for (let step = 0; !core.idle; step++) {
    core.step();
    core.cache.check(core.owners);
    if (aborts)
      for (let index = 0; index < STREAMS; index += 3)
        if (step === Math.floor(uniform(77, index) * 300)) core.abort(String(index));
    for (const [id, event] of core.takeOutput().events)
      events.get(id)!.push(JSON.stringify(event.type === "prompt" ? { ...event, cachedTokens: 0 } : event));
  }
  return { core, events };
}

/** The same runner with a smaller cache. */
function withPages(runner: ModelRunner, pageCount: number): ModelRunner {
  const { vocabularySize, pageSize, maxTokens, maxRows, maxModelLen } = runner;
  return {
    vocabularySize,
    pageSize,
    pageCount,
    maxTokens,
    maxRows,
    maxModelLen,
    step: (rows) => runner.step(rows),
  };
}
