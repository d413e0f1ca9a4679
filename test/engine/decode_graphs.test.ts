/** Decoding from graphs says what decoding op by op says, bit for bit, whatever comes and goes; few graphs are kept. */
import { afterEach, describe, expect, mock, spyOn, test } from "bun:test";
import { adapterKey } from "../../src/engine/adapter_table.ts";
import { EngineCore } from "../../src/engine/core.ts";
import { DecodeGraphs, type DecodeShape } from "../../src/engine/decode_graphs.ts";
import { LlamaRunner } from "../../src/engine/llama_runner.ts";
import { adapterTable, defaultRunnerOptions } from "../../src/engine/load_runner.ts";
import type { GenerateRequest } from "../../src/engine/messages.ts";
import { greedy as greedyRow, type StepRow } from "../../src/engine/runner.ts";
import { Arena } from "../../src/tensor/arena.ts";
import { NativeError } from "../../src/tensor/device.ts";
import { Graph } from "../../src/tensor/graph.ts";
import { openDevice } from "../../src/tensor/open_device.ts";
import { Ops } from "../../src/tensor/ops.ts";
import { greedy } from "../support/fake_runner.ts";
import { openModel, testDevice } from "../support/models.ts";
import { familyDirectory } from "../support/paths.ts";
import { randomAdapter } from "../support/random_adapter.ts";

const base = familyDirectory("llama-gqa-rope3");
const absent = testDevice === "cpu" ? " (a GPU or the emulated one only)" : "";

describe.skipIf(absent !== "")(`graphs of decoding steps${absent}`, () => {
  afterEach(() => mock.restore());

  test("requests that arrive, abort, are preempted, share a prefix or have an adapter hear the same", async () => {
    const { model } = await openModel(base, { dtype: "bfloat16" });
    const adapter = await randomAdapter(base, { rank: 4, seed: 1 });
    const limits = { maxTokens: 64, maxRows: 4, maxModelLen: 160, pageSize: 32, pageCount: 5 };
    const launches = spyOn(Graph.prototype, "launch");
    const shapes = spyOn(DecodeGraphs.prototype, "run");
    const expected = await serve(new LlamaRunner(model, { ...limits, graphs: false }), adapter);
    expect(shapes).not.toHaveBeenCalled();
    const found = await serve(new LlamaRunner(model, limits), adapter);
    expect(found.events).toEqual(expected.events);
    expect(found.stats).toEqual(expected.stats);
    expect(found.stats.preemptions).toBeGreaterThan(0);
    expect(found.events.get("d")!.at(-1)).toContain("abort");
    expect(found.stats.prefixHitTokens).toBeGreaterThan(0);
    const ran = shapes.mock.calls.map(([shape]) => shape);
    expect(new Set(ran.map(({ rows }) => rows)).size).toBeGreaterThan(1);
    expect(new Set(ran.map(({ pages }) => pages))).toEqual(new Set([2, 4]));
    expect(launches.mock.calls.length).toBeGreaterThan(ran.length / 2);
  }, 120_000);

  test("a step with scores, sums of hidden states or rows that do not sample equals that without graphs", async () => {
    const runner = await openModel(base, { dtype: "float32" });
    const plain = new LlamaRunner(runner.model, { ...runner, graphs: false });
    const launches = spyOn(Graph.prototype, "launch");
    const row = (s: number, past: number): StepRow => ({
      tokens: [3 + s + past],
      past,
      pages: [s, s + 4],
      sample: s === 1 && past % 2 === 0 ? null : { ...greedyRow, logprobs: 3 },
      score: s === 2 && past > 1 ? { targets: [7], top: 2 } : null,
      embed: s === 0 && past > 2,
    });
    for (let past = 0; past < 6; past++) {
      const rows = [0, 1, 2].map((s) => row(s, past));
      expect(runner.step(rows)).toEqual(plain.step(rows));
    }
    expect(launches).toHaveBeenCalledTimes(4);
    runner.close();
  });

  test("a shape is called once, recorded when it comes again, and the shapes that came last are kept", () => {
    const device = openDevice(testDevice);
    const arena = new Arena(device, "sum", 128);
    const ops = new Ops(device);
    const [x, table] = [arena.tensor([1, 4], "f32"), arena.tensor([1, 4], "f32")];
    const graphs = new DecodeGraphs<string>(device, 2);
    const [recorded, closed] = [spyOn(Graph, "record"), spyOn(Graph.prototype, "close")];
    const shape = (rows: number): DecodeShape => ({ rows, pages: 1, head: true });
    let calls = 0;
    const run = (rows: number) => {
      device.upload(table, new Float32Array(4).fill(rows));
      device.upload(x, new Float32Array(4));
      const result = graphs.run(shape(rows), () => {
        calls++;
        ops.addRmsNorm(table, x, table, table, 1e-5);
        return `rows ${rows}`;
      });
      expect(result).toBe(`rows ${rows}`);
      expect(device.download(x)).toEqual(new Float32Array(4).fill(rows));
    };
    const steps = [1, 1, 1, 2, 2, 1, 3, 1, 2, 2, 2];
    for (const rows of steps) run(rows);
    // Called: 1, 2, 3 and once more 2, which 3 had driven out; recorded: 1, 2, and 2 again, which drove out 3.
    expect({ calls, recorded: recorded.mock.calls.length, closed: closed.mock.calls.length }).toEqual({
      calls: 7,
      recorded: 3,
      closed: 1,
    });
    graphs.close();
    expect(closed).toHaveBeenCalledTimes(3);
    arena.close();
    device.close();
  });

  test("a device without room for a graph is told of, and decoding goes on", () => {
    const device = openDevice(testDevice);
    const graphs = new DecodeGraphs<number>(device);
    const told = spyOn(console, "error").mockImplementation(() => {});
    spyOn(Graph, "record").mockImplementation(() => {
      throw new NativeError("koala_graph_end", device.native);
    });
    let calls = 0;
    for (let step = 0; step < 4; step++) graphs.run({ rows: 1, pages: 1, head: true }, () => calls++);
    expect(calls).toBe(4);
    expect(told).toHaveBeenCalledTimes(1);
    expect(String(told.mock.calls[0])).toMatch(/From now on 0 graphs are kept; a smaller --cache-memory/);
    device.close();
  });
});

