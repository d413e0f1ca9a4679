import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { Canary } from "../support/canary.ts";
import { hostileSchemas as schemas } from "../support/hostile_schemas.ts";
import { type RunningServer, startKoala } from "../support/koala_process.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { type Field, field, inside } from "../support/numeric_field.ts";
import { makeTinyModel } from "../support/tiny_model.ts";

/** Of the model under test. */
const positions = 1024;
const vocabulary = 512;
const hidden = 64;

const folder = temporaryFolder("bad-input");
let server: RunningServer;
let canary: Canary;

beforeAll(async () => {
  const directory = await makeTinyModel(folder, { maxPositions: positions });
  // Small steps, so that a prompt is many steps of prefill and a request can leave in the middle of it.
  const flags = ["--threads", "1", "--max-step-tokens", "64", "--cache-memory", "0.1"];
  server = await startKoala(["--model", directory, "--served-model-name", "tiny", ...flags]);
  canary = new Canary(server.url, {
    prompt: "The canary sings",
    temperature: 0.8,
    seed: 7,
    max_tokens: 400,
    ignore_eos: true,
  });
  await canary.runAlone();
});

afterAll(async () => {
  await server?.stop();
});

interface Answer {
  status: number;
  text: string;
  error: { message: string; type: string; param: string | null; code: string | null } | null;
}

async function post(
  path: string,
  body: string | Uint8Array | object,
  init: RequestInit = {},
): Promise<Answer> {
  const raw =
    typeof body === "string" || body instanceof Uint8Array || body instanceof ReadableStream
      ? body
      : JSON.stringify(body);
  const response = await fetch(server.url + path, { method: "POST", body: raw as BodyInit, ...init });
  const text = await response.text();
  const json = response.headers.get("content-type")?.includes("json")
    ? (JSON.parse(text) as { error?: Answer["error"] })
    : {};
  return { status: response.status, text, error: json.error ?? null };
}

/** One sentence or two, for people: no stack, no machine's words. */
const expectSentence = (message: string | undefined): void =>
  expect(message).toMatch(/^[A-Z_a-z][^\n]*[.!]$/);

function expectRefused(answer: Answer, param: RegExp, status = 400): void {
  expect(answer.status).toBe(status);
  expectSentence(answer.error?.message);
  expect(answer.error?.message).not.toMatch(/\bat \/|undefined|\[object|zod|\.ts\b/);
  expect(`${answer.error?.param} ${answer.error?.message}`).toMatch(param);
}

/** At most `width` at a time. */
async function inParallel<T>(
  items: readonly T[],
  work: (item: T) => Promise<void>,
  width = 12,
): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let i = next++; i < items.length; i = next++) await work(items[i]!);
  };
  await Promise.all(Array.from({ length: width }, worker));
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Number(
    text
      .split("\n")
      .find((line) => line.startsWith(`${name}{`))
      ?.split(" ")
      .at(-1),
  );
}

/** Waits until so many requests are in the engine. */
async function settled(requests: number): Promise<void> {
  for (let i = 0; ; i++) {
    const now = (await metric("koala_num_requests_running")) + (await metric("koala_num_requests_waiting"));
    if (now <= requests) return;
    if (i > 200) throw new Error(`${now} requests still run after five seconds`);
    await Bun.sleep(25);
  }
}

const int32 = 2 ** 31 - 1;

const sampling = (base: object): Field[] => [
  field(base, "temperature", 0, 2, 0.001),
  field(base, "top_p", 0, 1, 0.001),
  field(base, "top_k", -1, int32),
  field(base, "min_p", 0, 1, 0.001),
  { ...field(base, "repetition_penalty", 0.001, 10, 0.001), belowMin: "0" },
  field(base, "frequency_penalty", -2, 2, 0.001),
  field(base, "presence_penalty", -2, 2, 0.001),
  {
    ...field(base, "seed", 0, 0),
    min: "-9223372036854775808",
    belowMin: "-9223372036854775809",
    max: "18446744073709551615",
    aboveMax: "18446744073709551616",
  },
  field(base, "min_tokens", 0, 2),
  field(base, "prompt_logprobs", 0, 20),
  field(base, "n", 1, 128),
  field(base, "priority", -1e6, 1e6),
  inside(base, "stop_token_ids", "[@]", vocabulary - 1),
  inside(base, "logit_bias", '{"5":@}', 100, -100),
];
const completion = { model: "tiny", prompt: [5], max_tokens: 2 };
const chat = { model: "tiny", messages: [{ role: "user", content: "hi" }], max_tokens: 2 };
/** With the chat template: <s>, then bytes and pairs of "[user] hi\n[assistant] ". */
const chatPromptTokens = async (): Promise<number> =>
  (JSON.parse((await post("/tokenize", { messages: chat.messages })).text) as { count: number }).count;

