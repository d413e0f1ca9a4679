/** Requests through the whole engine without a process: how they start, what they yield, how they end. */
import { describe, expect, test } from "bun:test";
import { CoreDriver } from "../support/engine_core.ts";
import { expectedTokens, fakeHidden, fakeLogits, greedy } from "../support/fake_runner.ts";

const prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3];

describe("a request", () => {
  test("yields one prompt event, its tokens and one finish", () => {
    const driver = new CoreDriver();
    driver.submit("a", prompt, { maxTokens: 5 });
    driver.drain();
    expect(driver.of("a").events.map((event) => event.type)).toEqual([
      "prompt",
      ...Array(5).fill("token"),
      "finish",
    ]);
    expect(driver.of("a").tokens).toEqual(expectedTokens(prompt, { ...greedy, maxTokens: 5 }));
    expect(driver.of("a").finish).toEqual({
      type: "finish",
      reason: "length",
      stopTokenId: null,
      error: null,
    });
    expect(driver.core.stats).toMatchObject({
      running: 0,
      waiting: 0,
      pagesUsed: 0,
      promptTokens: 10,
      generatedTokens: 5,
    });
  });

  test("ends at a stop id, which is reported as a token", () => {
    const whole = expectedTokens(prompt, { ...greedy, maxTokens: 8 });
    const driver = new CoreDriver();
    driver.submit("a", prompt, { maxTokens: 8, stopTokenIds: [whole[3]!] });
    driver.drain();
    expect(driver.of("a").tokens).toEqual(whole.slice(0, whole.indexOf(whole[3]!) + 1));
    expect(driver.of("a").finish).toMatchObject({ reason: "stop", stopTokenId: whole[3] });
  });

  test("a prompt that was cached says how many tokens it took over and answers the same", () => {
    const driver = new CoreDriver({ pageSize: 4 });
    for (const id of ["cold", "warm"]) {
      driver.submit(id, prompt);
      driver.drain();
    }
    expect(driver.of("cold").prompt?.cachedTokens).toBe(0);
    expect(driver.of("warm").prompt?.cachedTokens).toBe(8);
    expect(driver.of("warm").tokens).toEqual(driver.of("cold").tokens);
    expect(driver.core.stats).toMatchObject({ prefixQueriesTokens: 20, prefixHitTokens: 8 });
  });

  test("the whole conversation so far is a prefix of the next turn", () => {
    const driver = new CoreDriver({ pageSize: 4 });
    driver.submit("first", prompt, { maxTokens: 7 });
    driver.drain();
    driver.submit("second", [...prompt, ...driver.of("first").tokens, 8, 8, 8]);
    driver.drain();
    expect(driver.of("second").prompt?.cachedTokens).toBe(16);
  });

  test("a full hit of whole pages computes the last page again", () => {
    const driver = new CoreDriver({ pageSize: 4 });
    const tokens = prompt.slice(0, 8);
    for (const id of ["cold", "warm"]) {
      driver.submit(id, tokens);
      driver.drain();
    }
    expect(driver.of("warm").prompt?.cachedTokens).toBe(4);
    expect(driver.of("warm").tokens).toEqual(driver.of("cold").tokens);
  });

  test("logprobs of the answer are those of the raw logits", () => {
    const driver = new CoreDriver();
    driver.submit("a", prompt, { maxTokens: 3, logprobs: 2, temperature: 0.7, repetitionPenalty: 1.5 });
    driver.drain();
    const seen = prompt.slice();
    for (const event of driver.of("a").events) {
      if (event.type !== "token") continue;
      const logits = fakeLogits(seen, 50);
      const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
      expect(event.logprob).toMatchObject({ id: event.id, logprob: logits[event.id]! - total });
      expect(event.logprob!.top[0]![1]).toBe(Math.max(...logits) - total);
      expect(event.logprob!.top.length).toBe(2);
      seen.push(event.id);
    }
  });
});

describe("scoring a prompt", () => {
  test.each([1, 3, 64])("gives each token's logprob, in chunks of at most %d tokens", (maxTokens) => {
    const driver = new CoreDriver({ maxTokens });
    driver.submit("warm the cache", prompt, { maxTokens: 1 });
    driver.drain();
    driver.submit("a", prompt, { maxTokens: 0, promptLogprobs: 1 });
    driver.drain();
    const { prompt: event, tokens, finish } = driver.of("a");
    expect([tokens, finish?.reason, event?.cachedTokens]).toEqual([[], "length", 0]);
    expect(event?.logprobs?.length).toBe(prompt.length);
    expect(event?.logprobs?.[0]).toBeNull();
    for (let at = 1; at < prompt.length; at++) {
      const logits = fakeLogits(prompt.slice(0, at), 50);
      const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
      expect(event?.logprobs?.[at]).toMatchObject({ id: prompt[at], logprob: logits[prompt[at]!]! - total });
    }
  });

  test("a prompt of one token has nothing to score", () => {
    const driver = new CoreDriver();
    driver.submit("a", [7], { maxTokens: 2, promptLogprobs: 0 });
    driver.drain();
    expect(driver.of("a").prompt?.logprobs).toEqual([null]);
    expect(driver.of("a").tokens).toEqual(expectedTokens([7], { ...greedy, maxTokens: 2 }));
  });

  test("maxTokens 0 without scores runs the prompt and ends", () => {
    const driver = new CoreDriver();
    driver.submit("a", prompt, { maxTokens: 0 });
    driver.drain();
    expect(driver.of("a").events.map((event) => event.type)).toEqual(["prompt", "finish"]);
    expect(driver.of("a").finish?.reason).toBe("length");
  });
});

