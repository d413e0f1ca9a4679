/** Moderation on the way of requests: refused inputs, answers that end where they are flagged, and what clients are told. */
import { describe, expect, test } from "bun:test";
import type { Backend } from "../../../src/server/moderation/backend.ts";
import { Moderator, type ModeratorOptions } from "../../../src/server/moderation/moderator.ts";
import { eventually, readEvents, testServer } from "../../support/test_server.ts";
import { failingBackend, silentBackend, wordBackend } from "./backends.ts";

const long = "A harmless sentence stands here. ".repeat(12);
const bad = `${long}Now comes the bomb, and more. ${long}`;

function server(
  script: string,
  options: { backends?: Backend[]; mode?: "block" | "score" | null; stepMs?: number } & ModeratorOptions = {},
) {
  const { backends = [wordBackend("bomb")], mode = "block", stepMs = 0, ...rest } = options;
  return testServer({
    engine: { script: () => script, stepMs },
    moderation: { moderator: new Moderator(backends, rest), mode },
  });
}

const chat = (content: string, more: object = {}) => ({ messages: [{ role: "user", content }], ...more });
const textOf = (events: any[]) => events.map((event) => event.choices?.[0]?.delta?.content ?? "").join("");

describe("a server that blocks", () => {
  test("does not generate anything for a flagged question, and says why with finish_reason", async () => {
    const { post, engine } = server("fine");
    const body = await (await post("/v1/chat/completions", chat("a bomb please"))).json();
    expect(body.choices[0]).toMatchObject({ finish_reason: "content_filter", message: { content: "" } });
    expect(body.moderation).toBeUndefined();
    expect(engine.requests).toEqual([]);
    const { events, done } = await readEvents(
      await post("/v1/chat/completions", chat("a bomb please", { stream: true })),
    );
    expect(done).toBe(true);
    expect(events.at(-1).choices[0].finish_reason).toBe("content_filter");
    expect(textOf(events)).toBe("");
    expect(engine.requests).toEqual([]);
  });

  test("judges every message, whoever it claims to be from", async () => {
    const { post, engine } = server("fine");
    const messages = [
      { role: "system", content: "Be kind." },
      { role: "user", content: "Go on." },
      { role: "assistant", content: "First take a bomb" },
      { role: "user", content: "And then?" },
    ];
    const body = await (await post("/v1/chat/completions", { messages })).json();
    expect(body.choices[0].finish_reason).toBe("content_filter");
    expect(engine.requests).toEqual([]);
  });

  test("ends an answer before the flagged sentence, streamed and whole alike, and frees its place at once", async () => {
    const { post, engine } = server(bad);
    const whole = await (await post("/v1/chat/completions", chat("hi"))).json();
    const { events } = await readEvents(await post("/v1/chat/completions", chat("hi", { stream: true })));
    const text = whole.choices[0].message.content;
    expect(long.startsWith(text)).toBe(true);
    expect(text.length).toBeGreaterThan(100);
    expect(whole.choices[0].finish_reason).toBe("content_filter");
    expect(textOf(events)).toBe(text);
    expect(events.at(-1).choices[0].finish_reason).toBe("content_filter");
    expect(engine.aborted.length).toBe(2);
    expect(engine.stats.running).toBe(0);
    expect(engine.stats.generatedTokens).toBeLessThan(2 * bad.length - 300);
  });

  test("leaves the neighbours alone: of four answers at once, one ends", async () => {
    const { post, engine } = testServer({
      engine: { script: ({ id }) => (id.endsWith("-2") ? bad : long) },
      moderation: { moderator: new Moderator([wordBackend("bomb")]), mode: "block" },
    });
    const other = post("/v1/chat/completions", chat("hi"));
    const body = await (await post("/v1/chat/completions", chat("hi", { n: 4 }))).json();
    const reasons = body.choices.map((choice: any) => choice.finish_reason);
    expect(reasons).toEqual(["stop", "stop", "content_filter", "stop"]);
    for (const at of [0, 1, 3]) expect(body.choices[at].message.content).toBe(long);
    expect((await (await other).json()).choices[0].message.content).toBe(long);
    expect(engine.aborted.length).toBe(1);
    const { events } = await readEvents(
      await post("/v1/chat/completions", chat("hi", { n: 4, stream: true })),
    );
    for (const index of [0, 1, 3])
      expect(textOf(events.filter((event) => event.choices[0]?.index === index))).toBe(long);
    const cut = textOf(events.filter((event) => event.choices[0]?.index === 2));
    expect(cut).toBe(body.choices[2].message.content);
  });

  test("holds for completions, per prompt and for token ids, and for EasyLM's routes", async () => {
    const { post, engine } = server("fine");
    const body = await (await post("/v1/completions", { prompt: ["hello", "my bomb"] })).json();
    expect(body.choices.map((choice: any) => [choice.text, choice.finish_reason])).toEqual([
      ["fine", "stop"],
      ["", "content_filter"],
    ]);
    const ids = [...new TextEncoder().encode("my bomb")];
    const asIds = await (await post("/v1/completions", { prompt: ids })).json();
    expect(asIds.choices[0].finish_reason).toBe("content_filter");
    expect(engine.requests.length).toBe(1);
    const generated = await (await post("/generate", { prefix_text: ["hello", "my bomb"] })).json();
    expect(generated.output_text).toEqual(["fine", ""]);
    const turn = await (await post("/chat", { prompt: "my bomb" })).json();
    expect(turn.response).toContain("withheld");
    expect(engine.requests.length).toBe(2);
  });

  test("scores a text without judging it: nothing is said", async () => {
    const { post } = server("fine");
    const body = await (await post("/loglikelihood", { text: ["my bomb"] })).json();
    expect(body.log_likelihood.length).toBe(1);
  });

  test("cannot be softened by a request", async () => {
    const { post } = server("fine");
    const moderation = { policy: { input: { mode: "score" }, output: { mode: "score" } } };
    const body = await (await post("/v1/chat/completions", chat("a bomb", { moderation }))).json();
    expect(body.choices[0].finish_reason).toBe("content_filter");
    expect(body.moderation.input.results[0].categories.violence).toBe(true);
    expect(body.moderation.output).toMatchObject({ type: "error", code: "input_blocked" });
  });
});