const completionFields: Field[] = [
  ...sampling(completion),
  field(completion, "max_tokens", 0, positions - 1),
  field(completion, "logprobs", 0, 20),
  field(completion, "best_of", 1, 128),
  inside(completion, "prompt", "[@]", vocabulary - 1),
  inside(completion, "prompt", "[[7,@]]", vocabulary - 1),
];
const embeddingFields: Field[] = [
  field({ input: [5] }, "dimensions", hidden, hidden),
  inside({}, "input", "[7,@]", vocabulary - 1),
  inside({}, "input", "[[7],[@]]", vocabulary - 1),
];

/** Each field at its limits, beyond them, and as everything that is no such number. */
async function probe(path: string, fields: readonly Field[]): Promise<void> {
  const accepted = fields.flatMap((one) =>
    [one.min, one.max, ...(one.required ? [] : ["null"])].map((value) => ({ one, value })),
  );
  const numbers = ["9007199254740993", "2147483648", "-1"];
  const within = (one: Field, value: string) =>
    Number(value) >= Number(one.min) && Number(value) <= Number(one.max);
  const refused = fields.flatMap((one) => [
    ...[one.belowMin, one.aboveMax, ...numbers.filter((value) => !within(one, value)), "1e999", "-1e999"].map(
      (value) => ({ one, value, param: new RegExp(one.name) }),
    ),
    ...["true", "[[]]", "{}", ...(one.required ? ["null"] : ['"1"'])].map((value) => ({
      one,
      value,
      param: new RegExp(one.name),
    })),
    ...["NaN", "Infinity", "0x10", "1.", "01"].map((value) => ({ one, value, param: /not valid JSON/ })),
  ]);
  await inParallel(accepted, async ({ one, value }) => {
    const answer = await post(path, one.body(value));
    expect(`${one.name} ${value}: ${answer.status} ${answer.error?.message ?? ""}`).toBe(
      `${one.name} ${value}: 200 `,
    );
  });
  await inParallel(refused, async ({ one, value, param }) => {
    const answer = await post(path, one.body(value));
    expect(`${one.name} ${value}: ${answer.status}`).toBe(`${one.name} ${value}: 400`);
    expectRefused(answer, param);
  });
}

