/** The server on a port: silence, slow readers, clients that leave, and the end. */

import { afterAll, describe, expect, test } from "bun:test";
import { listen } from "../../src/server/listen.ts";
import { EventStream } from "../../src/server/sse.ts";
import type { FakeOptions } from "../support/fake_engine.ts";
import { eventually, listeningServer, readEvents } from "../support/test_server.ts";
import type { Limits } from "../../src/server/limits.ts";

const servers: ReturnType<typeof listeningServer>[] = [];
afterAll(() => Promise.all(servers.map(({ running }) => running.close({ graceMs: 0 }))));

function start(engine: FakeOptions, limits: Partial<Limits> = {}) {
  const server = listeningServer({ engine, limits });
  servers.push(server);
  const send = (path: string, body: object, init: RequestInit = {}) =>
    fetch(server.running.url + path, { method: "POST", body: JSON.stringify(body), ...init });
  return { ...server, send };
}

const forever = "a".repeat(2000);

describe("streams", () => {
  test("a silent one gets comments, also before its first token, and the role is still the first event", async () => {
    const { send } = start({ stepMs: 150, script: () => "ab" }, { pingMs: 20 });
    const { events, comments, done } = await readEvents(
      await send("/v1/chat/completions", { messages: [{ role: "user", content: "x" }], stream: true }),
    );
    expect(comments.length).toBeGreaterThan(5);
    expect(new Set(comments)).toEqual(new Set([": ping"]));
    expect([events[0].choices[0].delta.role, done]).toEqual(["assistant", true]);
  });

  test("a failure after the stream has opened, but before any event, travels inside", async () => {
    const { send, engine } = start({ stepMs: 130, failAfter: 1 });
    const response = await send("/v1/completions", {
      prompt: "x",
      stream: true,
      min_tokens: 2,
      max_tokens: 5,
      stop: "never",
    });
    const { events, done } = await readEvents(response);
    expect([response.status, events.at(-1).error.message, done]).toEqual([
      200,
      "The logits were not finite.",
      true,
    ]);
    expect(engine.stats.running).toBe(0);
  });

  test("one buffer is bounded: a reader that falls behind is let go", async () => {
    const stream = new EventStream(1000);
    const reader = stream.readable().getReader();
    for (let i = 0; i < 4; i++) stream.send({ text: "x".repeat(100) });
    expect(new TextDecoder().decode((await reader.read()).value)).toContain("xxx");
    for (let i = 0; i < 8; i++) stream.send({ text: "x".repeat(100) });
    expect(stream.left.aborted).toBe(false);
    stream.send({ text: "x".repeat(300) });
    expect(stream.left.aborted).toBe(true);
    expect(
      await reader.read().then(
        () => "more",
        () => "dropped",
      ),
    ).toBe("dropped");
  });

  test("a client that reads nothing is dropped, and its sequence with it", async () => {
    const { running, engine } = start(
      { script: () => "a".repeat(20_000), maxModelLen: 30_000 },
      { streamBufferBytesMax: 64 * 1024 },
    );
    const body = JSON.stringify({ prompt: "x", stream: true, logprobs: 20, max_tokens: 20_000 });
    let closed = false;
    const socket = await Bun.connect({
      hostname: "127.0.0.1",
      port: running.port,
      socket: {
        open: (one) => void one.pause(),
        data: () => {},
        close: () => void (closed = true),
        error: () => {},
      },
    });
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    for (let i = 0; i < 600 && engine.aborted.length === 0; i++) await Bun.sleep(10);
    expect(engine.aborted.length).toBe(1);
    expect(engine.stats.generatedTokens).toBeLessThan(20_000);
    socket.resume();
    expect(await eventually(() => closed)).toBe(true);
  });

  test("clients that leave at random end their sequences; the others are what they are alone", async () => {
    const { send, engine } = start({ stepMs: 1 });
    const ask = async (seed: number, signal?: AbortSignal) =>
      (
        await readEvents(
          await send(
            "/v1/completions",
            { prompt: "x", stream: true, seed, max_tokens: 20 },
            signal ? { signal } : {},
          ),
        )
      ).events
        .map((event) => event.choices[0].text)
        .join("");
    const alone = await Promise.all([1, 2].map((seed) => ask(seed)));
    const crowd = Array.from({ length: 30 }, async (_, i) => {
      if (i % 3 !== 0) return ask(1 + (i % 2));
      return ask(i, AbortSignal.timeout(1 + (i % 17))).catch(() => null);
    });
    const texts = await Promise.all(crowd);
    texts.forEach((text, i) => i % 3 !== 0 && expect(text).toBe(alone[i % 2]!));
    expect(await eventually(() => engine.stats.running === 0)).toBe(true);
  });
});

