/** Random schedules over real weights: base rows and three adapters in one engine with room for two, few pages, chunks, aborts,
 *  an adapter removed in mid-stream. Each request must say, bit for bit, what it says alone; base rows, what an engine
 *  says that knows no adapters. */
import { expect, test } from "bun:test";
import { EngineCore } from "../../src/engine/core.ts";
import { adapterKey } from "../../src/engine/adapter_table.ts";
import { adapterTable, defaultRunnerOptions } from "../../src/engine/load_runner.ts";
import { LlamaRunner } from "../../src/engine/llama_runner.ts";
import type { EngineEvent, GenerateRequest } from "../../src/engine/messages.ts";
import { uniform } from "../../src/util/rng.ts";
import { randomAdapter } from "../support/random_adapter.ts";
import { greedy } from "../support/fake_runner.ts";
import { openModel } from "../support/models.ts";
import { familyDirectory } from "../support/paths.ts";

const base = familyDirectory("llama-gqa-rope3");
const SCHEDULES = 12;
const names = ["a", "b", "c"];

interface Plan extends GenerateRequest {
  arrivesAt: number;
  abortsAt: number;
}

type Draw = (low: number, high: number) => number;

function drawPlans(draw: Draw): Plan[] {
  const root = Array.from({ length: 40 }, () => draw(3, 511));
  return Array.from({ length: draw(6, 12) }, (_, index): Plan => {
    const shared = draw(0, 1) === 0 ? 40 : draw(0, 40);
    const own = Array.from({ length: draw(1, 10) }, () => draw(3, 511));
    const adapter = draw(0, 3);
    const arrivesAt = draw(0, 12);
    return {
      id: `r${index}`,
      prompt: [...root.slice(0, shared), ...own],
      params: {
        ...greedy,
        maxTokens: draw(0, 1) === 0 ? draw(1, 20) : draw(40, 72),
        temperature: draw(0, 1) * 0.9,
        seed: draw(0, 1e9),
        repetitionPenalty: draw(0, 3) === 0 ? 1.3 : 1,
        logprobs: draw(0, 2) === 0 ? 3 : null,
        promptLogprobs: draw(0, 5) === 0 ? 1 : null,
      },
      group: null,
      priority: draw(0, 4) === 0 ? -1 : 0,
      cacheSalt: "",
      adapter: adapter === 0 ? null : adapterKey({ id: names[adapter - 1]!, generation: 1 }),
      arrivesAt,
      abortsAt: draw(0, 5) === 0 ? arrivesAt + draw(1, 12) : Infinity,
    };
  });
}

/** Events of each request. `onStep` may change what the core serves. */
async function run(
  core: EngineCore,
  plans: readonly Plan[],
  onStep: (now: number) => void = () => {},
): Promise<Map<string, EngineEvent[]>> {
  const events = new Map<string, EngineEvent[]>(plans.map(({ id }) => [id, []]));
  let left = plans.length;
  for (let now = 0; left > 0; now++) {
    if (now > 3000) throw new Error("requests starve");
    for (const plan of plans) {
      if (plan.arrivesAt === now) core.generate(plan);
      if (plan.abortsAt === now) core.abort(plan.id);
    }
    onStep(now);
    const error = core.step();
    if (error !== null) throw error;
    core.cache.check(core.owners);
    for (const [id, event] of core.takeOutput().events) {
      events.get(id)!.push(event);
      if (event.type === "finish") left--;
    }
    // Adapters are read while steps go on.
    await (core.idle ? Bun.sleep(1) : new Promise((resolve) => setImmediate(resolve)));
  }
  return events;
}

/** What the client sees, less how much of the prompt was cached: that may depend on neighbours. */
const said = (events: readonly EngineEvent[]) =>
  events.map((event) => (event.type === "prompt" ? { ...event, cachedTokens: 0 } : event));