describe("beside a stream whose bytes are known", () => {
  test("every number of /v1/completions is taken at its limits and refused by name beyond them", () =>
    canary.during(() => probe("/v1/completions", completionFields)));

  test("every number of /v1/chat/completions is taken at its limits and refused by name beyond them", () =>
    canary.during(async () => {
      const room = positions - (await chatPromptTokens());
      await probe("/v1/chat/completions", [
        ...sampling(chat),
        field(chat, "max_tokens", 1, room),
        field(chat, "max_completion_tokens", 1, room),
        field({ ...chat, logprobs: true }, "top_logprobs", 0, 20),
      ]);
    }));

  test("every number of /v1/embeddings is taken at its limits and refused by name beyond them", () =>
    canary.during(() => probe("/v1/embeddings", embeddingFields)));

  test("unknown models, parameters and routes are refused by name", () =>
    canary.during(async () => {
      for (const path of ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"]) {
        const base = {
          "/v1/completions": completion,
          "/v1/chat/completions": chat,
          "/v1/embeddings": { input: "a" },
        }[path]!;
        expectRefused(await post(path, { ...base, model: "gpt-5" }), /gpt-5|model/, 404);
        for (const model of [1, {}, [], "", "m".repeat(1e6)])
          expectRefused(await post(path, { ...base, model }), /model/);
        expectRefused(await post(path, { ...base, tempratur: 1 }), /tempratur/);
        for (const name of ["constructor", "toString", "hasOwnProperty"])
          expectRefused(await post(path, { ...base, [name]: 1 }), new RegExp(name));
      }
      expectRefused(await post("/v1/complete", {}), /v1\/complete/, 404);
      expect((await fetch(`${server.url}/v1/completions`)).status).toBe(405);
    }));

  test("a prompt longer than the context is refused with both numbers, whatever it comes as", () =>
    canary.during(async () => {
      const ids = Array<number>(positions + 1).fill(5);
      const numbers = new RegExp(`${positions}.*${positions + 1}`);
      expectRefused(await post("/v1/completions", { prompt: ids }), numbers);
      expectRefused(await post("/v1/completions", { prompt: [[5], ids] }), numbers);
      // A prompt that fills the context leaves no room for an answer, but can be scored.
      expectRefused(await post("/v1/completions", { prompt: ids.slice(1), max_tokens: 1 }), /1024/);
      expect(
        (await post("/v1/completions", { prompt: ids.slice(1), max_tokens: 0, echo: true, logprobs: 0 }))
          .status,
      ).toBe(200);
      expectRefused(await post("/v1/embeddings", { input: ids }), numbers);
      expect((await post("/v1/embeddings", { input: ids.slice(1) })).status).toBe(200);
      const long = "x ".repeat(600_000);
      expectRefused(await post("/v1/completions", { prompt: long }), /context is 1024 tokens/);
      expectRefused(await post("/v1/embeddings", { input: long }), /context is 1024 tokens/);
      expectRefused(
        await post("/v1/chat/completions", { messages: [{ role: "user", content: long }] }),
        /context is 1024 tokens/,
      );
      expectRefused(await post("/v1/completions", { prompt: "a", max_tokens: positions }), /max_tokens/);
    }));

  test("what is no JSON object, or too deep, or too large, or poisoned, never gets past the edge", () =>
    canary.during(async () => {
      const bodies: [string | Uint8Array, RegExp, number?][] = [
        ["", /empty/],
        ["{", /not valid JSON/],
        ["[]", /an array/],
        ['"text"', /a string/],
        ["7", /a number/],
        ["null", /null/],
        [new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]), /UTF-8/],
        [`{"prompt":${"[".repeat(65)}${"]".repeat(65)}}`, /64 levels/],
        [`{"prompt":${"[".repeat(2e6)}`, /64 levels/],
        [`{"a":`.repeat(1e5), /64 levels/],
        [`{${Array.from({ length: 100_001 }, (_, i) => `"k${i}":0`).join(",")}}`, /100000 object members/],
        ['{"__proto__":{"temperature":0},"prompt":"a"}', /__proto__/],
        ['{"\\u005f_proto__":{"stream":true},"prompt":"a"}', /__proto__/],
        ['{"prompt":"a","metadata":{"__proto__":"x"}}', /__proto__/],
        [
          '{"prompt":"a","response_format":{"type":"json_schema","json_schema":{"schema":{"properties":{"__proto__":{}}}}}}',
          /__proto__/,
        ],
        [JSON.stringify({ prompt: "a".repeat(9 << 20) }), /8388608 bytes/, 413],
      ];
      for (const [body, sentence, status] of bodies)
        expectRefused(await post("/v1/completions", body), sentence, status ?? 400);
      const chunked = new ReadableStream<Uint8Array>({
        start: (controller) => {
          for (let i = 0; i < 9; i++) controller.enqueue(new Uint8Array(1 << 20).fill(32));
          controller.close();
        },
      });
      expect((await post("/v1/completions", chunked, { duplex: "half" } as RequestInit)).status).toBe(413);
      expectRefused(
        await post("/v1/completions", Bun.gzipSync(JSON.stringify(completion)), {
          headers: { "content-encoding": "gzip" },
        }),
        /[Cc]ompressed/,
        415,
      );
    }));

  test("hostile schemas, patterns and template arguments are answered soon, and stall nobody", async () => {
    await canary.start();
    const format = (schema: object) => ({ type: "json_schema", json_schema: { name: "x", schema } });
    await inParallel(
      schemas,
      async (schema) => {
        const answer = await post("/v1/chat/completions", {
          ...chat,
          max_tokens: 8,
          response_format: format(schema),
        });
        expect([200, 400]).toContain(answer.status);
        if (answer.status === 400) expectRefused(answer, /schema|pattern|response_format/i);
      },
      4,
    );
    const tool = (parameters: object) => [{ type: "function", function: { name: "f", parameters } }];
    for (const schema of schemas.slice(0, 8)) {
      const answer = await post("/v1/chat/completions", {
        ...chat,
        tools: tool(schema),
        tool_choice: "required",
      });
      expect([200, 400]).toContain(answer.status);
    }
    const report = await canary.stop();
    // Compiling a schema may take its budget, not more.
    expect(report.longestGapMs).toBeLessThan(3000);
  });

  test("template arguments outside the list are refused, and large ones are harmless", () =>
    canary.during(async () => {
      const ask = (kwargs: object) => post("/v1/chat/completions", { ...chat, chat_template_kwargs: kwargs });
      for (const name of [
        "messages",
        "tools",
        "bos_token",
        "add_generation_prompt",
        "constructor",
        "range",
        "raise_exception",
        "strftime_now",
      ])
        expectRefused(await ask({ [name]: [] }), new RegExp(name));
      expectRefused(
        await post(
          "/v1/chat/completions",
          JSON.stringify(chat).replace("{", '{"chat_template_kwargs":{"__proto__":{}},'),
        ),
        /__proto__/,
      );
      expect(
        (await ask({ enable_thinking: { a: "x".repeat(1e6) }, documents: Array(50_000).fill("<s>") })).status,
      ).toBe(200);
      expectRefused(await ask([] as never), /chat_template_kwargs/);
      const roles = ["robot", "__proto__", "", 5];
      for (const role of roles)
        expectRefused(
          await post("/v1/chat/completions", { ...chat, messages: [{ role, content: "x" }] }),
          /role/,
        );
      expectRefused(await post("/v1/chat/completions", { ...chat, messages: [] }), /messages/);
      expectRefused(
        await post("/v1/chat/completions", { ...chat, messages: [{ role: "user", content: null }] }),
        /content/,
      );
    }));

  test("clients that leave in the middle of a stream, of a prompt or of their own body leave nothing behind", () =>
    canary.during(async () => {
      const long = {
        prompt: Array.from({ length: 900 }, (_, i) => (i * 31) % 509),
        max_tokens: 100,
        ignore_eos: true,
        stream: true,
      };
      await inParallel(
        Array.from({ length: 30 }, (_, i) => i),
        async (i) => {
          const leave = new AbortController();
          const body = JSON.stringify(
            i % 2 === 0
              ? { ...long, cache_salt: `${i}` }
              : { ...completion, max_tokens: 500, n: 3, stream: true, ignore_eos: true },
          );
          const left = fetch(`${server.url}/v1/completions`, {
            method: "POST",
            body,
            signal: leave.signal,
          }).then(async (answer) => {
            let chunks = 0;
            for await (const _ of answer.body as unknown as AsyncIterable<Uint8Array>)
              if (++chunks === 3) leave.abort();
          });
          // Even ones leave while their prompt is read, odd ones after three chunks.
          if (i % 2 === 0) setTimeout(() => leave.abort(), i);
          expect(
            await left.then(
              () => "finished",
              (error: Error) => error.name,
            ),
          ).toBe("AbortError");
        },
      );
      for (let i = 0; i < 5; i++)
        await sendRaw(
          `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"prompt":`,
        );
      await settled(1);
    }));

  test("a reader that stops reading is dropped when it is too far behind, and its sequences with it", () =>
    canary.during(async () => {
      const before = await metric("koala_generation_tokens_total");
      const body = JSON.stringify({
        prompt: [5],
        n: 48,
        max_tokens: 1000,
        ignore_eos: true,
        logprobs: 20,
        stream: true,
      });
      const socket = connect(Number(new URL(server.url).port), "127.0.0.1");
      socket.on("error", () => {});
      socket.pause();
      socket.write(
        `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      );
      for (let i = 0; (await metric("koala_num_requests_running")) < 20; i++) {
        if (i > 200) throw new Error("the slow reader's request never ran");
        await Bun.sleep(10);
      }
      await settled(1);
      // Whole, the answer is over 60 MB, far more than the socket and the server's buffer hold.
      expect((await metric("koala_generation_tokens_total")) - before).toBeLessThan(48 * 1000);
      socket.destroy();
    }));

  test("afterwards nothing runs, every page is free, the engine was never started again and nothing was logged as our mistake", async () => {
    await settled(0);
    expect(await metric("koala_kv_cache_usage_perc")).toBe(0);
    expect(server.stderr()).not.toMatch(/"level":"error"|started again/);
    expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
  });
});

/** Writes bytes and hangs up. */
function sendRaw(text: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(Number(new URL(server.url).port), "127.0.0.1", () =>
      socket.write(text, () => socket.destroy()),
    );
    socket.on("error", () => {});
    socket.on("close", () => resolve());
  });
}