describe("the end", () => {
  test("what runs may finish within the grace period; new work is refused; then everything is gone", async () => {
    const { send, running, engine, context } = start({ stepMs: 5, script: () => "a".repeat(30) });
    const pending = send("/v1/completions", { prompt: "x", max_tokens: 40 });
    expect(await eventually(() => engine.stats.running === 1)).toBe(true);
    const closing = running.close({ graceMs: 5000 });
    expect(running.close()).toBe(closing);
    expect((await fetch(`${running.url}/readyz`)).status).toBe(503);
    expect((await send("/v1/completions", { prompt: "y" })).status).toBe(503);
    expect(((await (await pending).json()) as any).choices[0]).toMatchObject({
      text: "a".repeat(30),
      finish_reason: "stop",
    });
    await closing;
    await running.closed;
    expect([engine.state, context.lifecycle.state]).toEqual(["stopped", "stopped"]);
    expect(
      await fetch(`${running.url}/livez`).then(
        () => "up",
        () => "down",
      ),
    ).toBe("down");
  });

  test("after the grace period, answers end with finish_reason abort, streamed or not", async () => {
    const { send, running, engine } = start({ stepMs: 5, script: () => forever });
    const whole = send("/v1/completions", { prompt: "x", max_tokens: 1500 });
    const stream = send("/v1/chat/completions", { messages: [{ role: "user", content: "x" }], stream: true });
    expect(await eventually(() => engine.stats.running === 2)).toBe(true);
    await running.close({ graceMs: 20 });
    expect(((await (await whole).json()) as any).choices[0].finish_reason).toBe("abort");
    const { events, done } = await readEvents(await stream);
    expect([events.at(-1).choices[0].finish_reason, done]).toEqual(["abort", true]);
  });

  test("SIGTERM drains a process, a second one hurries it, and it exits by itself", async () => {
    for (const [grace, signals] of [
      [50, 1],
      [60_000, 2],
    ] as const) {
      const child = Bun.spawn(
        [process.execPath, "run", `${import.meta.dir}/../support/server_child.ts`, String(grace)],
        { stdout: "pipe", stderr: "inherit" },
      );
      const lines = child.stdout.getReader();
      const port = Number(new TextDecoder().decode((await lines.read()).value));
      const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, {
        method: "POST",
        body: JSON.stringify({ prompt: "x", stream: true, max_tokens: 1000 }),
      });
      child.kill("SIGTERM");
      if (signals === 2) {
        await Bun.sleep(30);
        expect((await fetch(`http://127.0.0.1:${port}/readyz`)).status).toBe(503);
        child.kill("SIGTERM");
      }
      const { events, done } = await readEvents(response);
      expect([events.at(-1).choices[0].finish_reason, done]).toEqual(["abort", true]);
      expect(await child.exited).toBe(0);
      expect(new TextDecoder().decode((await lines.read()).value)).toContain("closed");
    }
  });

  test("a port in use is one sentence", async () => {
    const { running, app, context } = start({});
    expect(() => listen(app, { context, host: "127.0.0.1", port: running.port })).toThrow(
      `127.0.0.1:${running.port}: it is in use`,
    );
  });
});
