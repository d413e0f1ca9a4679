/** The handle over a real child process with a fake runner: streams, aborts, limits, and every way the child can end. */
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "bun:test";
import { type EngineOptions, startEngine } from "../../src/engine/engine.ts";
import {
  type Engine,
  type EngineEvent,
  EngineUnavailableError,
  type GenerateRequest,
  QueueFullError,
  type SamplingParams,
} from "../../src/engine/messages.ts";
import type { FakeChildOptions } from "../support/fake_engine_child.ts";
import { expectedTokens, fakeHidden, greedy } from "../support/fake_runner.ts";

const childFile = new URL("../support/fake_engine_child.ts", import.meta.url).pathname;
const parentFile = new URL("../support/fake_engine_parent.ts", import.meta.url).pathname;

const engines: Engine[] = [];

function start(child: FakeChildOptions = {}, options: Partial<EngineOptions> = {}): Engine {
  const command = [process.execPath, childFile, JSON.stringify(child)];
  const engine = startEngine({ command, restartDelayMs: 20, ...options });
  engines.push(engine);
  return engine;
}

const parents: Bun.Subprocess[] = [];

afterEach(async () => {
  for (const parent of parents.splice(0)) parent.kill("SIGKILL");
  await Promise.all(engines.splice(0).map((engine) => engine.stop()));
});

function request(prompt: number[], params: Partial<SamplingParams> = {}): GenerateRequest {
  return {
    id: "same id for all",
    prompt,
    params: { ...greedy, ...params },
    group: null,
    priority: 0,
    cacheSalt: "",
  };
}

async function collect(events: AsyncIterable<EngineEvent>): Promise<EngineEvent[]> {
  const all: EngineEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

function tokensOf(events: readonly EngineEvent[]): number[] {
  return events.flatMap((event) => (event.type === "token" ? [event.id] : []));
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let waited = 0; !condition(); waited += 5) {
    if (waited > 5000) throw new Error(`waited in vain until ${what}`);
    await Bun.sleep(5);
  }
}

function lives(pid: string): boolean {
  try {
    process.kill(Number(pid), 0);
    return true;
  } catch {
    return false;
  }
}

describe("requests", () => {
  test("thirty-two at once give what each gives alone, though all carry the same id", async () => {
    const stages: string[] = [];
    const engine = start(
      { pageCount: 60 },
      { onProgress: (stage, done, total) => stages.push(`${stage} ${done}/${total}`) },
    );
    expect(engine.state).toBe("loading");
    expect((await engine.ready()).vocabularySize).toBe(50);
    expect(stages).toEqual(["loading weights 0/2", "loading weights 2/2"]);
    const params = { temperature: 1, maxTokens: 20 };
    const prompts = Array.from({ length: 32 }, (_, index) => [index, 1, 2, 3, index % 5]);
    const answers = await Promise.all(
      prompts.map((prompt, seed) => collect(engine.generate(request(prompt, { ...params, seed })))),
    );
    prompts.forEach((prompt, seed) =>
      expect(tokensOf(answers[seed]!)).toEqual(expectedTokens(prompt, { ...greedy, ...params, seed })),
    );
    expect(engine.stats).toMatchObject({
      running: 0,
      waiting: 0,
      pagesUsed: 0,
      generatedTokens: 640,
      stalledMs: 0,
    });
  });

  test("an embedding comes back as floats; a refused one as an error with the engine's sentence", async () => {
    const engine = start();
    await engine.ready();
    const embedding = await engine.embed({ id: "e", prompt: [7], cacheSalt: "" });
    expect(embedding).toEqual(Float32Array.from(fakeHidden([7], 3)));
    await expect(engine.embed({ id: "e", prompt: [], cacheSalt: "" })).rejects.toThrow(
      "The prompt has no tokens",
    );
    const aborted = AbortSignal.abort(new Error("gone"));
    await expect(engine.embed({ id: "e", prompt: [7], cacheSalt: "" }, aborted)).rejects.toThrow("gone");
  });

  test("while the model loads they are refused", async () => {
    const engine = start();
    await expect(collect(engine.generate(request([1])))).rejects.toThrow(EngineUnavailableError);
    await expect(engine.embed({ id: "e", prompt: [1], cacheSalt: "" })).rejects.toThrow(
      EngineUnavailableError,
    );
    await engine.ready();
  });
});

