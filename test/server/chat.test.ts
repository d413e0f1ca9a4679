/** /v1/chat/completions over ChatML and the bigram model. */

import { describe, expect, test } from "bun:test";
import { builtinTemplate } from "../../src/text/template.ts";
import { BOS, bigramLogprobs, byteTokenizer, EOS, IM_END } from "../support/fake_engine.ts";
import { readEvents, testServer } from "../support/test_server.ts";

const json = async (response: Response): Promise<any> => response.json();
const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];
const hi = [{ role: "user", content: "Hi" }];
const says = (text: string) => ({ engine: { script: () => text } });
const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "Now",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const clock = { type: "function", function: { name: "clock" } };
const call = (name: string, args: object): string =>
  `<tool_call>\n${JSON.stringify({ name, arguments: args }).replace('","', '", "').replaceAll('":', '": ').replace('": "', '": "')}\n</tool_call>`;

describe("answers", () => {
  test("the prompt is the template's, and its end of turn ends the answer", async () => {
    const { post, engine } = testServer(says("Hello!"));
    const answer = await json(
      await post("/v1/chat/completions", {
        model: "tiny",
        messages: [{ role: "system", content: "Be brief" }, ...hi],
      }),
    );
    expect(
      new TextDecoder().decode(Uint8Array.from(engine.requests[0]!.prompt.filter((id) => id < 256))),
    ).toBe("system\nBe brief\nuser\nHi\nassistant\n");
    expect(engine.requests[0]!.params.stopTokenIds).toEqual([EOS, IM_END]);
    expect(engine.requests[0]!.params.maxTokens).toBe(2048 - engine.requests[0]!.prompt.length);
    expect(answer).toMatchObject({
      object: "chat.completion",
      model: "tiny",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "Hello!", refusal: null },
          finish_reason: "stop",
          stop_reason: null,
          logprobs: null,
        },
      ],
      usage: { completion_tokens: 7, prompt_tokens_details: { cached_tokens: 32 } },
    });
  });

  test("a stream has the role first, one id, a finish reason last, then usage; joined it is the whole answer", async () => {
    const { post } = testServer(says("naïve 😀"));
    const request = { messages: hi, stream: true, n: 2, stream_options: { include_usage: true } };
    const { events, done } = await readEvents(await post("/v1/chat/completions", request));
    expect(done).toBe(true);
    expect(new Set(events.map((event) => event.id)).size).toBe(1);
    for (const index of [0, 1]) {
      const choices = events
        .flatMap((event) => event.choices)
        .filter((choice: any) => choice.index === index);
      expect(choices[0].delta).toEqual({ role: "assistant", content: "" });
      expect(choices.slice(1).every((choice: any) => choice.delta.role === undefined)).toBe(true);
      expect(choices.map((choice: any) => choice.delta.content ?? "").join("")).toBe("naïve 😀");
      expect(choices.map((choice: any) => choice.finish_reason).filter(Boolean)).toEqual(["stop"]);
      expect(choices.at(-1).finish_reason).toBe("stop");
    }
    expect(events.at(-1).choices).toEqual([]);
    expect(events.at(-1).usage).toEqual(
      (await json(await post("/v1/chat/completions", { messages: hi, n: 2 }))).usage,
    );
    const plain = await readEvents(await post("/v1/chat/completions", { messages: hi, stream: true }));
    expect(plain.events.every((event) => event.usage === undefined)).toBe(true);
  });

  test("logprobs name every token of the text with its bytes, and not the end", async () => {
    const { post, engine } = testServer(says("é!"));
    const { choices } = await json(
      await post("/v1/chat/completions", { messages: hi, logprobs: true, top_logprobs: 2 }),
    );
    const { content } = choices[0].logprobs;
    expect(content.flatMap((token: any) => token.bytes)).toEqual(bytes("é!"));
    const last = engine.requests[0]!.prompt.at(-1)!;
    expect(content[0].logprob).toBe(bigramLogprobs(last)[0xc3]!);
    expect(content[0].top_logprobs.map((top: any) => top.logprob)).toEqual(
      [...bigramLogprobs(last)].sort((a, b) => b - a).slice(0, 2),
    );
    const { events } = await readEvents(
      await post("/v1/chat/completions", { messages: hi, logprobs: true, top_logprobs: 2, stream: true }),
    );
    expect(events.flatMap((event) => event.choices[0].logprobs?.content ?? [])).toEqual(content);
    expect((await post("/v1/chat/completions", { messages: hi, top_logprobs: 2 })).status).toBe(400);
  });

  test("max_completion_tokens wins over max_tokens, and length is the reason", async () => {
    const { post } = testServer(says("abcdef"));
    const { choices } = await json(
      await post("/v1/chat/completions", { messages: hi, max_completion_tokens: 2, max_tokens: 5 }),
    );
    expect([choices[0].message.content, choices[0].finish_reason]).toEqual(["ab", "length"]);
  });

  test("a dialogue longer than the context names messages", async () => {
    const { post } = testServer({ engine: { maxModelLen: 16 } });
    const { error } = await json(await post("/v1/chat/completions", { messages: hi }));
    expect([error.code, error.param]).toEqual(["context_length_exceeded", "messages"]);
  });

  test("return_token_ids and prompt_logprobs answer for the rendered prompt", async () => {
    const { post, engine } = testServer(says("ok"));
    const answer = await json(
      await post("/v1/chat/completions", { messages: hi, return_token_ids: true, prompt_logprobs: 0 }),
    );
    expect(answer.prompt_token_ids).toEqual(engine.requests[0]!.prompt);
    expect(answer.choices[0].token_ids).toEqual([...bytes("ok"), IM_END]);
    expect(answer.prompt_logprobs.length).toBe(answer.prompt_token_ids.length);
  });
});

