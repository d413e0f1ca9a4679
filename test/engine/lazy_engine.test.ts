import { describe, expect, test } from "bun:test";
import { LazyEngine } from "../../src/engine/lazy_engine.ts";
import { type EngineEvent, EngineUnavailableError, type GenerateRequest } from "../../src/engine/messages.ts";
import { BOS, byteTokenizer, FakeEngine, type FakeOptions } from "../support/fake_engine.ts";

const request: GenerateRequest = {
  id: "r",
  prompt: [BOS, 65],
  params: {
    maxTokens: 8,
    minTokens: 0,
    temperature: 0,
    topP: 1,
    topK: 0,
    minP: 0,
    repetitionPenalty: 1,
    frequencyPenalty: 0,
    presencePenalty: 0,
    logitBias: [],
    seed: 0,
    stopTokenIds: [257],
    logprobs: null,
    promptLogprobs: null,
    grammar: null,
  },
  group: null,
  priority: 0,
  cacheSalt: "",
};

function lazy(options: FakeOptions = {}, idleMs = 20, fail?: () => Error | null) {
  const started: FakeEngine[] = [];
  const engine = new LazyEngine({
    idleMs,
    start: () => {
      const fake = new FakeEngine(byteTokenizer(), { script: () => "ok", ...options });
      const error = fail?.() ?? null;
      if (error !== null) fake.ready = () => Promise.reject(error);
      started.push(fake);
      return fake;
    },
  });
  return { engine, started };
}

async function finish(engine: LazyEngine, signal?: AbortSignal): Promise<EngineEvent> {
  let last: EngineEvent | null = null;
  for await (const event of engine.generate(request, signal)) last = event;
  return last!;
}

describe("an engine that starts when it is asked", () => {
  test("is started once for requests that come together, stopped when idle, and started again", async () => {
    const { engine, started } = lazy();
    expect([engine.state, engine.isLoaded, started.length]).toEqual(["ready", false, 0]);
    const ends = await Promise.all([finish(engine), finish(engine), finish(engine)]);
    expect(ends.map((event) => event.type === "finish" && event.reason)).toEqual(["stop", "stop", "stop"]);
    expect([started.length, engine.isLoaded]).toEqual([1, true]);
    await Bun.sleep(60);
    expect([engine.isLoaded, started[0]!.state, engine.state]).toEqual([false, "stopped", "ready"]);
    expect(engine.info?.device).toBe("fake");
    await finish(engine);
    expect(started.length).toBe(2);
    await engine.stop();
  });

  test("a load that fails fails its requests; the next tries again", async () => {
    let broken = true;
    const { engine } = lazy({}, 20, () => (broken ? new EngineUnavailableError("The file is gone.") : null));
    expect(finish(engine)).rejects.toThrow("The file is gone.");
    await Bun.sleep(5);
    expect(engine.state).toBe("ready");
    broken = false;
    expect(await finish(engine)).toMatchObject({ reason: "stop" });
    await engine.stop();
  });

  test("retired while it answers, it finishes the answer and then goes", async () => {
    const { engine, started } = lazy({ stepMs: 10 });
    const answer = finish(engine);
    await Bun.sleep(15);
    engine.retire();
    expect(started[0]!.state).toBe("ready");
    expect(await answer).toMatchObject({ reason: "stop" });
    expect([engine.state, started[0]!.state]).toEqual(["stopped", "stopped"]);
    expect(finish(engine)).rejects.toThrow("not served any more");
  });

  test("a client that leaves while the model loads gets its end at once", async () => {
    const loading = Promise.withResolvers<never>();
    const { engine, started } = lazy();
    const start = engine.generate(request, AbortSignal.timeout(20));
    const original = FakeEngine.prototype.ready;
    FakeEngine.prototype.ready = () => loading.promise;
    try {
      const events: EngineEvent[] = [];
      for await (const event of start) events.push(event);
      expect(events).toMatchObject([{ type: "finish", reason: "abort" }]);
      expect(started.length).toBe(1);
    } finally {
      FakeEngine.prototype.ready = original;
    }
    await engine.stop();
  });
});
