/** The edge: bytes, hosts, origins and keys, before any route sees a request. */

import { describe, expect, test } from "bun:test";
import { apiKey } from "../../src/server/auth.ts";
import { parseJson } from "../../src/server/edge.ts";
import { eventually, testServer } from "../support/test_server.ts";

const json = async (response: Response): Promise<any> => response.json();
const ok = { prompt: "x", max_tokens: 1 };

describe("bodies", () => {
  test("what is no JSON object is a 400 with one sentence, never a 500", async () => {
    const { post, log } = testServer();
    for (const body of [
      "",
      "{",
      "nope",
      "[]",
      "null",
      "3",
      '"x"',
      "true",
      '{"prompt": NaN}',
      '{"a":1,}',
      "\u0000",
      '{"prompt":"x","max_tokens":1}}',
    ]) {
      const response = await post("/v1/completions", body);
      const { error } = await json(response);
      expect([body, response.status, error.type]).toEqual([body, 400, "invalid_request_error"]);
      expect(error.message).toEndWith(".");
    }
    expect(log).toEqual([]);
  });

  test("invalid UTF-8 is refused, not repaired", async () => {
    const { app } = testServer();
    const body = Uint8Array.from([
      ...new TextEncoder().encode('{"prompt":"'),
      0xff,
      ...new TextEncoder().encode('"}'),
    ]);
    const response = await app.request("/v1/completions", { method: "POST", body });
    expect([response.status, (await json(response)).error.code]).toEqual([400, "invalid_json"]);
  });

  test("the content type is ignored: curl sends a form's", async () => {
    const { post } = testServer();
    for (const type of ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"])
      expect((await post("/v1/completions", ok, { headers: { "content-type": type } })).status).toBe(200);
  });

  test("nesting is capped before parsing, wherever it stands; brackets in texts do not count", async () => {
    const { post } = testServer();
    const deep = (depth: number) =>
      `{"prompt":"x","max_tokens":1,"logit_bias":${"[".repeat(depth)}${"]".repeat(depth)}}`;
    expect((await json(await post("/v1/completions", deep(63)))).error.param).toBe("logit_bias");
    for (const depth of [64, 2_000_000]) {
      const { error } = await json(await post("/v1/completions", deep(depth)));
      expect(error.message).toContain("64 levels");
    }
    expect((await post("/v1/completions", { ...ok, prompt: '[{"'.repeat(300) + '\\"' })).status).toBe(200);
  });

  test("a text that ends in backslashes ends where JSON says", async () => {
    const { post } = testServer();
    const deep = "[".repeat(70) + "]".repeat(70);
    const { error } = await json(await post("/v1/completions", `{"prompt":"\\\\","logit_bias":${deep}}`));
    expect(error.message).toContain("64 levels");
    expect((await post("/v1/completions", `{"prompt":"\\"${deep}","max_tokens":1}`)).status).toBe(200);
  });

  test("a million members are refused before they are built", async () => {
    const { post } = testServer();
    const body = `{"prompt":"x","logit_bias":{${Array.from({ length: 100_001 }, (_, i) => `"${i}":1`).join()}}}`;
    expect((await json(await post("/v1/completions", body))).error.message).toContain(
      "100000 object members",
    );
  });

  test("size is capped with and without a length, compressed bodies are refused", async () => {
    const { app, post } = testServer({ limits: { bodyBytesMax: 1000 } });
    const big = JSON.stringify({ ...ok, prompt: "x".repeat(1000) });
    expect((await post("/v1/completions", big)).status).toBe(413);
    const chunks = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(600)) });
    expect((await app.request("/v1/completions", { method: "POST", body: chunks })).status).toBe(413);
    expect((await post("/v1/completions", ok, { headers: { "content-encoding": "gzip" } })).status).toBe(415);
  });

  test("__proto__ is refused as a member, at any depth and escaped, but may be written in a text", async () => {
    const { post } = testServer();
    for (const body of [
      '{"prompt":"x","__proto__":{"stream":true}}',
      '{"prompt":"x","\\u005f_proto__":1}',
      '{"prompt":"x","metadata":{"a":{"__proto__":1}}}',
    ]) {
      const response = await post("/v1/completions", body);
      expect([response.status, (await json(response)).error.param]).toEqual([400, "__proto__"]);
    }
    expect((await post("/v1/completions", { ...ok, prompt: 'what is {"__proto__": 1}?' })).status).toBe(200);
    expect(({} as any).stream).toBeUndefined();
  });

  test("numbers beyond the finite and the exact are refused by name", async () => {
    const { post } = testServer();
    for (const [field, number] of [
      ["temperature", "1e999"],
      ["temperature", "-1e999"],
      ["max_tokens", "9007199254740993"],
      ["max_tokens", "1e400"],
      ["min_tokens", `1${"0".repeat(400)}`],
    ]) {
      const response = await post("/v1/completions", `{"prompt":"x","${field}":${number}}`);
      expect([response.status, (await json(response)).error.param]).toEqual([400, field]);
    }
  });

  test("only a top-level seed is read exactly", () => {
    const limits = { jsonDepthMax: 64, jsonMembersMax: 100 };
    const parsed = parseJson(
      new TextEncoder().encode('{"seed":9223372036854775807,"a":{"seed":9223372036854775807}}'),
      limits,
    );
    expect(parsed).toEqual({ seed: 9223372036854775807n, a: { seed: 2 ** 63 } });
  });
});