describe("a judge that fails", () => {
  test("closed: nothing passes; open: everything does, and the answer tells of the failure", async () => {
    const closed = server("fine", { backends: [failingBackend] });
    const refused = await (await closed.post("/v1/chat/completions", chat("hi", { moderation: {} }))).json();
    expect(refused.choices[0].finish_reason).toBe("content_filter");
    expect(refused.moderation.input).toMatchObject({ type: "error", code: "unavailable" });
    const open = server("fine", { backends: [failingBackend], fail: "open" });
    const passed = await (await open.post("/v1/chat/completions", chat("hi", { moderation: {} }))).json();
    expect(passed.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: "fine" } });
    expect(passed.moderation.output).toMatchObject({ type: "error", code: "unavailable" });
    const counted = (server: ReturnType<typeof testServer>) => server.context.metrics.render([], 0);
    expect(counted(closed)).toContain(
      'koala_moderation_decisions_total{phase="request",decision="failed_closed"} 1',
    );
    expect(counted(open)).toContain(
      'koala_moderation_decisions_total{phase="stream",decision="failed_open"} 1',
    );
  });

  test("one that never answers is given up after its time", async () => {
    const { post, log } = server("fine", { backends: [silentBackend], timeoutMs: 30 });
    const body = await (await post("/v1/chat/completions", chat("hi"))).json();
    expect(body.choices[0].finish_reason).toBe("content_filter");
    expect(log.join()).toContain("did not answer in 0.03 s");
  });

  test("a flag of one counts although another fails", async () => {
    const { post } = server("fine", { backends: [wordBackend("bomb"), failingBackend], fail: "open" });
    const body = await (await post("/v1/chat/completions", chat("a bomb"))).json();
    expect(body.choices[0].finish_reason).toBe("content_filter");
  });

  test("a client that leaves while a judge is thinking frees the engine", async () => {
    const waiting: Backend = {
      ...silentBackend,
      judge: async (texts, { phase }) =>
        phase === "request"
          ? texts.map(() => ({ scores: new Map(), flagged: new Set() }))
          : new Promise(() => {}),
    };
    const { post, engine } = server(long, { backends: [waiting] });
    const left = new AbortController();
    const pending = post("/v1/chat/completions", chat("hi"), { signal: left.signal });
    await eventually(() => engine.stats.generatedTokens > 60);
    expect(engine.stats.running).toBe(1);
    left.abort();
    expect(await eventually(() => engine.stats.running === 0)).toBe(true);
    await Promise.resolve(pending).catch(() => {});
  });
});

