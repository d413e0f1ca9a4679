/** The classes of holes that were found in servers of this kind in 2023–2026, as far as HTTP reaches them. Elsewhere:
 *  numbers in limits.test.ts, hosts, keys, salts, __proto__ and depth in edge.test.ts, slow readers in listen.test.ts. */

import { afterAll, describe, expect, test } from "bun:test";
import { apiKey } from "../../src/server/auth.ts";
import { eventually, listeningServer, readEvents, testServer } from "../support/test_server.ts";

const servers: ReturnType<typeof listeningServer>[] = [];
afterAll(() => Promise.all(servers.map(({ running }) => running.close({ graceMs: 0 }))));

const json = async (response: Response): Promise<any> => response.json();
const hi = [{ role: "user", content: "x" }];
const schema = (value: unknown) => ({
  messages: hi,
  response_format: { type: "json_schema", json_schema: { name: "x", schema: value } },
});
const tool = (parameters: unknown) => ({
  messages: hi,
  tool_choice: "required",
  tools: [{ type: "function", function: { name: "f", parameters } }],
});
const nested = (depth: number): object =>
  depth === 0 ? { type: "null" } : { type: "array", items: nested(depth - 1) };

/** What killed others' engines. [path, body] */
const corpus: [string, unknown][] = [
  ["/v1/completions", { prompt: "x", n: 16384 }],
  ["/v1/completions", { prompt: "x", n: -1 }],
  ["/v1/completions", { prompt: [[]] }],
  ["/v1/completions", { prompt: [2 ** 31] }],
  ["/v1/completions", { prompt: "x", logit_bias: { "999999999": 1 } }],
  ["/v1/completions", { prompt: "x", stop_token_ids: [-5] }],
  ["/v1/completions", { prompt: "x", repetition_penalty: 0 }],
  ["/v1/completions", { prompt: "x", stop: Array(5000).fill("a") }],
  ["/v1/completions", '{"prompt":"x","temperature":1e999}'],
  ["/v1/completions", `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`],
  ["/v1/completions", "\u0000\u0001"],
  ["/v1/chat/completions", { messages: [] }],
  ["/v1/chat/completions", { messages: null }],
  ["/v1/chat/completions", { messages: hi, chat_template: "{% for i in range(10**9) %}x{% endfor %}" }],
  ["/v1/chat/completions", { messages: hi, chat_template_kwargs: { tokenize: true } }],
  [
    "/v1/chat/completions",
    {
      messages: [
        { role: "user", content: [{ type: "image_url", image_url: { url: "http://127.0.0.1:1/" } }] },
      ],
    },
  ],
  ["/v1/chat/completions", schema({ type: "string", pattern: "(".repeat(60_000) })],
  ["/v1/chat/completions", schema({ type: "string", pattern: null })],
  ["/v1/chat/completions", schema({ $ref: "#/$defs/a", $defs: { a: { $ref: "#/$defs/a" } } })],
  ["/v1/chat/completions", schema(nested(70))],
  ["/v1/chat/completions", schema({ type: "string", minLength: 10 ** 9 })],
  ["/v1/chat/completions", tool({ type: "object", properties: { a: { type: "string", pattern: "[" } } })],
  ["/v1/chat/completions", tool({ type: 5 })],
  ["/v1/embeddings", { input: [[]] }],
  ["/tokenize", { prompt: 5 }],
  ["/detokenize", { tokens: [10 ** 9] }],
  ["/loglikelihood", { text: [] }],
  ["/greedy-until", { prefix_text: ["x"], until: [[""]] }],
  ["/chat", { prompt: "x", context: "[".repeat(100_000) }],
];

