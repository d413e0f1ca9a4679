/** The loop between messages and steps: one message a step, asleep when idle, apart from a broken device. */
import { expect, test } from "bun:test";
import { EngineLoop } from "../../src/engine/loop.ts";
import type { FromEngine } from "../../src/engine/messages.ts";
import { CoreDriver } from "../support/engine_core.ts";
import { expectedTokens, type FakeRunnerOptions, greedy } from "../support/fake_runner.ts";

function startLoop(options: FakeRunnerOptions = {}) {
  const { core } = new CoreDriver(options);
  const sent: FromEngine[] = [];
  const ended: string[] = [];
  const onStop = () => ended.push("stop");
  const onFatal = (error: Error) => ended.push(error.message);
  const loop = new EngineLoop({ core, send: (message) => sent.push(message), onStop, onFatal });
  const generate = (id: string, prompt: number[], maxTokens = 4) => {
    const params = { ...greedy, maxTokens };
    loop.receive({
      type: "generate",
      request: { id, prompt, params, group: null, priority: 0, cacheSalt: "" },
    });
  };
  return { core, loop, sent, ended, generate };
}

/** Waits for `holds`; the machine may be busy. */
async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; !holds(); i++) {
    if (i > 2000) throw new Error("it did not come true within ten seconds");
    await Bun.sleep(5);
  }
}

test("a step sends one message with everything it produced, and nothing is sent while idle", async () => {
  const { core, sent, generate } = startLoop();
  generate("a", [1, 2]);
  generate("b", [3]);
  await until(() => core.idle && sent.length === 4);
  expect(sent.map((message) => (message.type === "events" ? message.events.length : message.type))).toEqual([
    4, 2, 2, 4,
  ]);
  const tokens = sent.flatMap((message) =>
    message.type === "events"
      ? message.events.flatMap(([id, event]) => (id === "b" && event.type === "token" ? [event.id] : []))
      : [],
  );
  expect(tokens).toEqual(expectedTokens([3], { ...greedy, maxTokens: 4 }));
  await Bun.sleep(20);
  expect(sent.length).toBe(4);
});

test("an abort between two steps is reported with the next message, also when nothing else runs", async () => {
  const { loop, sent, generate } = startLoop();
  generate("a", [1, 2], 400);
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  loop.receive({ type: "abort", id: "a" });
  const aborted = () => {
    const last = sent.at(-1);
    return last?.type === "events" && last.events.some(([, event]) => event.type === "finish");
  };
  await until(aborted);
  const last = sent.at(-1)!;
  expect(last.type === "events" && last.events).toEqual([
    ["a", { type: "finish", reason: "abort", stopTokenId: null, error: null }],
  ]);
  expect(last.type === "events" && last.stats.pagesUsed).toBe(0);
});

test("three failed steps in a row are fatal, two with a good one between are not", async () => {
  let broken = true;
  let steps = 0;
  const onStep = () => {
    steps++;
    if (broken) throw new Error("out of device memory");
  };
  const { core, ended, generate } = startLoop({ onStep });
  for (const works of [false, false, true, false, false, false]) {
    expect(ended).toEqual([]);
    broken = !works;
    const before = steps;
    generate("a", [1], 2);
    await until(() => core.idle && steps > before);
  }
  expect(ended).toEqual(["out of device memory"]);
});

test("stop ends what runs and waits with abort, reports it and takes no more", async () => {
  const { loop, sent, ended, generate } = startLoop({ maxRows: 1 });
  generate("runs", [1], 400);
  generate("waits", [2], 400);
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  loop.receive({ type: "stop" });
  expect(ended).toEqual(["stop"]);
  const last = sent.at(-1)!;
  expect(
    last.type === "events" && last.events.map(([id, event]) => [id, event.type === "finish" && event.reason]),
  ).toEqual([
    ["runs", "abort"],
    ["waits", "abort"],
  ]);
  const count = sent.length;
  generate("late", [3]);
  await Bun.sleep(10);
  expect(sent.length).toBe(count);
});
