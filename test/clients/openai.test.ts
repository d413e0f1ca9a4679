/** The official client against a real port. */

import { afterAll, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import type { FakeOptions } from "../support/fake_engine.ts";
import { eventually, listeningServer } from "../support/test_server.ts";

const servers: ReturnType<typeof listeningServer>[] = [];
afterAll(() => Promise.all(servers.map(({ running }) => running.close({ graceMs: 0 }))));

function connect(engine: FakeOptions, maxRetries = 0) {
  const server = listeningServer({ engine });
  servers.push(server);
  return {
    ...server,
    client: new OpenAI({ baseURL: `${server.running.url}/v1`, apiKey: "none", maxRetries }),
  };
}

const messages = [{ role: "user" as const, content: "Hi" }];
const weather = {
  type: "function" as const,
  function: {
    name: "weather",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const calls = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>';
const rejected = async (promise: Promise<unknown>): Promise<any> =>
  promise.then(
    () => null,
    (error) => error,
  );

describe("chat", () => {
  test("whole and streamed answers agree, with usage, id and request id", async () => {
    const { client } = connect({ script: () => "Hello 😀!" });
    const { data: whole, request_id: id } = await client.chat.completions
      .create({ model: "tiny", messages, seed: 1 })
      .withResponse();
    expect(whole.choices[0]!.message.content).toBe("Hello 😀!");
    expect(id).toStartWith("req_");
    const stream = client.chat.completions.stream({
      model: "tiny",
      messages,
      stream_options: { include_usage: true },
      logprobs: true,
      top_logprobs: 1,
    });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    expect([text, final.choices[0]!.message.content, final.choices[0]!.finish_reason]).toEqual([
      "Hello 😀!",
      "Hello 😀!",
      "stop",
    ]);
    expect(final.usage).toEqual(whole.usage);
    expect(final.choices[0]!.logprobs!.content!.flatMap((token) => token.bytes!)).toEqual([
      ...new TextEncoder().encode("Hello 😀!"),
    ]);
  });

  test("tools: calls are parsed, their results go back, and a stream collects them", async () => {
    const { client } = connect({
      script: (request) =>
        new TextDecoder().decode(Uint8Array.from(request.prompt.filter((id) => id < 256))).includes("sunny")
          ? "It is sunny."
          : calls,
    });
    const asked = await client.chat.completions.create({
      model: "tiny",
      messages,
      tools: [weather],
      tool_choice: "required",
    });
    const { message, finish_reason: reason } = asked.choices[0]!;
    expect(reason).toBe("tool_calls");
    const call = message.tool_calls![0]! as any;
    expect(JSON.parse(call.function.arguments)).toEqual({ city: "Rom" });
    const after = await client.chat.completions.create({
      model: "tiny",
      messages: [...messages, message, { role: "tool", tool_call_id: call.id, content: "sunny" }],
      tools: [weather],
    });
    expect(after.choices[0]!.message.content).toBe("It is sunny.");
    const final = await client.chat.completions
      .stream({ model: "tiny", messages, tools: [weather] })
      .finalChatCompletion();
    expect((final.choices[0]!.message.tool_calls![0] as any).function).toMatchObject({
      name: "weather",
      arguments: '{"city": "Rom"}',
    });
  });

  test("the zod helper's schema holds the answer", async () => {
    const { client } = connect({ script: () => '{"city": "Rom", "degrees": 21}' });
    const shape = z.object({ city: z.string(), degrees: z.number() });
    const answer = await client.chat.completions.parse({
      model: "tiny",
      messages,
      response_format: zodResponseFormat(shape, "weather"),
    });
    expect(answer.choices[0]!.message.parsed).toEqual({ city: "Rom", degrees: 21 });
  });
});

describe("other calls", () => {
  test("completions, embeddings and models", async () => {
    const { client } = connect({ script: () => "text" });
    const completion = await client.completions.create({
      model: "tiny",
      prompt: [1, 2, 3],
      echo: true,
      logprobs: 1,
      max_tokens: 9,
    });
    expect(completion.choices[0]!.logprobs!.tokens!.length).toBe(3 + 5);
    const streamed: string[] = [];
    for await (const chunk of await client.completions.create({ model: "tiny", prompt: "x", stream: true }))
      streamed.push(chunk.choices[0]!.text);
    expect(streamed.join("")).toBe("text");
    const { data } = await client.embeddings.create({ model: "tiny", input: ["a", "b"] });
    expect(data.map((one) => one.embedding.length)).toEqual([8, 8]);
    expect(Math.hypot(...data[0]!.embedding)).toBeCloseTo(1, 5);
    expect((await client.models.list()).data.map((model) => model.id)).toEqual(["tiny"]);
    expect((await client.models.retrieve("tiny")).id).toBe("tiny");
  });
});

describe("failures", () => {
  test("reach the client as its typed errors, with our sentence, field and code", async () => {
    const { client, engine } = connect({});
    const wrong = await rejected(client.chat.completions.create({ model: "tiny", messages, temperature: 3 }));
    expect(wrong).toBeInstanceOf(OpenAI.BadRequestError);
    expect([wrong.param, wrong.code, wrong.message]).toEqual([
      "temperature",
      "invalid_value",
      "400 temperature must be at most 2, but is 3.",
    ]);
    expect(wrong.requestID).toStartWith("req_");
    expect(await rejected(client.models.retrieve("none"))).toBeInstanceOf(OpenAI.NotFoundError);
    engine.options.queueLimit = 0;
    expect(await rejected(client.completions.create({ model: "tiny", prompt: "x" }))).toBeInstanceOf(
      OpenAI.RateLimitError,
    );
    engine.state = "failed";
    expect(await rejected(client.completions.create({ model: "tiny", prompt: "x" }))).toBeInstanceOf(
      OpenAI.InternalServerError,
    );
  });

  test("429 is tried again after the hint, an engine that is gone for good is not", async () => {
    const { client, engine, context } = connect({ queueLimit: 0 }, 1);
    setTimeout(() => (engine.options.queueLimit = 1), 200);
    expect(
      (await client.completions.create({ model: "tiny", prompt: "x", max_tokens: 1 })).choices.length,
    ).toBe(1);
    const count = () =>
      Number(
        /koala_http_responses_total\{route="\/v1\/completions",status="503"\} (\d+)/.exec(
          context.metrics.render([], 0),
        )?.[1] ?? 0,
      );
    engine.state = "failed";
    await rejected(client.completions.create({ model: "tiny", prompt: "x" }));
    expect(count()).toBe(1);
  });

  test("a failure inside a stream raises with our sentence instead of ending in silence", async () => {
    const { client } = connect({ failAfter: 3 });
    const texts: string[] = [];
    const error = await rejected(
      (async () => {
        for await (const chunk of await client.completions.create({
          model: "tiny",
          prompt: "x",
          stream: true,
          temperature: 0,
        }))
          texts.push(chunk.choices[0]!.text);
      })(),
    );
    expect(error).toBeInstanceOf(OpenAI.APIError);
    expect(error.message).toContain("The logits were not finite.");
    expect(texts.length).toBeGreaterThan(0);
  });

  test("leaving ends the work in the engine: a loop that breaks, an abort, and an abort before any answer", async () => {
    const { client, engine } = connect({ stepMs: 2, script: () => "a".repeat(1500) });
    for await (const chunk of await client.chat.completions.create({ model: "tiny", messages, stream: true }))
      if (chunk.choices[0]!.delta.content) break;
    expect(await eventually(() => engine.aborted.length === 1 && engine.stats.running === 0)).toBe(true);
    const controller = new AbortController();
    const pending = rejected(
      client.chat.completions.create({ model: "tiny", messages, n: 3 }, { signal: controller.signal }),
    );
    expect(await eventually(() => engine.stats.running === 3)).toBe(true);
    controller.abort();
    expect(await pending).toBeInstanceOf(OpenAI.APIUserAbortError);
    expect(await eventually(() => engine.aborted.length === 4 && engine.stats.running === 0)).toBe(true);
  });
});