describe("parameters", () => {
  test("unknown ones are refused by name, at any depth", async () => {
    const { post } = testServer();
    for (const [extra, param] of [
      [{ foo: 1 }, "foo"],
      [{ stream_options: { foo: 1 } }, "stream_options.foo"],
      [{ max_token: 3 }, "max_token"],
    ] as const) {
      const { error } = await json(await post("/v1/completions", { ...ok, ...extra }));
      expect([error.param, error.code]).toEqual([param, "unknown_parameter"]);
    }
    const { error } = await json(
      await post("/v1/chat/completions", { messages: [{ role: "user", content: "x", color: "red" }] }),
    );
    expect(error.param).toBe("messages[0].color");
  });

  test("the header, or the server's flag, lists them instead", async () => {
    const headers = { "x-koala-unknown-parameters": "ignore" };
    const body = {
      messages: [{ role: "user", content: "x", color: "red" }],
      max_tokens: 1,
      foo: { a: 1 },
      "schlüssel\r\n": 1,
    };
    const response = await testServer().post("/v1/chat/completions", body, { headers });
    expect(response.status).toBe(200);
    expect(response.headers.get("x-koala-ignored-parameters")!.split(", ").sort()).toEqual([
      "foo",
      "messages[0].color",
      "schl%C3%BCssel%0D%0A",
    ]);
    const lenient = testServer({ unknownParameters: "lenient" });
    expect(
      (await lenient.post("/v1/completions", { ...ok, foo: 1 })).headers.get("x-koala-ignored-parameters"),
    ).toBe("foo");
    expect(
      (
        await lenient.post(
          "/v1/completions",
          { ...ok, foo: 1 },
          { headers: { "x-koala-unknown-parameters": "refuse" } },
        )
      ).status,
    ).toBe(400);
    expect((await lenient.post("/v1/completions", { ...ok, foo: 1, temperature: 9 })).status).toBe(400);
  });

  test("fields without effect are accepted and listed; store: true is refused, since nothing is stored", async () => {
    const { post } = testServer();
    const response = await post("/v1/completions", {
      ...ok,
      user: "me",
      metadata: { a: "b" },
      store: false,
      service_tier: "auto",
      prompt_cache_key: null,
      stream_options: { include_obfuscation: false },
    });
    expect([response.status, response.headers.get("x-koala-ignored-parameters")]).toEqual([
      200,
      "user, metadata, store, service_tier, stream_options.include_obfuscation",
    ]);
    expect((await post("/v1/completions", { ...ok, store: true })).status).toBe(400);
    expect((await post("/v1/completions", ok)).headers.has("x-koala-ignored-parameters")).toBe(false);
  });
});

describe("hosts and origins", () => {
  test("a foreign host name is refused, addresses and loopback names are not", async () => {
    const { get } = testServer({ allowedHosts: ["koala.example.org"], boundHost: "box" });
    for (const host of [
      "localhost:8000",
      "127.0.0.1",
      "[::1]:8000",
      "192.168.1.7:80",
      "a.localhost",
      "box:1",
      "BOX",
      "koala.example.org:443",
    ])
      expect([host, (await get("/livez", { host })).status]).toEqual([host, 200]);
    for (const host of ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "evil.example:80"])
      expect([host, (await get("/livez", { host })).status]).toEqual([host, 403]);
    expect((await json(await get("/livez", { host: "my.name" }))).error.message).toContain(
      "--allowed-host my.name",
    );
    expect((await testServer({ allowedHosts: ["*"] }).get("/livez", { host: "evil.example" })).status).toBe(
      200,
    );
  });

  test("pages of other sites are refused even where the browser asks nobody first", async () => {
    const { post, engine } = testServer();
    const headers = { host: "localhost:8000", origin: "https://evil.example", "content-type": "text/plain" };
    expect((await post("/v1/completions", ok, { headers })).status).toBe(403);
    expect((await post("/v1/completions", ok, { headers: { ...headers, origin: "null" } })).status).toBe(403);
    expect(engine.requests).toEqual([]);
    expect(
      (await post("/v1/completions", ok, { headers: { ...headers, origin: "http://localhost:8000" } }))
        .status,
    ).toBe(200);
  });

  test("CORS is off unless configured, and never with credentials", async () => {
    const { post, app } = testServer({ corsOrigins: ["https://app.example"] });
    const headers = { origin: "https://app.example", host: "localhost" };
    const response = await post("/v1/completions", ok, { headers });
    expect([response.status, response.headers.get("access-control-allow-origin")]).toEqual([
      200,
      "https://app.example",
    ]);
    const preflight = await app.request("/v1/completions", {
      method: "OPTIONS",
      headers: { ...headers, "access-control-request-headers": "authorization,x-stainless-os" },
    });
    expect([preflight.status, preflight.headers.get("access-control-allow-headers")]).toEqual([
      204,
      "authorization,x-stainless-os",
    ]);
    expect(preflight.headers.has("access-control-allow-credentials")).toBe(false);
    const closed = await testServer().app.request("/v1/completions", { method: "OPTIONS", headers });
    expect([closed.status, closed.headers.has("access-control-allow-origin")]).toEqual([403, false]);
    const open = await testServer({ corsOrigins: ["*"] }).post("/v1/completions", ok, { headers });
    expect(open.headers.get("access-control-allow-origin")).toBe("*");
  });
});