describe("prompts", () => {
  test("continue_final_message goes on with the assistant's words, and needs some", async () => {
    const { post, engine } = testServer(says(" world"));
    const answer = await json(
      await post("/v1/chat/completions", {
        messages: [...hi, { role: "assistant", content: "Hello" }],
        continue_final_message: true,
        add_generation_prompt: false,
      }),
    );
    expect(engine.requests[0]!.prompt.slice(-5)).toEqual(bytes("Hello"));
    expect(answer.choices[0].message.content).toBe(" world");
    expect((await post("/v1/chat/completions", { messages: hi, continue_final_message: true })).status).toBe(
      400,
    );
  });

  test("chat_template_kwargs take names of the allow-list only", async () => {
    const { post } = testServer(says("ok"));
    expect(
      (await post("/v1/chat/completions", { messages: hi, chat_template_kwargs: { enable_thinking: false } }))
        .status,
    ).toBe(200);
    const refused = await post("/v1/chat/completions", {
      messages: hi,
      chat_template_kwargs: { tokenize: true },
    });
    expect([refused.status, (await json(refused)).error.param]).toEqual([
      400,
      "chat_template_kwargs.tokenize",
    ]);
  });

  test("special tokens that a user types stay text", async () => {
    const { post, engine } = testServer(says("ok"));
    await post("/v1/chat/completions", { messages: [{ role: "user", content: "<|im_end|><s>" }] });
    expect(engine.requests[0]!.prompt.filter((id) => id === IM_END || id === BOS)).toEqual([IM_END]);
  });

  test("a model without template says which flag gives it one", async () => {
    const { post } = testServer({ model: { template: null } });
    const response = await post("/v1/chat/completions", { messages: hi });
    expect(response.status).toBe(400);
    expect((await json(response)).error.message).toContain("--chat-template");
  });

  test("messages come back as clients hold them: null content, refusal, tool calls, parts", async () => {
    const { post } = testServer(says("ok"));
    const messages = [
      {
        role: "developer",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b" },
        ],
      },
      { role: "user", content: "q", name: "Ann" },
      {
        role: "assistant",
        content: null,
        refusal: null,
        annotations: [],
        audio: null,
        tool_calls: [
          { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Rom"}' } },
        ],
      },
      { role: "tool", content: "sunny", tool_call_id: "call_1" },
    ];
    expect((await post("/v1/chat/completions", { messages, tools: [weather] })).status).toBe(200);
    const image = [{ role: "user", content: [{ type: "image_url", image_url: { url: "http://x" } }] }];
    expect((await post("/v1/chat/completions", { messages: image })).status).toBe(400);
    expect(
      (await json(await post("/v1/chat/completions", { messages: [{ role: "user" }] }))).error,
    ).toMatchObject({ param: "messages[0].content", code: "missing_required_parameter" });
    expect(
      (await json(await post("/v1/chat/completions", { messages: [{ role: "king", content: "x" }] }))).error
        .param,
    ).toBe("messages[0].role");
  });

  test("the Koala format streams an answer as a text of its own", async () => {
    const { post, engine } = testServer({
      ...says("Hi"),
      model: { template: builtinTemplate("koala", byteTokenizer()) },
    });
    const answer = await json(await post("/v1/chat/completions", { messages: hi }));
    expect(answer.choices[0].message.content).toBe("Hi");
    const { prompt } = engine.requests[0]!;
    expect([prompt[0], new TextDecoder().decode(Uint8Array.from(prompt.slice(1)))]).toEqual([
      BOS,
      "BEGINNING OF CONVERSATION: USER: Hi GPT:",
    ]);
  });
});

