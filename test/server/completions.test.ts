/** /v1/completions against the bigram model's own formula. */

import { describe, expect, test } from "bun:test";
import { BOS, bigramLogprobs, EOS, VOCABULARY } from "../support/fake_engine.ts";
import { readEvents, testServer } from "../support/test_server.ts";

const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];
const best = (previous: number): number => {
  const row = bigramLogprobs(previous);
  return row.indexOf(Math.max(...row));
};
/** What greedy decoding must give. */
function greedy(last: number, count: number): number[] {
  const ids: number[] = [];
  for (let i = 0; i < count; i++) ids.push(best(ids.at(-1) ?? last));
  return ids;
}
const json = async (response: Response): Promise<any> => response.json();
/** Says a fixed text. */
const says = (text: string) => ({ engine: { script: () => text } });

describe("prompts", () => {
  test("a text gets BOS once, token ids nothing, and batches answer like single requests", async () => {
    const { engine, post } = testServer();
    const single = await json(
      await post("/v1/completions", { prompt: "Hi", max_tokens: 3, temperature: 0, return_token_ids: true }),
    );
    expect(single.choices[0].prompt_token_ids).toEqual([BOS, ...bytes("Hi")]);
    expect(single.choices[0].token_ids).toEqual(greedy(bytes("i")[0]!, 3));
    const batch = await json(
      await post("/v1/completions", {
        prompt: [[1, 2], bytes("Hi")],
        max_tokens: 3,
        temperature: 0,
        return_token_ids: true,
      }),
    );
    expect(batch.choices.map((choice: any) => choice.index)).toEqual([0, 1]);
    expect(batch.choices[0].token_ids).toEqual(greedy(2, 3));
    expect(batch.choices[1].token_ids).toEqual(single.choices[0].token_ids);
    expect(engine.requests.map((request) => request.prompt)).toEqual([
      [BOS, ...bytes("Hi")],
      [1, 2],
      bytes("Hi"),
    ]);
  });

  test("add_special_tokens: false leaves BOS out, and then an empty text has nothing to continue", async () => {
    const { engine, post } = testServer();
    await post("/v1/completions", { prompt: ["Hi", "you"], max_tokens: 1, add_special_tokens: false });
    expect(engine.requests.map((request) => request.prompt)).toEqual([bytes("Hi"), bytes("you")]);
    const empty = await post("/v1/completions", { prompt: "", max_tokens: 1, add_special_tokens: false });
    expect([empty.status, (await json(empty)).error.param]).toEqual([400, "prompt"]);
  });

  test("ids beyond the vocabulary, empty lists and mixed lists are refused with the place", async () => {
    const { post } = testServer();
    for (const [prompt, param] of [
      [[VOCABULARY], "prompt"],
      [[[1], [VOCABULARY]], "prompt"],
      [[], "prompt"],
      [[[]], "prompt[0]"],
      [[1, "a"], "prompt[1]"],
      [[1, -1], "prompt[1]"],
      [{}, "prompt"],
    ]) {
      const response = await post("/v1/completions", { prompt, max_tokens: 1 });
      expect([response.status, (await json(response)).error.param]).toEqual([400, param]);
    }
  });

  test("a prompt longer than the context is a 400 with both numbers", async () => {
    const { post, engine } = testServer({ engine: { maxModelLen: 32 } });
    const long = await post("/v1/completions", { prompt: Array(33).fill(5) });
    const { error } = await json(long);
    expect([long.status, error.code, error.param]).toEqual([400, "context_length_exceeded", "prompt"]);
    expect(error.message).toMatch(/32 tokens.*33/);
    const more = await json(await post("/v1/completions", { prompt: Array(30).fill(5), max_tokens: 3 }));
    expect([more.error.param, more.error.code]).toEqual(["max_tokens", "context_length_exceeded"]);
    expect(engine.requests).toEqual([]);
    const full = await json(
      await post("/v1/completions", { prompt: Array(32).fill(5), max_tokens: 0, echo: true }),
    );
    expect(full.usage.total_tokens).toBe(32);
  });
});