describe("keys", () => {
  const keys = [apiKey("secret-one"), apiKey("secret-two", "two")];

  test("every route that is registered, and every path that is not, is closed without a key; four are public, and studies by their codes", async () => {
    const { app } = testServer({
      apiKeys: keys,
      pages: { "/": { body: "page", headers: { "content-type": "text/html" } } },
    });
    const open: string[] = [];
    for (const { method, path } of [
      ...app.routes,
      { method: "GET", path: "/nothing" },
      { method: "POST", path: "/v1/engines" },
    ]) {
      const verb = method === "ALL" ? "PUT" : method;
      const response = await app.request(path.replace(":id{.+}", "tiny").replace("/*", "/x"), {
        method: verb,
        ...(verb === "GET" ? {} : { body: "{}" }),
      });
      // Here the code in the address is the key; without studies none fits.
      if (path.startsWith("/study/:code/") && [400, 404, 405].includes(response.status)) continue;
      if (response.status !== 401) open.push(`${verb} ${path}`);
    }
    expect(open.sort()).toEqual(["GET /", "GET /health", "GET /livez", "GET /readyz"]);
  });

  test("a key is taken from either header; wrong, empty and near ones are refused in the same way", async () => {
    const { get } = testServer({ apiKeys: keys });
    for (const headers of [
      { authorization: "Bearer secret-one" },
      { authorization: "bearer   secret-two" },
      { "x-api-key": "secret-two" },
    ])
      expect((await get("/v1/models", headers as any)).status).toBe(200);
    for (const headers of [
      {},
      { authorization: "Bearer" },
      { authorization: "Bearer " },
      { authorization: "Bearer secret-onex" },
      { authorization: "Basic secret-one" },
      { "x-api-key": "" },
    ]) {
      const response = await get("/v1/models", headers as any);
      expect([
        response.status,
        (await json(response)).error.code,
        response.headers.get("www-authenticate"),
      ]).toEqual([401, "invalid_api_key", "Bearer"]);
    }
  });

  test("an open server takes an empty Bearer, as lm-evaluation-harness sends it", async () => {
    expect((await testServer().get("/v1/models", { authorization: "Bearer " })).status).toBe(200);
  });

  test("the key is a part of the prefix cache's salt: tenants share no timing", async () => {
    const { post, engine } = testServer({ apiKeys: keys });
    for (const headers of [{ "x-api-key": "secret-one" }, { "x-api-key": "secret-two" }] as any[])
      for (const cache_salt of [undefined, "s"])
        await post("/v1/completions", { ...ok, cache_salt }, { headers });
    expect(new Set(engine.requests.map((request) => request.cacheSalt)).size).toBe(4);
    const open = testServer();
    await open.post("/v1/completions", ok);
    expect(open.engine.requests[0]!.cacheSalt).toBe("");
  });
});