describe("structure", () => {
  test("response_format reaches the engine as a grammar, which holds the answer to it", async () => {
    const schema = {
      type: "object",
      properties: { a: { type: "integer" } },
      required: ["a"],
      additionalProperties: false,
    };
    const { post, engine } = testServer(says('{"a": 12}'));
    const format = { type: "json_schema", json_schema: { name: "x", strict: true, schema } };
    const answer = await json(await post("/v1/chat/completions", { messages: hi, response_format: format }));
    expect(JSON.parse(answer.choices[0].message.content)).toEqual({ a: 12 });
    await post("/v1/chat/completions", { messages: hi, response_format: { type: "json_object" } });
    await post("/v1/chat/completions", { messages: hi, response_format: { type: "text" } });
    expect(engine.requests.map((request) => request.params.grammar)).toEqual([
      { kind: "json_schema", schema },
      { kind: "json_object" },
      null,
    ]);
  });

  test("what a model without any sense would say still matches its schema", async () => {
    const { post } = testServer();
    const schema = {
      type: "object",
      properties: { a: { enum: ["x", "yy"] }, b: { type: "array", items: { type: "boolean" }, maxItems: 3 } },
      required: ["a", "b"],
      additionalProperties: false,
    };
    for (const seed of [1, 2, 3, 4]) {
      const answer = await json(
        await post("/v1/chat/completions", {
          messages: hi,
          seed,
          response_format: { type: "json_schema", json_schema: { name: "x", schema } },
        }),
      );
      expect(answer.choices[0].finish_reason).toBe("stop");
      const { a, b } = JSON.parse(answer.choices[0].message.content);
      expect(["x", "yy"]).toContain(a);
      expect(b.every((item: unknown) => typeof item === "boolean")).toBe(true);
    }
  });

  test("a schema that cannot be enforced is a 400 that names the field", async () => {
    const { post } = testServer();
    const response = await post("/v1/chat/completions", {
      messages: hi,
      response_format: {
        type: "json_schema",
        json_schema: { name: "x", schema: { type: "string", pattern: "(" } },
      },
    });
    expect([response.status, (await json(response)).error.param]).toEqual([400, "response_format"]);
  });

  test("a big bound in a schema is no bigint: int64 limits are usual there", async () => {
    const { post } = testServer(says('{"a": 1}'));
    const schema =
      '{"type":"object","properties":{"a":{"type":"integer","maximum":9223372036854775807}},"required":["a"],"additionalProperties":false}';
    const response = await post(
      "/v1/chat/completions",
      `{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":${schema}}}}`,
    );
    expect(response.status).toBe(200);
  });
});

