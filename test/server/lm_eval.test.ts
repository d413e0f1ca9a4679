/** What lm-evaluation-harness 0.4.13 sends, and how it reads the answers (models/openai_completions.py, parse_logprobs). */

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BOS, bigramLogprobs, EOS } from "../support/fake_engine.ts";
import { sharedDirectory, withoutShared } from "../support/paths.ts";
import { testServer } from "../support/test_server.ts";

const recording = join(sharedDirectory, "prototype", "lm_eval", "t_remote.jsonl");
const json = async (response: Response): Promise<any> => response.json();
const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];
const scoring = { model: "tiny", temperature: 0, max_tokens: 1, logprobs: 1, seed: 1234, echo: true };

/** The harness's own reading: the sum over the continuation without the generated token, and whether it is greedy. */
function parseLogprobs(choice: any, contextLength: number): [number, boolean] {
  const { token_logprobs: scores, top_logprobs: tops } = choice.logprobs;
  const sum = scores.slice(contextLength, -1).reduce((a: number, b: number) => a + b, 0);
  const greedy = scores
    .slice(contextLength, -1)
    .every(
      (score: number, i: number) =>
        score === Math.max(...(Object.values(tops[contextLength + i]) as number[])),
    );
  return [sum, greedy];
}

/** By the formula. */
function loglikelihood(ids: number[], contextLength: number): [number, boolean] {
  const scores = ids.slice(contextLength).map((id, i) => bigramLogprobs(ids[contextLength + i - 1]!)[id]!);
  const best = ids
    .slice(contextLength)
    .map((_, i) => Math.max(...bigramLogprobs(ids[contextLength + i - 1]!)));
  return [scores.reduce((a, b) => a + b, 0), scores.every((score, i) => score === best[i])];
}

describe("loglikelihood requests", () => {
  test("a batch of ids gives the model's own sums, prompt + 1 entries each, in order", async () => {
    const { post } = testServer();
    const rows = [bytes("Q: 2+2=\nA: 4"), bytes("Q: 2+2=\nA: 22"), [BOS, ...bytes("hello")]];
    const { choices } = await json(
      await post("/v1/completions", { ...scoring, prompt: rows }, { headers: { authorization: "Bearer " } }),
    );
    rows.forEach((row, i) => {
      const { index, logprobs } = choices[i];
      expect([index, logprobs.token_logprobs.length, logprobs.top_logprobs.length]).toEqual([
        i,
        row.length + 1,
        row.length + 1,
      ]);
      expect(logprobs.token_logprobs.slice(1).every(Number.isFinite)).toBe(true);
      expect(parseLogprobs(choices[i], 3)).toEqual(loglikelihood(row, 3));
    });
  });

  test("a greedy continuation is seen as greedy, bit for bit", async () => {
    const { post } = testServer();
    const ids = bytes("ab");
    for (let i = 0; i < 6; i++) {
      const row = bigramLogprobs(ids.at(-1)!);
      ids.push(row.indexOf(Math.max(...row)));
    }
    const { choices } = await json(await post("/v1/completions", { ...scoring, prompt: [ids] }));
    expect(parseLogprobs(choices[0], 2)[1]).toBe(true);
    expect(parseLogprobs(choices[0], 1)).toEqual(loglikelihood(ids, 1));
  });

  test("an end-of-sequence token that is generated does not swallow the continuation's last score", async () => {
    const { post } = testServer({ engine: { script: () => "" } });
    const ids = bytes("abcd");
    const { choices } = await json(await post("/v1/completions", { ...scoring, prompt: [ids] }));
    expect(choices[0].logprobs.tokens.at(-1)).toBe("</s>");
    expect(parseLogprobs(choices[0], 2)).toEqual(loglikelihood(ids, 2));
  });
});