describe("answers", () => {
  test("each has a request id: the client's where it is sane, ours where it is not", async () => {
    const { get } = testServer();
    expect((await get("/livez", { "x-request-id": "abc-1" })).headers.get("x-request-id")).toBe("abc-1");
    for (const id of ["a b", "x".repeat(200), "é"])
      expect((await get("/livez", { "x-request-id": id })).headers.get("x-request-id")).toStartWith("req_");
    expect((await get("/nothing")).headers.get("x-request-id")).toStartWith("req_");
  });

  test("unknown paths and methods have OpenAI's shape", async () => {
    const { get, app } = testServer();
    expect([(await get("/v1/nothing")).status, (await json(await get("/v1/nothing"))).error.code]).toEqual([
      404,
      "not_found",
    ]);
    const response = await app.request("/v1/completions", { method: "DELETE" });
    expect([response.status, response.headers.get("allow"), (await json(response)).error.code]).toEqual([
      405,
      "POST",
      "method_not_allowed",
    ]);
  });

  test("a mistake of ours is one neutral sentence, and a line in the log without the body", async () => {
    const { post, log, model } = testServer();
    model.tokenizer = {
      ...model.tokenizer,
      encode: () => {
        throw new TypeError("inner\nsecret trouble");
      },
    } as never;
    const response = await post(
      "/v1/completions",
      { prompt: "private words", max_tokens: 1 },
      { headers: { "x-request-id": "r1" } },
    );
    const text = await response.text();
    expect([response.status, text.includes("r1"), text.includes("trouble"), text.includes("at ")]).toEqual([
      500,
      true,
      false,
      false,
    ]);
    expect(log.length).toBe(1);
    const line = JSON.parse(log[0]!);
    expect(line).toMatchObject({
      request: "r1",
      path: "/v1/completions",
      error: "TypeError: inner\nsecret trouble",
    });
    expect(log[0]).not.toContain("private words");
    expect(log[0]).not.toContain("\n");
  });

  test("statuses: queue full 429 with a hint, loading 503, dead for good 503 without retry, unknown model 404", async () => {
    const full = await testServer({ engine: { queueLimit: 0 } }).post("/v1/completions", ok);
    expect([full.status, full.headers.get("retry-after-ms"), (await json(full)).error.code]).toEqual([
      429,
      "500",
      "queue_full",
    ]);
    const stream = await testServer({ engine: { queueLimit: 0 } }).post("/v1/completions", {
      ...ok,
      stream: true,
    });
    expect([stream.status, stream.headers.get("content-type")]).toEqual([
      429,
      "application/json;charset=utf-8",
    ]);
    const { post, engine } = testServer();
    engine.state = "loading";
    const loading = await post("/v1/completions", ok);
    expect([
      loading.status,
      loading.headers.get("retry-after-ms"),
      loading.headers.get("x-should-retry"),
    ]).toEqual([503, "1000", null]);
    engine.state = "failed";
    const failed = await post("/v1/completions", ok);
    expect([failed.status, failed.headers.get("x-should-retry")]).toEqual([503, "false"]);
    const unknown = await testServer().post("/v1/completions", { ...ok, model: "gpt-9" });
    expect([unknown.status, (await json(unknown)).error]).toMatchObject([
      404,
      { code: "model_not_found", param: "model" },
    ]);
    expect((await testServer().post("/v1/completions", { ...ok, model: "gpt-test" })).status).toBe(200);
  });

  test("an engine that dies takes its requests with it as 503, or as an event, and says so to new ones", async () => {
    const { post, engine } = testServer({ engine: { stepMs: 5, script: () => "a".repeat(100) } });
    const whole = post("/v1/completions", { prompt: "x", max_tokens: 100 });
    const stream = post("/v1/completions", { prompt: "x", max_tokens: 100, stream: true });
    expect(await eventually(() => engine.stats.generatedTokens > 4)).toBe(true);
    engine.state = "loading";
    const answer = await whole;
    expect([answer.status, (await json(answer)).error.message]).toEqual([503, "The engine died. Try again."]);
    expect(await (await stream).text()).toContain(
      'data: {"error":{"message":"The engine died. Try again.","type":"service_unavailable"',
    );
    expect((await post("/v1/completions", ok)).status).toBe(503);
    engine.state = "ready";
    expect((await post("/v1/completions", ok)).status).toBe(200);
  });

  test("an engine's failure ends one request: 500, or an event inside the stream, and the neighbour goes on", async () => {
    const { post, engine, log } = testServer({
      engine: { failAfter: 2, script: (request) => (request.prompt.at(-1) === 120 ? "aaaa" : "b") },
    });
    const [broken, fine] = await Promise.all([
      post("/v1/completions", { prompt: "x" }),
      post("/v1/completions", { prompt: "y" }),
    ]);
    expect([broken.status, (await json(broken)).error.message, fine.status]).toEqual([
      500,
      "The logits were not finite.",
      200,
    ]);
    const stream = await (await post("/v1/completions", { prompt: "x", stream: true })).text();
    expect(stream).toEndWith(
      'data: {"error":{"message":"The logits were not finite.","type":"server_error","param":null,"code":"generation_failed"}}\n\ndata: [DONE]\n\n',
    );
    expect(log.length).toBe(2);
    expect(await eventually(() => engine.stats.running === 0)).toBe(true);
  });
});
