/** Health, metrics, models, embeddings and the documents. */

import { describe, expect, test } from "bun:test";
import { z } from "zod";
import { byteTokenizer, FakeEngine, HIDDEN, PREFILL_MS } from "../support/fake_engine.ts";
import { testServer } from "../support/test_server.ts";

const json = async (response: Response): Promise<any> => response.json();

describe("health", () => {
  test("readyz and health see loading, failed and stalled engines; livez only the process", async () => {
    const { get, engine, context } = testServer({ limits: { stalledMs: 1000 } });
    const statuses = async () => [
      (await get("/livez")).status,
      (await get("/readyz")).status,
      (await get("/health")).status,
      (await json(await get("/readyz"))).status,
    ];
    expect(await statuses()).toEqual([200, 200, 200, "ok"]);
    engine.state = "loading";
    expect(await statuses()).toEqual([200, 503, 503, "loading"]);
    engine.state = "failed";
    expect(await statuses()).toEqual([200, 503, 503, "failed"]);
    engine.state = "ready";
    engine.stats.stalledMs = 1001;
    expect(await statuses()).toEqual([200, 503, 503, "stalled"]);
    engine.stats.stalledMs = 1000;
    context.lifecycle.drain();
    expect(await statuses()).toEqual([200, 503, 200, "draining"]);
  });

  test("while draining, new work is refused with a hint and the tokenizer still answers", async () => {
    const { post, context } = testServer();
    context.lifecycle.drain();
    const refused = await post("/v1/completions", { prompt: "x" });
    expect([refused.status, refused.headers.get("retry-after-ms")]).toEqual([503, "2000"]);
    expect((await post("/tokenize", { prompt: "x" })).status).toBe(200);
  });
});

describe("models", () => {
  test("are listed, found by id and alias, and may come and go", async () => {
    const { get, post, context, model } = testServer();
    const tuned = { ...model, id: "org/tuned", aliases: [], engine: new FakeEngine(byteTokenizer()) };
    expect((await get("/v1/models/org/tuned")).status).toBe(404);
    context.models.add(tuned);
    expect((await json(await get("/v1/models"))).data.map((one: any) => one.id)).toEqual([
      "tiny",
      "org/tuned",
    ]);
    expect((await json(await get("/v1/models/org/tuned"))).id).toBe("org/tuned");
    expect(await json(await get("/v1/models/gpt-test"))).toMatchObject({
      id: "tiny",
      object: "model",
      owned_by: "koala",
      max_model_len: 2048,
      state: "ready",
    });
    expect(JSON.stringify(await json(await get("/v1/models")))).not.toContain(model.path);
    const answer = await json(
      await post("/v1/completions", { model: "org/tuned", prompt: "x", max_tokens: 1 }),
    );
    expect([answer.model, tuned.engine.requests.length]).toEqual(["org/tuned", 1]);
    expect(() => context.models.add({ ...tuned, id: "other", aliases: ["tiny"] })).toThrow("already");
    context.models.remove("org/tuned");
    expect((await post("/v1/completions", { model: "org/tuned", prompt: "x" })).status).toBe(404);
  });
});

describe("embeddings", () => {
  test("have length 1, in both encodings, for texts and ids alike", async () => {
    const { post, engine } = testServer();
    const floats = await json(await post("/v1/embeddings", { model: "tiny", input: ["ab", "c"] }));
    const [first] = floats.data;
    expect(floats.data.map((one: any) => [one.object, one.index, one.embedding.length])).toEqual([
      ["embedding", 0, HIDDEN],
      ["embedding", 1, HIDDEN],
    ]);
    expect(Math.hypot(...first.embedding)).toBeCloseTo(1, 6);
    expect(floats.usage).toEqual({ prompt_tokens: 5, total_tokens: 5 });
    const packed = await json(await post("/v1/embeddings", { input: "ab", encoding_format: "base64" }));
    const raw = Buffer.from(packed.data[0].embedding, "base64");
    expect([...new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length))]).toEqual(
      first.embedding,
    );
    const ids = await json(await post("/v1/embeddings", { input: [256, 97, 98], dimensions: HIDDEN }));
    expect(ids.data[0].embedding).toEqual(first.embedding);
    const plain = await json(await post("/v1/embeddings", { input: [[256, 97, 98]], normalize: false }));
    expect(plain.data[0].embedding).toEqual([
      ...(await engine.embed({ id: "x", prompt: [256, 97, 98], cacheSalt: "" })),
    ]);
  });
});