describe("scoring", () => {
  test("echo with max_tokens 0 scores every prompt token but the first", async () => {
    const { post } = testServer();
    const prompt = [10, 20, 30, 200];
    const { choices, usage } = await json(
      await post("/v1/completions", { prompt, max_tokens: 0, echo: true, logprobs: 1 }),
    );
    const { logprobs } = choices[0];
    expect(logprobs.token_logprobs).toEqual([
      null,
      ...prompt.slice(1).map((id, i) => bigramLogprobs(prompt[i]!)[id]),
    ]);
    expect(logprobs.top_logprobs[0]).toBeNull();
    prompt
      .slice(1)
      .forEach((_, i) =>
        expect(Math.max(...(Object.values(logprobs.top_logprobs[i + 1]) as number[]))).toBe(
          Math.max(...bigramLogprobs(prompt[i]!)),
        ),
      );
    expect([choices[0].finish_reason, usage.completion_tokens]).toEqual(["length", 0]);
  });

  test("a generated end-of-sequence token is among the scored ones, with no text", async () => {
    const { post } = testServer(says("é!"));
    const { choices, usage } = await json(
      await post("/v1/completions", {
        prompt: "ab",
        max_tokens: 9,
        echo: true,
        logprobs: 0,
        return_token_ids: true,
      }),
    );
    const [{ text, logprobs, finish_reason: reason, stop_reason: stop, token_ids: ids }] = choices;
    expect([text, reason, stop]).toEqual(["abé!", "stop", null]);
    expect(logprobs.tokens).toEqual(["<s>", "a", "b", "bytes:\\xc3", "bytes:\\xa9", "!", "</s>"]);
    expect(logprobs.text_offset).toEqual([0, 0, 1, 2, 2, 3, 4]);
    expect(ids).toEqual([...bytes("é!"), EOS]);
    expect(logprobs.token_logprobs.at(-1)).toBe(bigramLogprobs(bytes("!")[0]!)[EOS]!);
    expect(usage.completion_tokens).toBe(4);
  });

  test("offsets count code points: what follows an emoji is one further", async () => {
    const { post } = testServer(says("😀x"));
    const { choices } = await json(
      await post("/v1/completions", { prompt: "a", max_tokens: 9, logprobs: 1 }),
    );
    expect(choices[0].logprobs.text_offset).toEqual([0, 0, 0, 0, 1, 2]);
  });

  test("prompt_logprobs has vLLM's shape: by id, with rank, the prompt's own token always there", async () => {
    const { post } = testServer();
    const { choices } = await json(
      await post("/v1/completions", { prompt: [65, 66], max_tokens: 1, prompt_logprobs: 1 }),
    );
    const [first, second] = choices[0].prompt_logprobs;
    const row = bigramLogprobs(65);
    const rank = [...row].filter((value) => value > row[66]!).length + 1;
    expect(first).toBeNull();
    expect(second["66"]).toEqual({ logprob: row[66], rank, decoded_token: "B" });
    expect(second[String(best(65))]).toMatchObject({ logprob: Math.max(...row), rank: 1 });
  });
});