test("a page table is as wide as a power of two, and never narrower than its rows or wider than they may get", () => {
  const widths = [1, 2, 3, 4, 5, 8, 9, 12].map((pages) => DecodeGraphs.pagesOf(pages, 12));
  expect(widths).toEqual([1, 2, 4, 4, 8, 8, 12, 12]);
  expect(DecodeGraphs.pagesOf(13, 12)).toBe(13);
});

/** Two requests that together outgrow five pages, then three more: one begins alike, one is aborted, one has an adapter. */
function requests(): (GenerateRequest & { arrivesAt: number; abortsAt?: number })[] {
  const root = Array.from({ length: 40 }, (_, at) => 3 + ((at * 31) % 500));
  const request = (id: string, prompt: number[], maxTokens: number, arrivesAt: number, more = {}) => ({
    id,
    prompt,
    params: { ...greedy, maxTokens, seed: 3, logprobs: 2, temperature: id === "b" ? 0.8 : 0 },
    group: null,
    priority: 0,
    cacheSalt: "",
    adapter: null,
    arrivesAt,
    ...more,
  });
  return [
    request("b", [...root, 9], 46, 0),
    request("a", root.slice(0, 28), 40, 0),
    request("c", root.slice(5, 31), 10, 41),
    request("d", [...root, 8], 12, 41, { abortsAt: 55 }),
    request("e", root.slice(9, 20), 4, 43, { adapter: adapterKey({ id: "lora", generation: 1 }) }),
  ];
}

/** What each request hears, as JSON, so that logprobs are compared by their bits. */
async function serve(runner: LlamaRunner, adapter: string) {
  const compileGrammar = () => {
    throw new Error("This test has no grammar.");
  };
  const adapters = adapterTable(runner, { ...defaultRunnerOptions, directory: base });
  const core = new EngineCore({ runner, compileGrammar, endIds: [], adapters });
  await adapters.add({ id: "lora", generation: 1, path: adapter });
  const plans = requests();
  const events = new Map(plans.map(({ id }) => [id, [] as string[]]));
  for (let now = 0; now <= 43 || !core.idle; now++) {
    for (const plan of plans) {
      if (plan.arrivesAt === now) core.generate(plan);
      if (plan.abortsAt === now) core.abort(plan.id);
    }
    const error = core.step();
    if (error !== null) throw error;
    core.cache.check(core.owners);
    for (const [id, event] of core.takeOutput().events) events.get(id)!.push(JSON.stringify(event));
    await Bun.sleep(0); // adapters are read while steps go on
  }
  const { preemptions, prefixHitTokens } = core.stats;
  runner.close();
  return { events, stats: { preemptions, prefixHitTokens } };
}