describe("embeddings", () => {
  test("are the mean of the hidden states over all prompt tokens, cached prefix or not, and leave no page in use", () => {
    const driver = new CoreDriver({ maxTokens: 4 });
    driver.submit("warm the cache", prompt, { maxTokens: 1 });
    driver.drain();
    driver.core.embed({ id: "e", prompt, cacheSalt: "" });
    driver.drain();
    const mean = [0, 0, 0];
    for (let end = 1; end <= prompt.length; end++)
      fakeHidden(prompt.slice(0, end), 3).forEach((value, index) => (mean[index]! += value / prompt.length));
    const { embedding } = driver.embeddings.get("e")!;
    embedding!.forEach((value, index) => expect(value).toBeCloseTo(mean[index]!, 12));
    expect(driver.core.stats.pagesUsed).toBe(0);
  });
});

describe("refusals", () => {
  const limits = { pageSize: 4, pageCount: 8, maxModelLen: 40 };
  test.each([
    ["an empty prompt", [], {}, "The prompt has no tokens; give at least one."],
    [
      "a token outside the vocabulary",
      [1, 50],
      {},
      "The prompt holds the token id 50, but this model knows 0 to 49.",
    ],
    [
      "a bias outside the vocabulary",
      [1],
      { logitBias: [[-1, 3]] as [number, number][] },
      "logit_bias names the token id -1",
    ],
    ["more than the context", [1, 2], { maxTokens: 39 }, "together 41, but this model takes 40"],
    ["more than all pages", [1, 2], { maxTokens: 32 }, "the whole KV cache holds 32 tokens"],
  ])("%s ends at once with a sentence", (_, tokens, params, sentence) => {
    const driver = new CoreDriver(limits);
    driver.submit("a", tokens, params);
    expect(driver.of("a").finish?.reason).toBe("error");
    expect(driver.of("a").finish?.error).toContain(sentence);
    expect(driver.core.idle).toBe(true);
  });

  test("the largest request that fits runs to its end", () => {
    const driver = new CoreDriver(limits);
    driver.submit("a", [1, 2], { maxTokens: 31 });
    driver.drain();
    expect(driver.of("a").tokens.length).toBe(31);
  });
});

describe("what goes wrong", () => {
  test("logits that are not finite end their own request only", () => {
    const driver = new CoreDriver();
    driver.submit("bad", prompt, { logitBias: [[1, NaN]] });
    driver.submit("good", prompt, { maxTokens: 6 });
    driver.drain();
    expect(driver.of("bad").finish?.reason).toBe("error");
    expect(driver.of("bad").finish?.error).toContain("no usable token at place 1");
    expect(driver.of("good").tokens).toEqual(expectedTokens(prompt, { ...greedy, maxTokens: 6 }));
  });

  test("a failed native step ends the rows of that step; who waited runs afterwards", () => {
    let steps = 0;
    const onStep = () => {
      if (++steps === 3) throw new Error("illegal memory access");
    };
    const driver = new CoreDriver({ maxRows: 2, onStep });
    for (const id of ["a", "b", "c"]) driver.submit(id, prompt);
    let failures = 0;
    while (!driver.core.idle) if (driver.step() !== null) failures++;
    expect(failures).toBe(1);
    for (const id of ["a", "b"]) expect(driver.of(id).finish?.error).toContain("illegal memory access");
    expect(driver.of("c").tokens).toEqual(expectedTokens(prompt, greedy));
  });

  test("abort frees the pages at once, wherever the request is", () => {
    const driver = new CoreDriver({ maxTokens: 4, maxRows: 1 });
    driver.submit("prefilling", prompt);
    driver.submit("waiting", prompt);
    driver.step();
    expect(driver.core.stats).toMatchObject({ running: 1, waiting: 1, pagesUsed: 3 });
    driver.abort("waiting");
    driver.abort("prefilling");
    driver.abort("unknown");
    expect(driver.core.stats).toMatchObject({ running: 0, waiting: 0, pagesUsed: 0 });
    expect([driver.of("waiting").finish?.reason, driver.of("prefilling").finish?.reason]).toEqual([
      "abort",
      "abort",
    ]);
  });
});