describe("choices", () => {
  test("n answers differ, repeat for the same seed, and begin with the answer of n = 1", async () => {
    const { post, engine } = testServer();
    const ask = async (n: number) =>
      (
        await json(
          await post("/v1/completions", { prompt: "x", max_tokens: 6, n, seed: 5, return_token_ids: true }),
        )
      ).choices.map((choice: any) => choice.token_ids);
    const three = await ask(3);
    expect(await ask(3)).toEqual(three);
    expect(await ask(1)).toEqual([three[0]]);
    expect(new Set(three.map(String)).size).toBe(3);
    const groups = engine.requests.slice(0, 3).map((request) => request.group);
    expect(new Set(groups).size).toBe(1);
    expect(groups[0]).toBeString();
    expect(engine.requests.at(-1)!.group).toBeNull();
  });

  test("best_of answers with the candidates of highest mean logprob, and counts all of their tokens", async () => {
    const { post } = testServer();
    const request = { prompt: "x", max_tokens: 5, seed: 11, logprobs: 0 };
    const all = (await json(await post("/v1/completions", { ...request, n: 6 }))).choices.map(
      (choice: any) => choice.logprobs.token_logprobs as number[],
    );
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const wanted = all.sort((a: number[], b: number[]) => mean(b) - mean(a)).slice(0, 2);
    const answer = await json(await post("/v1/completions", { ...request, n: 2, best_of: 6 }));
    expect(answer.choices.map((choice: any) => choice.logprobs.token_logprobs)).toEqual(wanted);
    expect(answer.choices.map((choice: any) => choice.index)).toEqual([0, 1]);
    expect(answer.usage.completion_tokens).toBe(30);
    expect((await post("/v1/completions", { ...request, n: 2, best_of: 1 })).status).toBe(400);
    expect((await post("/v1/completions", { ...request, best_of: 2, stream: true })).status).toBe(400);
  });

  test("a batch that fails in part ends as a whole, at once", async () => {
    const { post, engine } = testServer({
      engine: { queueLimit: 2, stepMs: 1, script: () => "a".repeat(1000) },
    });
    const response = await post("/v1/completions", { prompt: ["a", "b", "c", "d"], max_tokens: 1000 });
    expect(response.status).toBe(429);
    expect(engine.stats).toMatchObject({ running: 0 });
    expect(engine.stats.generatedTokens).toBeLessThan(100);
  });

  test("cached tokens are those of before the request: answers that share a prompt do not count", async () => {
    const { post } = testServer({ engine: { script: () => "a" } });
    const { usage } = await json(await post("/v1/completions", { prompt: Array(40).fill(65), n: 3 }));
    expect(usage).toMatchObject({ prompt_tokens: 40, prompt_tokens_details: { cached_tokens: 32 } });
  });

  test("a seed of 64 bits is taken exactly: its neighbour gives another answer", async () => {
    const { post, engine } = testServer();
    const ask = (seed: string) => post("/v1/completions", `{"prompt":"x","max_tokens":1,"seed":${seed}}`);
    for (const seed of [
      "9223372036854775807",
      "9223372036854775806",
      "-9223372036854775808",
      "18446744073709551615",
      "4294967295",
    ])
      expect((await ask(seed)).status).toBe(200);
    const seeds = engine.requests.map((request) => request.params.seed);
    expect(new Set(seeds).size).toBe(5);
    expect(seeds.every((seed) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)).toBe(true);
    expect(seeds.at(-1)).toBe(4294967295);
    expect((await ask("18446744073709551616")).status).toBe(400);
    expect((await ask("1.5")).status).toBe(400);
  });
});

describe("ends", () => {
  test("a stop text ends the answer wherever the tokens break, and aborts the engine", async () => {
    const { post, engine } = testServer(says("one two STOP three"));
    const { choices, usage } = await json(
      await post("/v1/completions", { prompt: "x", max_tokens: 60, stop: ["STOP", "never"] }),
    );
    expect(choices[0]).toMatchObject({ text: "one two ", finish_reason: "stop", stop_reason: "STOP" });
    expect(usage.completion_tokens).toBe("one two STOP".length);
    expect(engine.aborted.length).toBe(1);
    const kept = await json(
      await post("/v1/completions", {
        prompt: "x",
        max_tokens: 60,
        stop: "STOP",
        include_stop_str_in_output: true,
      }),
    );
    expect(kept.choices[0].text).toBe("one two STOP");
  });

  test("logprobs end with the text that a stop text left", async () => {
    const { post } = testServer(says("ab<>cd"));
    const { choices } = await json(
      await post("/v1/completions", { prompt: "x", max_tokens: 60, stop: "<>", logprobs: 0 }),
    );
    expect(choices[0].logprobs.tokens).toEqual(["a", "b"]);
  });

  test("min_tokens: no stop text and no stop id before it", async () => {
    const { post, engine } = testServer(says("a.b.c.d"));
    const { choices } = await json(
      await post("/v1/completions", { prompt: "x", max_tokens: 60, stop: ".", min_tokens: 3 }),
    );
    expect(choices[0].text).toBe("a.b");
    expect(engine.requests[0]!.params.minTokens).toBe(3);
    expect((await post("/v1/completions", { prompt: "x", max_tokens: 2, min_tokens: 3 })).status).toBe(400);
  });

  test("stop ids, ignore_eos and max_tokens reach the engine; a stop id is named and has no text", async () => {
    const { post, engine } = testServer(says("abc"));
    const { choices } = await json(
      await post("/v1/completions", { prompt: "x", max_tokens: 60, stop_token_ids: bytes("b") }),
    );
    expect(choices[0]).toMatchObject({ text: "a", finish_reason: "stop", stop_reason: 98 });
    await post("/v1/completions", { prompt: "x", max_tokens: 2, ignore_eos: true });
    expect(engine.requests.map((request) => request.params.stopTokenIds)).toEqual([[98, EOS], []]);
    const long = await json(await post("/v1/completions", { prompt: "x", max_tokens: 2 }));
    expect(long.choices[0]).toMatchObject({ text: "ab", finish_reason: "length", stop_reason: null });
  });

  test("special tokens show only with skip_special_tokens: false", async () => {
    const { post } = testServer();
    const request = { prompt: "x", max_tokens: 1, temperature: 0, logit_bias: { [BOS]: 100 } };
    expect((await json(await post("/v1/completions", request))).choices[0].text).toBe("");
    expect(
      (await json(await post("/v1/completions", { ...request, skip_special_tokens: false }))).choices[0].text,
    ).toBe("<s>");
  });
});