describe("one bad request never hurts another", () => {
  test("a stream among a corpus of bad requests is byte for byte what it is alone, and none of them is a 500", async () => {
    const canary = { prompt: "canary", stream: true, seed: 7, max_tokens: 60, logprobs: 1 };
    const server = testServer({ engine: { stepMs: 1 } });
    const text = async () =>
      (await readEvents(await server.post("/v1/completions", canary))).events.map((event) =>
        JSON.stringify(event.choices),
      );
    const alone = await text();
    const among = text();
    for (const [path, body] of corpus) {
      const response = await server.post(path, body);
      const { error } = await json(response);
      const name = JSON.stringify(body).slice(0, 160);
      expect([
        name,
        response.status >= 400 && response.status < 500,
        typeof error?.message,
        error?.message.length < 600,
      ]).toEqual([name, true, "string", true]);
    }
    expect(await among).toEqual(alone);
    expect(server.log).toEqual([]);
    expect(await eventually(() => server.engine.stats.running === 0)).toBe(true);
  });

  test("no grammar or body of the corpus holds the event loop for long", async () => {
    const { post } = testServer();
    for (const [path, body] of corpus) {
      const started = performance.now();
      await post(path, body);
      expect([JSON.stringify(body).slice(0, 80), performance.now() - started < 5000]).toEqual([
        JSON.stringify(body).slice(0, 80),
        true,
      ]);
    }
  });
});

describe("what a client sends stays where it belongs", () => {
  test("paths are routes and ids, never files", async () => {
    const { running } = start();
    for (const path of [
      "/v1/models/..%2f..%2fetc%2fpasswd",
      "/v1/models/../../../etc/passwd",
      "/%2e%2e/%2e%2e/etc/passwd",
      "/docs/../../etc/passwd",
      "//etc/passwd",
      "/\\etc\\passwd",
    ]) {
      const response = await fetch(running.url + path);
      expect([path, response.status, (await response.text()).includes("root:")]).toEqual([path, 404, false]);
    }
  });

  test("a header bomb is refused before any handler", async () => {
    const { running } = start();
    const status = await fetch(`${running.url}/livez`, { headers: { "x-bomb": "x".repeat(64 * 1024) } }).then(
      (response) => response.status,
      () => 431,
    );
    expect(status).toBe(431);
    expect((await fetch(`${running.url}/livez`)).status).toBe(200);
  });

  test("a body beyond the limit is our 413, not a bare one", async () => {
    const { running } = start({ limits: { bodyBytesMax: 1000 } });
    const response = await fetch(`${running.url}/tokenize`, {
      method: "POST",
      body: JSON.stringify({ prompt: "x".repeat(2000) }),
    });
    expect([response.status, (await json(response)).error.code]).toEqual([413, "body_too_large"]);
  });

  test("log lines cannot be forged, and hold neither keys nor prompts", async () => {
    const { post, log, model } = testServer({ apiKeys: [apiKey("topsecret")] });
    model.tokenizer = {
      ...model.tokenizer,
      encode: () => {
        throw new Error("broken");
      },
    } as never;
    await post(
      "/v1/completions",
      { prompt: "private", max_tokens: 1 },
      { headers: { authorization: "Bearer topsecret", "x-request-id": 'x","level":"forged' } },
    );
    expect(log.length).toBe(1);
    expect(JSON.parse(log[0]!).level).toBe("error");
    expect(log[0]).not.toMatch(/topsecret|private|forged/);
  });

  test("errors do not repeat what people wrote", async () => {
    const { post } = testServer();
    for (const [path, body] of [
      ["/v1/completions", '{"prompt": "private words", oops'],
      ["/v1/completions", { prompt: { text: "private words" } }],
      ["/v1/chat/completions", { messages: [{ role: "private words", content: "private words" }] }],
      ["/v1/completions", { prompt: "x", stop: ["private words".repeat(500)] }],
    ] as const)
      expect(await (await post(path, body)).text()).not.toContain("private");
  });
});

function start(given: Parameters<typeof listeningServer>[0] = {}) {
  const server = listeningServer(given);
  servers.push(server);
  return server;
}