describe("a request that asks for moderation", () => {
  test("score: everything passes, and both sides are scored in all 13 categories", async () => {
    const { post } = server(bad, { mode: null });
    const ask = { moderation: { model: "omni-moderation-latest" } };
    const body = await (await post("/v1/chat/completions", chat("hi", ask))).json();
    expect(body.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: bad } });
    const { input, output } = body.moderation;
    expect([input.type, output.type]).toEqual(["moderation_results", "moderation_results"]);
    expect([input.results[0].flagged, output.results[0].flagged]).toEqual([false, true]);
    expect(Object.keys(output.results[0].category_scores).length).toBe(13);
    expect(output.results[0].category_scores.violence).toBe(0.9);
    const { events } = await readEvents(
      await post(
        "/v1/chat/completions",
        chat("hi", { ...ask, stream: true, stream_options: { include_usage: true } }),
      ),
    );
    expect(textOf(events)).toBe(bad);
    expect(events.at(-2).moderation).toEqual(body.moderation);
    expect(events.at(-1).usage.completion_tokens).toBeGreaterThan(100);
    expect(events.slice(0, -2).every((event) => event.moderation === undefined)).toBe(true);
  });

  test("block for one side only; one result a choice; without it nothing is judged", async () => {
    const seen: string[] = [];
    const { post } = server(bad, { mode: null, backends: [wordBackend("bomb", "violence", seen)] });
    await post("/v1/chat/completions", chat("a bomb"));
    expect(seen).toEqual([]);
    const policy = { output: { mode: "block" } };
    const body = await (
      await post("/v1/chat/completions", chat("a bomb", { n: 2, moderation: { policy } }))
    ).json();
    expect(body.choices.map((choice: any) => choice.finish_reason)).toEqual([
      "content_filter",
      "content_filter",
    ]);
    expect(body.moderation.input.results[0].flagged).toBe(true);
    expect(body.moderation.output.results.map((result: any) => result.flagged)).toEqual([true, true]);
  });

  test("an unknown model is a 404 that lists the known ones", async () => {
    const { post } = server("fine");
    const response = await post("/v1/chat/completions", chat("hi", { moderation: { model: "nobody" } }));
    expect(response.status).toBe(404);
    expect((await response.json()).error.message).toContain("There are: omni-moderation-latest, word.");
  });
});

test("every decision is logged by hash, and no text is", async () => {
  const { post, log } = server(bad);
  await post("/v1/chat/completions", chat("hello there"));
  const lines = log.map((line) => JSON.parse(line));
  expect(lines[0]).toMatchObject({ moderation: "request", decision: "passed" });
  // printf 'hello there' | sha256sum
  expect(lines[0].sha256).toEqual(["12998c017066eb0d2a70b94e6ed3192985855ce390f321bbdb832022888bd251"]);
  expect(lines.at(-1)).toMatchObject({ moderation: "stream", decision: "blocked", flagged: ["violence"] });
  for (const word of ["hello", "there", "bomb", "harmless"]) expect(log.join()).not.toContain(word);
});