describe("defaults", () => {
  test("generation_config.json decides unless the request does; max_tokens is 16", async () => {
    const { post, engine } = testServer({
      model: { generationDefaults: { temperature: 0.6, topK: 7, topP: 0.9, repetitionPenalty: 1.1 } },
    });
    await post("/v1/completions", { prompt: "x" });
    await post("/v1/completions", {
      prompt: "x",
      temperature: 0,
      top_k: -1,
      top_p: 0,
      repetition_penalty: 1,
    });
    const [first, second] = engine.requests.map((request) => request.params);
    expect(first).toMatchObject({
      temperature: 0.6,
      topK: 7,
      topP: 0.9,
      repetitionPenalty: 1.1,
      maxTokens: 16,
    });
    expect(second).toMatchObject({ temperature: 0, topK: 1, topP: 1, repetitionPenalty: 1 });
  });

  test("null is not set, as OpenAI's clients send it", async () => {
    const { post } = testServer();
    const nulls = Object.fromEntries(
      [
        "temperature",
        "top_p",
        "n",
        "logprobs",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "logit_bias",
        "suffix",
        "user",
        "best_of",
        "max_tokens",
        "echo",
      ].map((name) => [name, null]),
    );
    expect((await post("/v1/completions", { prompt: "x", ...nulls })).status).toBe(200);
  });
});

describe("streams", () => {
  const join = (events: any[], index = 0): string =>
    events
      .flatMap((event) => event.choices)
      .filter((choice: any) => choice.index === index)
      .map((choice: any) => choice.text)
      .join("");

  test("joined, they are the whole answer: echo, text, logprobs and usage", async () => {
    const { post } = testServer(says("naïve 😀 end"));
    const request = { prompt: "ü", max_tokens: 60, echo: true, logprobs: 2, stop: " end", n: 2 };
    const whole = await json(await post("/v1/completions", request));
    const { events, done } = await readEvents(
      await post("/v1/completions", { ...request, stream: true, stream_options: { include_usage: true } }),
    );
    expect(done).toBe(true);
    for (const index of [0, 1]) {
      expect(join(events, index)).toBe("ünaïve 😀");
      const scored = events
        .flatMap((event) => event.choices)
        .filter((choice: any) => choice.index === index && choice.logprobs);
      for (const list of ["tokens", "token_logprobs", "top_logprobs", "text_offset"])
        expect(scored.flatMap((choice: any) => choice.logprobs[list])).toEqual(
          whole.choices[index].logprobs[list],
        );
    }
    expect(events.at(-1)).toMatchObject({ choices: [], usage: whole.usage });
    expect(events.slice(0, -1).every((event) => event.usage === null)).toBe(true);
    expect(new Set(events.map((event) => event.id)).size).toBe(1);
  });

  test("token ids come with every chunk, the prompt's with the first", async () => {
    const { post } = testServer(says("hé"));
    const { events } = await readEvents(
      await post("/v1/completions", { prompt: "a", max_tokens: 9, stream: true, return_token_ids: true }),
    );
    expect(events[0].choices[0].prompt_token_ids).toEqual([BOS, 97]);
    expect(events.flatMap((event) => event.choices[0].token_ids)).toEqual([...bytes("hé"), EOS]);
  });

  test("continuous usage counts up", async () => {
    const { post } = testServer(says("abc"));
    const { events } = await readEvents(
      await post("/v1/completions", {
        prompt: "a",
        max_tokens: 9,
        stream: true,
        stream_options: { continuous_usage_stats: true },
      }),
    );
    expect(events.map((event) => event.usage.completion_tokens)).toEqual([1, 2, 3, 4]);
  });
});
