/** LangChain's OpenAI classes against a real port. */

import { AIMessage, HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { afterAll, describe, expect, test } from "bun:test";
import { z } from "zod";
import type { FakeOptions } from "../support/fake_engine.ts";
import { listeningServer } from "../support/test_server.ts";

const servers: ReturnType<typeof listeningServer>[] = [];
afterAll(() => Promise.all(servers.map(({ running }) => running.close({ graceMs: 0 }))));

function connect(engine: FakeOptions) {
  const server = listeningServer({ engine });
  servers.push(server);
  const options = {
    model: "tiny",
    apiKey: "none",
    maxRetries: 0,
    configuration: { baseURL: `${server.running.url}/v1` },
  };
  return { ...server, options, chat: new ChatOpenAI(options) };
}

const shape = z.object({ city: z.string() });
const weather = {
  type: "function" as const,
  function: { name: "weather", description: "Now", parameters: z.toJSONSchema(shape) },
};
const text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>';

describe("LangChain", () => {
  test("whole and streamed messages agree, with usage", async () => {
    const { chat } = connect({ script: () => "Hello 😀!" });
    const messages = [new SystemMessage("Be brief"), new HumanMessage("Hi")];
    const whole = await chat.invoke(messages);
    expect([whole.content, whole.response_metadata.finish_reason]).toEqual(["Hello 😀!", "stop"]);
    let streamed = "";
    let total = 0;
    for await (const chunk of await chat.stream(messages)) {
      streamed += chunk.content as string;
      total = chunk.usage_metadata?.total_tokens ?? total;
    }
    expect([streamed, total]).toEqual(["Hello 😀!", whole.usage_metadata!.total_tokens]);
  });

  test("bound tools are called and their results go back", async () => {
    const { chat } = connect({ script: () => text });
    const bound = chat.bindTools([weather]);
    const answer = await bound.invoke("Hi");
    expect(answer.tool_calls!.map(({ name, args }) => [name, args])).toEqual([["weather", { city: "Rom" }]]);
    const history = [
      new HumanMessage("Hi"),
      new AIMessage({ content: answer.content, tool_calls: answer.tool_calls! }),
      new ToolMessage({ content: "sunny", tool_call_id: answer.tool_calls![0]!.id! }),
    ];
    expect((await bound.invoke(history)).tool_calls!.length).toBe(1);
    const forced = await chat.bindTools([weather], { tool_choice: "weather" }).invoke("Hi");
    expect(forced.tool_calls![0]!.args).toEqual({ city: "Rom" });
  });

  test("structured output by JSON schema", async () => {
    const { chat } = connect({ script: () => '{"city": "Rom"}' });
    expect(
      await chat.withStructuredOutput(shape, { method: "jsonSchema", name: "weather" }).invoke("Hi"),
    ).toEqual({ city: "Rom" });
  });

  test("completions and embeddings", async () => {
    const { options } = connect({ script: () => "text" });
    expect(await new OpenAI({ ...options, maxTokens: 9 }).invoke("x")).toBe("text");
    const vectors = await new OpenAIEmbeddings(options).embedDocuments(["a", "b"]);
    expect(vectors.map((vector) => [vector.length, Math.hypot(...vector).toFixed(5)])).toEqual([
      [8, "1.00000"],
      [8, "1.00000"],
    ]);
  });

  test("errors carry our sentence, and a failure inside a stream raises", async () => {
    const { options, chat, engine } = connect({});
    const error = await new ChatOpenAI({ ...options, model: "none" }).invoke("Hi").then(
      () => null,
      (thrown) => thrown,
    );
    expect([error.status, error.code]).toEqual([404, "model_not_found"]);
    engine.options.failAfter = 2;
    const failed = await (async () => {
      for await (const chunk of await chat.stream("Hi")) void chunk;
    })().then(
      () => null,
      (thrown) => thrown,
    );
    expect(failed.message).toContain("The logits were not finite.");
  });
});