describe("metrics", () => {
  /** Samples by name and labels, with the line grammar of the text format checked on the way. */
  function parse(text: string): Map<string, number> {
    const samples = new Map<string, number>();
    for (const line of text.trimEnd().split("\n")) {
      if (/^# (HELP|TYPE) [a-zA-Z_:][a-zA-Z0-9_:]* .+$/.test(line)) continue;
      const match = /^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*\})?) (\S+)$/.exec(
        line,
      );
      if (match === null || Number.isNaN(Number(match[2]))) throw new Error(`not a sample: ${line}`);
      samples.set(match[1]!, Number(match[2]));
    }
    return samples;
  }

  test("count what usage says, under our name and vLLM's", async () => {
    const { get, post } = testServer({ engine: { script: () => "abc" }, model: { id: 'odd"name\\' } });
    const { usage } = await json(await post("/v1/completions", { prompt: ["x", "yy"], max_tokens: 9 }));
    await post("/v1/completions", { prompt: "x", temperature: 7 });
    const samples = parse(await (await get("/metrics")).text());
    const label = '{model_name="odd\\"name\\\\"}';
    for (const prefix of ["koala_", "vllm:"]) {
      expect(samples.get(`${prefix}request_prompt_tokens_sum${label}`)).toBe(usage.prompt_tokens);
      expect(samples.get(`${prefix}request_generation_tokens_sum${label}`)).toBe(usage.completion_tokens);
      expect(samples.get(`${prefix}time_to_first_token_seconds_count${label}`)).toBe(2);
      expect(samples.get(`${prefix}request_queue_time_seconds_count${label}`)).toBe(2);
      expect(samples.get(`${prefix}request_prefill_time_seconds_sum${label}`)).toBe((2 * PREFILL_MS) / 1000);
      expect(samples.get(`${prefix}inter_token_latency_seconds_count${label}`)).toBe(
        usage.completion_tokens - 2,
      );
      expect(samples.get(`${prefix}generation_tokens_total${label}`)).toBe(usage.completion_tokens);
      for (const gauge of ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"])
        expect(samples.get(prefix + gauge + label)).toBe(0);
    }
    expect(
      samples.get(
        'vllm:cache_config_info{model_name="odd\\"name\\\\",block_size="16",num_gpu_blocks="64",cache_dtype="float32"}',
      ),
    ).toBe(1);
    expect(
      samples.get('vllm:request_success_total{model_name="odd\\"name\\\\",finished_reason="stop"}'),
    ).toBe(2);
    expect(samples.get('koala_http_responses_total{route="/v1/completions",status="400"}')).toBe(1);
  });

  test("a histogram's buckets grow to its count", async () => {
    const { get, post } = testServer({ engine: { script: () => "abc" } });
    await post("/v1/completions", { prompt: Array(5).fill("x"), max_tokens: 9 });
    const buckets = [...parse(await (await get("/metrics")).text())].filter(([name]) =>
      name.startsWith("koala_request_generation_tokens_bucket"),
    );
    const counts = buckets.map(([, count]) => count);
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    expect([counts[0], counts.at(-1)]).toEqual([0, 5]);
    expect(buckets.at(-1)![0]).toContain('le="+Inf"');
  });

  test("paths that clients make up become no labels", async () => {
    const { get } = testServer();
    for (let i = 0; i < 50; i++) await get(`/made-up-${i}`);
    expect(await (await get("/metrics")).text()).not.toContain("made-up");
  });
});

describe("documents", () => {
  test("openapi.json describes every registered route and resolves all its references", async () => {
    const { get, app } = testServer();
    const document = await json(await get("/openapi.json"));
    expect(document.openapi).toBe("3.1.0");
    const declared = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods as object).map((method) => `${method.toUpperCase()} ${path}`),
    );
    const registered = app.routes
      .filter((route) => route.method !== "ALL")
      .map((route) => `${route.method} ${route.path.replace(/:(\w+)(\{\.\+\})?/g, "{$1}")}`);
    expect(declared.sort()).toEqual(registered.sort());
    expect(declared.length).toBe(52);
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1]!);
    expect(references.length).toBeGreaterThan(30);
    for (const reference of references)
      expect([
        reference,
        reference
          .split("/")
          .slice(1)
          .reduce((node, key) => node?.[key], document) !== undefined,
      ]).toEqual([reference, true]);
    const ids = Object.values(document.paths).flatMap((methods: any) =>
      Object.values(methods).map((operation: any) => operation.operationId),
    );
    expect(new Set(ids).size).toBe(ids.length);
  });

  test("the documented request is the checked one: bounds and names are the schema's", async () => {
    const { schemas } = (await json(await testServer().get("/openapi.json"))).components;
    const { properties, additionalProperties, required } = schemas.ChatCompletionRequest;
    expect([additionalProperties, required]).toEqual([false, ["messages"]]);
    expect(properties.temperature.anyOf[0]).toEqual({ type: "number", minimum: 0, maximum: 2 });
    expect(schemas.Seed.type).toBe("integer");
    for (const name of [
      "n",
      "stop",
      "tools",
      "tool_choice",
      "parallel_tool_calls",
      "response_format",
      "logit_bias",
      "stream_options",
    ])
      expect(properties[name]).toBeDefined();
  });

  test("answers match what is documented", async () => {
    const { get, post } = testServer({ engine: { script: () => "ok" } });
    const document = await json(await get("/openapi.json"));
    const answers: [string, any][] = [
      ["Completion", await json(await post("/v1/completions", { prompt: "x", logprobs: 1, echo: true }))],
      [
        "ChatCompletion",
        await json(
          await post("/v1/chat/completions", { messages: [{ role: "user", content: "x" }], logprobs: true }),
        ),
      ],
      ["ModelList", await json(await get("/v1/models"))],
      ["EmbeddingResponse", await json(await post("/v1/embeddings", { input: "x" }))],
      ["TokenizeResponse", await json(await post("/tokenize", { prompt: "x" }))],
      ["TokenizerInfo", await json(await get("/tokenizer_info"))],
      ["Error", await json(await post("/v1/completions", {}))],
    ];
    for (const [name, answer] of answers) {
      const schema = { ...document.components.schemas[name], $defs: document.components.schemas };
      const local = JSON.parse(JSON.stringify(schema).replaceAll("#/components/schemas/", "#/$defs/"));
      const checked = z.fromJSONSchema(local).safeParse(answer);
      expect([name, checked.error?.issues]).toEqual([name, undefined]);
    }
  });

  test("the page needs nothing from elsewhere and runs no script", async () => {
    const response = await testServer().get("/docs");
    const page = await response.text();
    expect(response.headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(page).not.toMatch(/<script|<link|src=|https?:\/\//);
    for (const path of ["/v1/chat/completions", "/loglikelihood-rolling", "/metrics"])
      expect(page).toContain(`<code>${path}</code>`);
  });
});
