/** Every numeric field at its limits and beyond them: what is too much is a 400 that names the field, and harms nobody. */

import { describe, expect, test } from "bun:test";
import { testServer } from "../support/test_server.ts";

interface Field {
  name: string;
  /** Literal JSON, as large numbers would be rounded on the way. */
  good: string[];
  bad: string[];
}

const INT32 = 2 ** 31 - 1;
const never = ["NaN", "Infinity", "1e999", '"1"', "[]", "{}", "true"];
/** `high: null`: another limit is met first. */
const integer = (name: string, low: number, high: number): Field => ({
  name,
  good: [`${low}`, `${high}`],
  bad: [
    `${low - 1}`,
    `${high + 1}`,
    "0.5",
    "9007199254740993",
    "1e300",
    ...(low > -1 ? ["-1"] : []),
    ...never,
  ],
});
const float = (name: string, low: number, high: number): Field => ({
  name,
  good: [`${low}`, `${high}`],
  bad: [`${low - 0.001}`, `${high + 0.001}`, `${2 ** 31}`, "1e300", ...never],
});

const shared: Field[] = [
  float("temperature", 0, 2),
  float("top_p", 0, 1),
  integer("top_k", -1, INT32),
  float("min_p", 0, 1),
  { ...float("repetition_penalty", 0.01, 10), bad: ["0", "-1", "10.001", "2147483648", ...never] },
  float("frequency_penalty", -2, 2),
  float("presence_penalty", -2, 2),
  integer("n", 1, 128),
  integer("prompt_logprobs", 0, 20),
  integer("priority", -1_000_000, 1_000_000),
  {
    name: "seed",
    good: ["0", "-1", "2147483648", "-9223372036854775808", "18446744073709551615"],
    bad: ["-9223372036854775809", "18446744073709551616", "0.5", ...never],
  },
  { name: "min_tokens", good: ["0", "1"], bad: ["2", "-1", "2147483648", "0.5", ...never] },
  {
    name: "stop_token_ids",
    good: ["[0]", "[259]", `[${Array(128).fill(1)}]`],
    bad: ["[260]", "[-1]", "[2147483648]", "[0.5]", `[${Array(129).fill(1)}]`, "3"],
  },
  {
    name: "logit_bias",
    good: ['{"0":-100}', '{"259":100}'],
    bad: [
      '{"260":1}',
      '{"-1":1}',
      '{"x":1}',
      '{"1":101}',
      '{"1":-100.5}',
      '{"1":1e999}',
      '{"2147483648":1}',
      "[1]",
    ],
  },
  {
    name: "stop",
    good: ['"x"', "[]", `[${Array(16).fill('"x"')}]`, `"${"x".repeat(1024)}"`],
    bad: ['""', "[1]", `[${Array(17).fill('"x"')}]`, `"${"x".repeat(1025)}"`],
  },
  { name: "cache_salt", good: [`"${"x".repeat(256)}"`], bad: [`"${"x".repeat(257)}"`, "1"] },
];
const completions: Field[] = [
  ...shared,
  integer("logprobs", 0, 20),
  integer("best_of", 1, 128),
  {
    name: "max_tokens",
    good: ["0", "2046", "null"],
    bad: ["2047", "-1", "2147483647", "2147483648", "0.5", ...never],
  },
];
const chat: Field[] = [
  ...shared.filter((field) => field.name !== "min_tokens"),
  integer("top_logprobs", 0, 20),
  { name: "max_completion_tokens", good: ["1", "2000"], bad: ["0", "2048", "-1", "2147483648", ...never] },
];

const fast = { engine: { script: () => "" } };

async function status(
  path: string,
  base: string,
  field: string,
  value: string,
): Promise<{ status: number; param: string | null; code: string | null }> {
  const server = testServer(fast);
  const response = await server.post(path, `{${base},"${field}":${value}}`);
  const { error = {} } = (await response.json()) as { error?: { param?: string; code?: string } };
  expect(server.log).toEqual([]);
  return { status: response.status, param: error.param ?? null, code: error.code ?? null };
}

for (const [path, base, fields] of [
  ["/v1/completions", '"prompt":"x"', completions],
  ["/v1/chat/completions", '"messages":[{"role":"user","content":"x"}],"logprobs":true', chat],
] as const)
  describe(path, () => {
    for (const field of fields)
      test(`${field.name} at its limits and beyond`, async () => {
        const extra = field.name === "min_tokens" ? ',"max_tokens":1' : "";
        for (const value of field.good)
          expect([value, (await status(path, base + extra, field.name, value)).status]).toEqual([value, 200]);
        for (const value of field.bad) {
          const answer = await status(path, base + extra, field.name, value);
          expect([value.slice(0, 40), answer.status]).toEqual([value.slice(0, 40), 400]);
          const named = answer.code === "invalid_json" || answer.param!.startsWith(field.name);
          expect([value.slice(0, 40), answer.param, named]).toEqual([value.slice(0, 40), answer.param, true]);
        }
      });
  });

describe("batches", () => {
  test("prompts times answers are bounded together", async () => {
    const { post, engine } = testServer({ ...fast, limits: { sequencesMax: 256 } });
    const ask = async (prompts: number, extra: object) =>
      (await post("/v1/completions", { prompt: Array(prompts).fill([1]), max_tokens: 1, ...extra })).status;
    expect([
      await ask(2, { n: 128 }),
      await ask(3, { n: 128 }),
      await ask(1, { n: 1, best_of: 128 }),
      await ask(256, {}),
      await ask(257, {}),
    ]).toEqual([200, 400, 200, 200, 400]);
    expect(engine.stats.running).toBe(0);
  });

  test("only so many of a batch are in the engine at once", async () => {
    const { post, engine } = testServer({ engine: { queueLimit: 4 }, limits: { sequencesAtOnce: 4 } });
    expect((await post("/v1/completions", { prompt: Array(20).fill([1, 2]), max_tokens: 2 })).status).toBe(
      200,
    );
    expect(engine.requests.length).toBe(20);
  });
});

describe("other routes", () => {
  test("token ids, dimensions and lengths are bounded there too", async () => {
    const { post } = testServer({ engine: { ...fast.engine, maxModelLen: 64 } });
    const wrong: [string, object, string][] = [
      ["/detokenize", { tokens: [260] }, "tokens"],
      ["/detokenize", { tokens: [-1] }, "tokens[0]"],
      ["/detokenize", { tokens: [2 ** 31] }, "tokens[0]"],
      ["/v1/embeddings", { input: [260] }, "input"],
      ["/v1/embeddings", { input: Array(65).fill(1) }, "input"],
      ["/v1/embeddings", { input: "x", dimensions: 9 }, "dimensions"],
      ["/v1/embeddings", { input: "x", dimensions: 0 }, "dimensions"],
      ["/v1/embeddings", { input: "" }, "input"],
      ["/v1/embeddings", { input: [] }, "input"],
      ["/generate", { prefix_text: ["x"], max_length: 64 }, "max_length"],
      ["/generate", { prefix_text: ["x"], max_length: 0 }, "max_length"],
      ["/generate", { prefix_text: ["x"], temperature: 2.1 }, "temperature"],
      ["/greedy-until", { prefix_text: ["x"], until: ["a"], max_length: 2 ** 31 }, "max_length"],
      ["/loglikelihood", { text: ["x".repeat(64)] }, "prompt"],
    ];
    for (const [path, body, param] of wrong) {
      const response = await post(path, body);
      expect([path, response.status, ((await response.json()) as any).error.param]).toEqual([
        path,
        400,
        param,
      ]);
    }
  });
});
