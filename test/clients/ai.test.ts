/** Vercel's AI SDK with @ai-sdk/openai-compatible against a real port. */

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { afterAll, describe, expect, test } from "bun:test";
import { z } from "zod";
import type { FakeOptions } from "../support/fake_engine.ts";
import { listeningServer } from "../support/test_server.ts";

const servers: ReturnType<typeof listeningServer>[] = [];
afterAll(() => Promise.all(servers.map(({ running }) => running.close({ graceMs: 0 }))));

function connect(engine: FakeOptions) {
  const server = listeningServer({ engine });
  servers.push(server);
  const provider = createOpenAICompatible({
    name: "koala",
    baseURL: `${server.running.url}/v1`,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  return { ...server, provider, model: provider.chatModel("tiny") };
}

describe("the AI SDK", () => {
  test("whole and streamed texts agree, and cached tokens arrive", async () => {
    const { model } = connect({ script: () => "Hello 😀!" });
    const whole = await generateText({ model, prompt: "Hi", maxRetries: 0 });
    expect([whole.text, whole.finishReason]).toEqual(["Hello 😀!", "stop"]);
    const stream = streamText({ model, prompt: "Hi", maxRetries: 0 });
    let text = "";
    for await (const delta of stream.textStream) text += delta;
    expect([text, await stream.finishReason]).toEqual(["Hello 😀!", "stop"]);
    const usage = await stream.usage;
    expect([usage.inputTokens, usage.outputTokens]).toEqual([
      whole.usage.inputTokens,
      whole.usage.outputTokens,
    ]);
    expect(usage.inputTokenDetails.cacheReadTokens).toBe(16);
  });

  test("a tool is called, its result goes back, and the answer follows", async () => {
    const { model, engine } = connect({
      script: (request) =>
        new TextDecoder().decode(Uint8Array.from(request.prompt.filter((id) => id < 256))).includes("sunny")
          ? "It is sunny."
          : '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>',
    });
    const tools = {
      weather: tool({
        description: "Now",
        inputSchema: jsonSchema<{ city: string }>({
          type: "object",
          properties: { city: { type: "string" } },
          required: ["city"],
        }),
        execute: async ({ city }) => `sunny in ${city}`,
      }),
    };
    const result = await generateText({
      model,
      prompt: "Hi",
      tools,
      stopWhen: stepCountIs(3),
      maxRetries: 0,
    });
    expect([result.text, result.steps.length]).toEqual(["It is sunny.", 2]);
    expect(result.steps[0]!.toolCalls[0]).toMatchObject({ toolName: "weather", input: { city: "Rom" } });
    expect(engine.requests.length).toBe(2);
    const stream = streamText({ model, prompt: "Hi", tools, toolChoice: "required", maxRetries: 0 });
    await stream.consumeStream();
    expect((await stream.toolCalls).map((call) => call.input)).toEqual([{ city: "Rom" }]);
  });

  test("an object's schema holds the answer", async () => {
    const { model } = connect({ script: () => '{"city": "Rom"}' });
    const { output } = await generateText({
      model,
      prompt: "Hi",
      output: Output.object({ schema: z.object({ city: z.string() }) }),
      maxRetries: 0,
    });
    expect(output).toEqual({ city: "Rom" });
  });

  test("embeddings come as floats", async () => {
    const { provider } = connect({});
    const { embedding } = await embed({ model: provider.embeddingModel("tiny"), value: "a" });
    expect([embedding.length, Math.hypot(...embedding).toFixed(5)]).toEqual([8, "1.00000"]);
  });

  test("errors carry our sentence, before and inside a stream", async () => {
    const { model, engine } = connect({});
    const error = await generateText({ model, prompt: "Hi", temperature: 3, maxRetries: 0 }).then(
      () => null,
      (thrown) => thrown,
    );
    expect([error.name, error.statusCode, error.message]).toEqual([
      "AI_APICallError",
      400,
      "temperature must be at most 2, but is 3.",
    ]);
    engine.options.failAfter = 2;
    const errors: unknown[] = [];
    const stream = streamText({
      model,
      prompt: "Hi",
      temperature: 0,
      maxRetries: 0,
      onError: ({ error: thrown }) => void errors.push(thrown),
    });
    await stream.consumeStream();
    expect(errors.length).toBe(1);
    expect(JSON.stringify(errors[0]) + String(errors[0])).toContain("The logits were not finite.");
  });
});