describe("tools", () => {
  test("auto reads calls, whole and streamed alike", async () => {
    const text = `Let me look.\n${call("weather", { city: "Rom" })}\n${call("clock", {})}`;
    const { post, engine } = testServer(says(text));
    const answer = await json(
      await post("/v1/chat/completions", { messages: hi, tools: [weather, clock], tool_choice: "auto" }),
    );
    const [{ message, finish_reason: reason }] = answer.choices;
    expect(reason).toBe("tool_calls");
    expect(
      message.tool_calls.map(({ function: { name, arguments: args } }: any) => [name, JSON.parse(args)]),
    ).toEqual([
      ["weather", { city: "Rom" }],
      ["clock", {}],
    ]);
    expect(message.content.trim()).toBe("Let me look.");
    expect(engine.requests[0]!.params.grammar).toBeNull();
    const { events } = await readEvents(
      await post("/v1/chat/completions", { messages: hi, tools: [weather, clock], stream: true }),
    );
    const deltas = events.flatMap((event) => event.choices[0].delta.tool_calls ?? []);
    const argumentsOf = (index: number) =>
      deltas
        .filter((delta: any) => delta.index === index)
        .map((delta: any) => delta.function.arguments)
        .join("");
    expect([0, 1].map((index) => JSON.parse(argumentsOf(index)))).toEqual([{ city: "Rom" }, {}]);
    expect(
      deltas
        .filter((delta: any) => delta.id)
        .map((delta: any) => [delta.index, delta.type, delta.function.name]),
    ).toEqual([
      [0, "function", "weather"],
      [1, "function", "clock"],
    ]);
    expect(events.at(-1).choices[0].finish_reason).toBe("tool_calls");
  });

  test("parallel_tool_calls: false lets one call through", async () => {
    const { post } = testServer(says(`${call("weather", { city: "Rom" })}\n${call("clock", {})}`));
    const answer = await json(
      await post("/v1/chat/completions", {
        messages: hi,
        tools: [weather, clock],
        parallel_tool_calls: false,
      }),
    );
    expect(answer.choices[0].message.tool_calls.map((one: any) => one.function.name)).toEqual(["weather"]);
    expect(answer.choices[0].message.content).toBeNull();
  });

  test("required and named calls are enforced by a grammar that the parser reads", async () => {
    const { post, engine } = testServer(
      says('<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>'),
    );
    for (const choice of ["required", { type: "function", function: { name: "weather" } }]) {
      const answer = await json(
        await post("/v1/chat/completions", { messages: hi, tools: [clock, weather], tool_choice: choice }),
      );
      expect(answer.choices[0].message.tool_calls[0].function).toEqual({
        name: "weather",
        arguments: '{"city": "Rom"}',
      });
      expect(answer.choices[0].finish_reason).toBe("tool_calls");
      expect(engine.requests.at(-1)!.params.grammar).not.toBeNull();
    }
  });

  test("calls are read where the tokenizer counts their marks as special, and other special tokens stay hidden", async () => {
    const tokenizer = byteTokenizer(["<tool_call>", "</tool_call>"]);
    const ids = [65, BOS, 260, ...bytes('{"name": "weather", "arguments": {"city": "Rom"}}'), 261];
    const { post } = testServer({
      engine: { script: () => ids },
      model: { tokenizer, template: builtinTemplate("chatml", tokenizer) },
    });
    const answer = await json(await post("/v1/chat/completions", { messages: hi, tools: [weather] }));
    expect(answer.choices[0].message.tool_calls[0].function.name).toBe("weather");
    expect(answer.choices[0].message.content).toBe("A");
    const plain = await json(await post("/v1/chat/completions", { messages: hi }));
    expect(plain.choices[0].message.content).not.toContain("<tool_call>");
  });

  test("an answer that was cut has the reason length, also after a call", async () => {
    const text = call("weather", { city: "Rom" });
    const { post } = testServer(says(`${text} and more`));
    const answer = await json(
      await post("/v1/chat/completions", { messages: hi, tools: [weather], max_tokens: text.length + 3 }),
    );
    expect([answer.choices[0].message.tool_calls.length, answer.choices[0].finish_reason]).toEqual([
      1,
      "length",
    ]);
  });

  test("none keeps the tools out of prompt and answer", async () => {
    const text = call("weather", { city: "Rom" });
    const { post, engine } = testServer(says(text));
    const answer = await json(
      await post("/v1/chat/completions", { messages: hi, tools: [weather], tool_choice: "none" }),
    );
    expect(answer.choices[0]).toMatchObject({ message: { content: text }, finish_reason: "stop" });
    await post("/v1/chat/completions", { messages: hi });
    expect(engine.requests[0]!.prompt).toEqual(engine.requests[1]!.prompt);
  });

  test("with a response format, auto allows a call or the format", async () => {
    const format = {
      type: "json_schema",
      json_schema: {
        name: "x",
        schema: {
          type: "object",
          properties: { a: { type: "null" } },
          required: ["a"],
          additionalProperties: false,
        },
      },
    };
    for (const text of [
      '{"a": null}',
      '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>',
    ])
      expect(
        (
          await testServer(says(text)).post("/v1/chat/completions", {
            messages: hi,
            tools: [weather],
            response_format: format,
          })
        ).status,
      ).toBe(200);
    expect(
      (
        await testServer(says("Hello")).post("/v1/chat/completions", {
          messages: hi,
          tools: [weather],
          response_format: format,
        })
      ).status,
    ).toBe(500);
  });

  test("choices without tools, and tools that are not there, are refused", async () => {
    const { post } = testServer();
    for (const request of [
      { tool_choice: "required" },
      { tool_choice: "required", tools: [] },
      { tools: [weather], tool_choice: { type: "function", function: { name: "clock" } } },
    ]) {
      const response = await post("/v1/chat/completions", { messages: hi, ...request });
      expect([response.status, (await json(response)).error.param]).toEqual([400, "tool_choice"]);
    }
    expect(
      (await post("/v1/chat/completions", { messages: hi, tool_choice: "auto", max_tokens: 1 })).status,
    ).toBe(200);
  });
});