describe("with --score-bos", () => {
  test("ids are scored behind BOS, and the answer has exactly the client's tokens", async () => {
    const { post, engine } = testServer({ scoreBos: true });
    const ids = bytes("abcd");
    const { choices, usage } = await json(
      await post("/v1/completions", { ...scoring, prompt: [ids, [BOS, ...ids]], return_token_ids: true }),
    );
    expect(engine.requests.map(({ prompt }) => prompt)).toEqual([
      [BOS, ...ids],
      [BOS, ...ids],
    ]);
    const [without, withBos] = choices;
    expect(without.logprobs.token_logprobs.length).toBe(ids.length + 1);
    expect(without.logprobs.token_logprobs[0]).toBe(bigramLogprobs(BOS)[ids[0]!]!);
    expect(without.prompt_token_ids).toEqual(ids);
    expect(without.text).toStartWith("abcd");
    expect(parseLogprobs(without, 2)).toEqual(loglikelihood(ids, 2));
    expect(withBos.logprobs.token_logprobs.length).toBe(ids.length + 2);
    expect(withBos.logprobs.token_logprobs[0]).toBeNull();
    expect(usage.prompt_tokens).toBe(2 * ids.length + 1);
  });

  test("texts keep what add_special_tokens says", async () => {
    const { post, engine } = testServer({ scoreBos: true });
    await post("/v1/completions", { prompt: "x", max_tokens: 1 });
    await post("/v1/completions", { prompt: "x", max_tokens: 1, add_special_tokens: false });
    expect(engine.requests.map(({ prompt }) => prompt)).toEqual([[BOS, 120], [120]]);
  });
});

describe("the remote tokenizer", () => {
  test("finds its special tokens, and texts survive the way there and back", async () => {
    const { get, post } = testServer();
    expect(await json(await get("/tokenizer_info"))).toMatchObject({
      eos_token: "</s>",
      bos_token: "<s>",
      chat_template: expect.any(String),
    });
    const { tokens } = await json(await post("/tokenize", { prompt: "Größe 😀", add_special_tokens: false }));
    expect(tokens).toEqual(bytes("Größe 😀"));
    expect(await json(await post("/detokenize", { tokens }))).toEqual({ prompt: "Größe 😀" });
    expect(
      (await json(await post("/tokenize", { prompt: "</s>", add_special_tokens: false }))).tokens,
    ).toEqual([EOS]);
    expect((await json(await post("/tokenize", { prompt: "x" }))).tokens).toEqual([BOS, 120]);
  });

  test("a dialogue is tokenised as chat would run it", async () => {
    const { post, engine } = testServer();
    const messages = [{ role: "user", content: "Hi" }];
    const answer = await json(await post("/tokenize", { messages, return_token_strs: true }));
    await post("/v1/chat/completions", { messages, max_tokens: 1 });
    expect(answer.tokens).toEqual(engine.requests[0]!.prompt);
    expect([answer.count, answer.token_strs.length, answer.max_model_len]).toEqual([
      answer.tokens.length,
      answer.tokens.length,
      2048,
    ]);
    expect((await post("/tokenize", { messages, prompt: "x" })).status).toBe(400);
    expect((await post("/tokenize", {})).status).toBe(400);
  });

  test("does not wait for the engine", async () => {
    const { post, engine } = testServer();
    engine.state = "loading";
    expect((await post("/tokenize", { prompt: "x" })).status).toBe(200);
  });
});

describe.skipIf(!existsSync(recording))(`its recorded traffic (${withoutShared})`, () => {
  test("every request is answered as the harness needs it", async () => {
    const { app } = testServer({ model: { aliases: ["koala"] } });
    const lines = readFileSync(recording, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { m: string; p: string; body: any });
    expect(lines.length).toBe(99);
    for (const { m, p, body } of lines) {
      const response = await app.request(p, {
        method: m,
        headers: { authorization: "Bearer " },
        ...(body === null ? {} : { body: JSON.stringify(body) }),
      });
      const answer = await json(response);
      expect([p, body, response.status, answer.error]).toEqual([p, body, 200, undefined]);
      if (p === "/tokenize") expect(answer.tokens.length).toBeGreaterThan(0);
      if (p === "/detokenize") expect(answer.prompt).toBeString();
      if (p !== "/v1/completions" || !body.echo || typeof body.prompt === "string") continue;
      answer.choices.forEach((choice: any, i: number) =>
        expect(parseLogprobs(choice, 1)).toEqual(loglikelihood(body.prompt[i], 1)),
      );
    }
  });
});