test.each(["float32", "bfloat16"] as const)(
  "random schedules of three adapters and the base in %s",
  async (dtype) => {
    const { model } = await openModel(base, { dtype });
    const folders = await Promise.all(
      names.map((_, i) => randomAdapter(base, { rank: [4, 3, 8][i]!, seed: i + 1 })),
    );
    const wide = { maxTokens: 128, maxRows: 8, maxModelLen: 160, pageSize: 32, pageCount: 16 };
    const open = async (runner: LlamaRunner, maxAdapters: number | null) => {
      const options = { ...defaultRunnerOptions, directory: base, maxAdapters: maxAdapters ?? 0 };
      const adapters = maxAdapters === null ? null : adapterTable(runner, options);
      const compileGrammar = () => {
        throw new Error("This test has no grammar.");
      };
      const core = new EngineCore({ runner, compileGrammar, endIds: [], adapters });
      for (const [i, path] of folders.entries()) await adapters?.add({ id: names[i]!, generation: 1, path });
      return core;
    };
    const aloneRunner = new LlamaRunner(model, wide);
    const totals = { preemptions: 0, hits: 0, aborted: 0, mixed: 0, removed: 0 };
    for (let seed = 0; seed < SCHEDULES; seed++) {
      let drawn = 0;
      const draw: Draw = (low, high) => low + Math.floor(uniform(seed, drawn++) * (high - low + 1));
      const plans = drawPlans(draw);
      const limits = {
        ...wide,
        maxTokens: draw(10, 90),
        maxRows: draw(3, 8),
        pageCount: seed % 2 === 0 ? draw(4, 5) : 28,
      };
      const runner = new LlamaRunner(model, limits);
      const core = await open(runner, 2);
      let removesAt = draw(0, 1) === 0 ? draw(4, 16) : Infinity;
      const seen = await run(core, plans, (now) => {
        if (new Set(core.scheduler.running.map(({ row }) => row.adapter)).size > 2) totals.mixed++;
        if (now < removesAt || !core.adapters!.running.includes("a")) return;
        removesAt = Infinity;
        totals.removed++;
        void core.adapters!.remove("a@1");
      });
      for (const plan of plans) {
        const alone = await open(aloneRunner, plan.adapter === null ? null : 3);
        const once = { ...plan, arrivesAt: 0, abortsAt: Infinity };
        const expected = said((await run(alone, [once])).get(plan.id)!);
        const found = said(seen.get(plan.id)!);
        const finish = found.at(-1)!;
        const aborted = finish.type === "finish" && finish.reason === "abort";
        if (aborted) totals.aborted++;
        try {
          if (finish.type === "finish" && finish.error?.includes("not served")) expect(found).toHaveLength(1);
          else if (aborted) expect(found.slice(0, -1)).toEqual(expected.slice(0, found.length - 1));
          else expect(found).toEqual(expected);
        } catch (error) {
          throw new Error(`seed ${seed}, ${plan.id}, adapter ${plan.adapter}: ${(error as Error).message}`);
        }
        for (const name of names) void alone.adapters?.remove(`${name}@1`);
      }
      expect(core.stats).toMatchObject({ running: 0, waiting: 0, pagesUsed: 0, adaptersRunning: [] });
      totals.preemptions += core.stats.preemptions;
      totals.hits += core.stats.prefixHitTokens;
      for (const name of names) void core.adapters!.remove(`${name}@1`);
      runner.close();
    }
    aloneRunner.close();
    // The schedules have met what they are for.
    expect(totals.preemptions).toBeGreaterThan(0);
    expect(totals.hits).toBeGreaterThan(100);
    expect(totals.aborted).toBeGreaterThan(3);
    expect(totals.mixed).toBeGreaterThan(30);
    expect(totals.removed).toBeGreaterThan(0);
  },
);

test("two adapters never share pages of a common prompt, whatever salt a client names", async () => {
  const { model } = await openModel(base, { dtype: "float32" });
  const runner = new LlamaRunner(model, {
    maxTokens: 128,
    maxRows: 8,
    maxModelLen: 128,
    pageSize: 32,
    pageCount: 64,
  });
  const adapters = adapterTable(runner, { ...defaultRunnerOptions, directory: base });
  const core = new EngineCore({ runner, compileGrammar: () => null as never, endIds: [], adapters });
  const path = await randomAdapter(base, { rank: 2, seed: 9 });
  await adapters.add({ id: "a", generation: 1, path });
  await adapters.add({ id: "a", generation: 2, path });
  const prompt = Array.from({ length: 70 }, (_, i) => 10 + i);
  const ask = async (id: string, adapter: string | null, cacheSalt: string) => {
    const plan = { id, prompt, params: greedy, group: null, priority: 0, cacheSalt, adapter };
    const events = await run(core, [{ ...plan, arrivesAt: 0, abortsAt: Infinity }]);
    return events.get(id)!.find((event) => event.type === "prompt")?.cachedTokens;
  };
  expect(await ask("1", "a@1", "s")).toBe(0);
  expect(await ask("2", "a@2", "s")).toBe(0);
  expect(await ask("3", null, "s")).toBe(0);
  expect(await ask("4", null, "3:a@1s")).toBe(0);
  expect(await ask("5", null, "a@1s")).toBe(0);
  expect(await ask("6", "a@1", "s")).toBe(64);
  expect(await ask("7", null, "s")).toBe(64);
});