describe("abort", () => {
  test("by signal ends the stream at once with a finish event and frees the pages", async () => {
    const engine = start({ stepMs: 5 });
    await engine.ready();
    const controller = new AbortController();
    const seen: EngineEvent[] = [];
    for await (const event of engine.generate(request([1, 2, 3], { maxTokens: 400 }), controller.signal)) {
      seen.push(event);
      if (seen.length === 4) controller.abort();
    }
    expect(seen.at(-1)).toEqual({ type: "finish", reason: "abort", stopTokenId: null, error: null });
    await until(() => engine.stats.pagesUsed === 0 && engine.stats.running === 0, "the pages are free");
    expect(engine.stats.generatedTokens).toBeLessThan(100);
  });

  test("by leaving the loop, even while the next event is awaited", async () => {
    const engine = start({ stepMs: 30 });
    await engine.ready();
    for await (const event of engine.generate(request([1], { maxTokens: 400 })))
      if (event.type === "token") break;
    const iterator = engine.generate(request([2], { maxTokens: 400 }))[Symbol.asyncIterator]();
    const pending = iterator.next();
    expect(await iterator.return!()).toEqual({ done: true, value: undefined });
    expect(await pending).toEqual({ done: true, value: undefined });
    await until(() => engine.stats.pagesUsed === 0 && engine.stats.running === 0, "the pages are free");
  });

  test("before the start yields the finish event alone", async () => {
    const engine = start();
    await engine.ready();
    const events = await collect(engine.generate(request([1]), AbortSignal.abort()));
    expect(events.map((event) => event.type)).toEqual(["finish"]);
    expect(engine.stats.steps).toBe(0);
  });
});

describe("the queue", () => {
  test("takes no more than so many waiting requests, and takes them again once some have started", async () => {
    const engine = start({ stepMs: 20, maxRows: 1 }, { maxWaitingRequests: 3 });
    await engine.ready();
    const started = [1, 2, 3].map((id) => collect(engine.generate(request([id], { maxTokens: 2 }))));
    await Promise.resolve();
    await expect(collect(engine.generate(request([4])))).rejects.toThrow(QueueFullError);
    await Promise.all(started);
    expect(tokensOf(await collect(engine.generate(request([4], { maxTokens: 2 })))).length).toBe(2);
  });

  test("takes no more than so many waiting prompt tokens, but always one request", async () => {
    const engine = start({ stepMs: 20, maxRows: 1 }, { maxWaitingPromptTokens: 8 });
    await engine.ready();
    const long = Array.from({ length: 20 }, (_, index) => index);
    const first = collect(engine.generate(request(long, { maxTokens: 1 })));
    await Promise.resolve();
    await expect(collect(engine.generate(request([4])))).rejects.toThrow("20 prompt tokens are waiting");
    expect((await first).at(-1)).toMatchObject({ reason: "length" });
  });
});

