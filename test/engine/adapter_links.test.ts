/** What the parent tells an engine process about adapters, also to one that was started again; and what the loop answers. */
import { expect, test } from "bun:test";
import { AdapterEngine } from "../../src/engine/adapter_engine.ts";
import { AdapterLinks } from "../../src/engine/adapter_links.ts";
import { AdapterTable } from "../../src/engine/adapter_table.ts";
import { EngineCore } from "../../src/engine/core.ts";
import { EngineLoop } from "../../src/engine/loop.ts";
import type { FromEngine, ToEngine } from "../../src/engine/messages.ts";
import { FakeEngine, byteTokenizer } from "../support/fake_engine.ts";
import { FakeRunner, greedy } from "../support/fake_runner.ts";

const adapter = { id: "a", generation: 1, path: "/a" };
const loaded: FromEngine = { type: "adapter_loaded", key: "a@1", error: null };

function links() {
  const sent: ToEngine[] = [];
  const notices: string[] = [];
  return {
    sent,
    notices,
    links: new AdapterLinks(
      (message) => sent.push(message),
      (sentence) => notices.push(sentence),
    ),
  };
}

test("an adapter is told to the engine when it is there, and to the next one after a death", async () => {
  const { sent, links: one } = links();
  const promise = one.load(adapter);
  expect(sent).toEqual([]);
  one.open();
  one.receive(loaded);
  await promise;
  one.close();
  one.open();
  expect(sent).toEqual([
    { type: "load_adapter", adapter },
    { type: "load_adapter", adapter },
  ]);
});

test("unload is answered by the engine, or by its death", async () => {
  const { sent, links: one } = links();
  one.open();
  void one.load(adapter);
  one.receive(loaded);
  const first = one.unload("a@1");
  one.receive({ type: "adapter_unloaded", key: "a@1" });
  await first;
  const second = one.unload("a@1");
  one.close();
  await second;
  expect(sent.slice(1)).toEqual([
    { type: "unload_adapter", key: "a@1" },
    { type: "unload_adapter", key: "a@1" },
  ]);
  one.open();
  expect(sent.length).toBe(3);
});

test("a failure goes to whoever waits; one after a restart, to the log; the end settles all", async () => {
  const { notices, links: one } = links();
  one.open();
  const failing = one.load(adapter);
  one.receive({ type: "adapter_loaded", key: "a@1", error: "It does not fit." });
  await expect(failing).rejects.toThrow("It does not fit.");
  expect(notices).toEqual([]);
  void one.load(adapter);
  one.receive(loaded);
  one.receive({ type: "adapter_loaded", key: "a@1", error: "It is gone." });
  expect(notices).toEqual(["The adapter a cannot be loaded: It is gone."]);
  const never = one.load({ ...adapter, generation: 2 });
  one.end("The engine is shutting down.");
  await expect(never).rejects.toThrow("The engine is shutting down.");
  await expect(one.load(adapter)).rejects.toThrow("The engine is shutting down.");
});

test("an engine that takes no adapters says so", async () => {
  const engine = new AdapterEngine(new FakeEngine(byteTokenizer(), { script: () => "" }), adapter);
  await expect(engine.ready()).rejects.toThrow(/takes no adapters/);
  await engine.stop();
  expect(engine.state).toBe("stopped");
});

test("the loop loads while it steps, answers with a sentence, and runs what waited", async () => {
  const sent: FromEngine[] = [];
  const gate = Promise.withResolvers<void>();
  const adapters = new AdapterTable({
    max: 1,
    stamp: async () => "",
    load: async (path) => {
      await gate.promise;
      if (path === "/broken") throw new Error("/broken is no adapter.");
      return { bytes: 0, close: () => {} };
    },
  });
  const core = new EngineCore({
    runner: new FakeRunner(),
    compileGrammar: () => null as never,
    endIds: [],
    adapters,
  });
  const loop = new EngineLoop({
    core,
    send: (message) => sent.push(message),
    onStop: () => {},
    onFatal: (error) => {
      throw error;
    },
  });
  const request = { prompt: [1, 2], params: greedy, group: null, priority: 0, cacheSalt: "" };
  loop.receive({ type: "load_adapter", adapter });
  loop.receive({ type: "generate", request: { ...request, id: "waits", adapter: "a@1" } });
  loop.receive({ type: "generate", request: { ...request, id: "gone", adapter: "a@1" } });
  loop.receive({ type: "generate", request: { ...request, id: "base" } });
  loop.receive({ type: "generate", request: { ...request, id: "unknown", adapter: "b@1" } });
  loop.receive({ type: "abort", id: "gone" });
  const finishes = () =>
    sent.flatMap((message) =>
      message.type === "events"
        ? message.events.flatMap(([id, event]) => (event.type === "finish" ? [[id, event.reason]] : []))
        : [],
    );
  await Bun.sleep(20);
  expect(finishes()).toEqual([
    ["unknown", "error"],
    ["gone", "abort"],
    ["base", "length"],
  ]);
  expect(core.stats).toMatchObject({ waiting: 1, adaptersWaiting: ["a"], adaptersRunning: [] });
  gate.resolve();
  await Bun.sleep(20);
  expect(finishes().at(-1)).toEqual(["waits", "length"]);
  expect(sent).toContainEqual(loaded);
  loop.receive({ type: "load_adapter", adapter: { id: "b", generation: 1, path: "/broken" } });
  await Bun.sleep(20);
  expect(sent).toContainEqual({ type: "adapter_loaded", key: "b@1", error: "/broken is no adapter." });
});