describe("when the child dies", () => {
  test("by SIGKILL, requests end with a sentence, a new child answers, and counters go on", async () => {
    const notices: string[] = [];
    const engine = start({ stepMs: 5 }, { onNotice: (sentence) => notices.push(sentence) });
    const { device: pid } = await engine.ready();
    const streams = [1, 2, 3].map((id) => collect(engine.generate(request([id], { maxTokens: 400 }))));
    await until(() => engine.stats.generatedTokens > 6, "tokens flow");
    const { generatedTokens } = engine.stats;
    process.kill(Number(pid), "SIGKILL");
    for (const events of await Promise.all(streams)) {
      const finish = events.at(-1)!;
      expect(finish).toMatchObject({ type: "finish", reason: "error" });
      expect(finish.type === "finish" && finish.error).toContain(
        "The engine process was ended by SIGKILL. It is being started again",
      );
    }
    expect(engine.state).toBe("loading");
    await expect(collect(engine.generate(request([1])))).rejects.toThrow(EngineUnavailableError);
    expect(notices.length).toBe(1);
    expect((await engine.ready()).device).not.toBe(pid);
    expect(tokensOf(await collect(engine.generate(request([5]))))).toEqual(expectedTokens([5], greedy));
    expect(engine.stats.generatedTokens).toBeGreaterThanOrEqual(generatedTokens + 16);
    expect(engine.stats).toMatchObject({ running: 0, pagesUsed: 0 });
  });

  test("by a request that kills it, an embedding rejects and the next request is served", async () => {
    const engine = start({ deadlyToken: 13 });
    await engine.ready();
    const embedding = engine.embed({ id: "e", prompt: [1, 13], cacheSalt: "" });
    await expect(embedding).rejects.toThrow("ended by SIGKILL");
    await embedding.catch(() => {});
    await engine.ready();
    expect(tokensOf(await collect(engine.generate(request([5], { maxTokens: 2 })))).length).toBe(2);
  });

  test("because step after step fails, it is replaced, and the sentence says what failed", async () => {
    const engine = start({ failToken: 13 });
    const { device: pid } = await engine.ready();
    for (let attempt = 0; attempt < 3; attempt++) {
      const [finish] = await collect(engine.generate(request([13])));
      expect(finish).toMatchObject({ type: "finish", reason: "error" });
      expect(finish!.type === "finish" && finish!.error).toContain("the device is lost");
    }
    await until(() => engine.state === "loading", "the child is replaced");
    expect((await engine.ready()).device).not.toBe(pid);
  });

  test("and the new one cannot load, it is tried again and then given up with the reason", async () => {
    const flag = join(tmpdir(), `koala-engine-test-${process.pid}`);
    const engine = start({ deadlyToken: 13, failLoadWhere: flag }, { quickDeathsMax: 3 });
    await engine.ready();
    await Bun.write(flag, "");
    await collect(engine.generate(request([13])));
    await until(() => engine.state === "failed", "the engine is given up");
    rmSync(flag);
    await expect(engine.ready()).rejects.toThrow(
      `died 3 times in a row soon after its start and is given up. ${flag} is in the way.`,
    );
  });

  test("again and again soon after its start, it is given up", async () => {
    const engine = start({ diesAfterMs: 1 }, { quickDeathsMax: 3 });
    await engine.ready();
    await until(() => engine.state === "failed", "the engine is given up");
    await expect(engine.ready()).rejects.toThrow(
      "died 3 times in a row soon after its start and is given up",
    );
    await expect(engine.ready()).rejects.toThrow("exit code 7");
    await expect(collect(engine.generate(request([1])))).rejects.toThrow(EngineUnavailableError);
  });

  test("before it has ever loaded, the reason is passed on and nothing is tried again", async () => {
    const notices: string[] = [];
    const engine = start(
      { failLoad: "model.safetensors ends after 12 bytes." },
      { onNotice: (sentence) => notices.push(sentence) },
    );
    await expect(engine.ready()).rejects.toThrow("model.safetensors ends after 12 bytes.");
    expect(notices).toEqual(["model.safetensors ends after 12 bytes."]);
    await until(() => engine.state === "failed", "the engine is given up");
    const missing = startEngine({ command: ["/nonexistent/koala"] });
    await expect(missing.ready()).rejects.toThrow("could not be started");
    await until(() => missing.state === "failed", "the engine is given up");
  });
});

describe("the end", () => {
  test("stop ends what runs with abort and leaves no child", async () => {
    const engine = start({ stepMs: 5 });
    const { device: pid } = await engine.ready();
    const stream = collect(engine.generate(request([1], { maxTokens: 400 })));
    await until(() => engine.stats.generatedTokens > 0, "tokens flow");
    await engine.stop();
    expect((await stream).at(-1)).toMatchObject({ type: "finish", reason: "abort" });
    expect(lives(pid)).toBe(false);
    expect(engine.state).toBe("stopped");
    await expect(collect(engine.generate(request([1])))).rejects.toThrow("shutting down");
  });

  test("a child that hangs in a step is seen as stalled, and killed by stop", async () => {
    const engine = start({ stepMs: 60_000 }, { stopGraceMs: 50 });
    const { device: pid } = await engine.ready();
    expect(engine.stats.stalledMs).toBe(0);
    const stream = collect(engine.generate(request([1])));
    await until(() => engine.stats.stalledMs > 80, "the stall is seen");
    await engine.stop();
    expect((await stream).at(-1)).toMatchObject({ reason: "abort" });
    expect(lives(pid)).toBe(false);
  });

  test("a child outlives neither a killed parent nor does it listen to Ctrl-C itself", async () => {
    const busy: FakeChildOptions = { stepMs: 1, maxModelLen: 100_000, pageCount: 30_000 };
    const parent = Bun.spawn([process.execPath, parentFile, JSON.stringify(busy)], {
      stdout: "pipe",
      stderr: "inherit",
    });
    parents.push(parent);
    const { value } = await parent.stdout.getReader().read();
    const pid = new TextDecoder().decode(value).trim();
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.kill(Number(pid), signal);
    await Bun.sleep(50);
    expect(lives(pid)).toBe(true);
    parent.kill("SIGKILL");
    await parent.exited;
    await until(() => !lives(pid), "the child is gone");
  });
});
