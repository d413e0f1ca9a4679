import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import OpenAI from "openai";
import { type RunningServer, startKoala } from "../support/koala_process.ts";
import { hasStories, sharedDirectory, stories, withoutShared } from "../support/paths.ts";

let server: RunningServer;
let client: OpenAI;

/** What the model's author publishes for greedy decoding from BOS alone. */
async function publishedText(): Promise<string> {
  const readme = await Bun.file(join(sharedDirectory, "models", "README.md")).text();
  const quoted = readme.split("\n").filter((line) => line.startsWith("> "));
  return quoted.map((line) => line.slice(2)).join("\n");
}

const greedy = { model: "stories260K", prompt: [1], temperature: 0, max_tokens: 256 };

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  const line = text.split("\n").find((candidate) => candidate.startsWith(name) && !candidate.startsWith("#"));
  return Number(line?.split(" ").at(-1));
}

/** Waits until nothing runs: aborts reach the engine a step later. */
async function idle(): Promise<void> {
  for (
    let i = 0;
    (await metric("koala_num_requests_running")) + (await metric("koala_num_requests_waiting")) > 0;
    i++
  ) {
    if (i > 200) throw new Error("requests still run after five seconds");
    await Bun.sleep(25);
  }
}

/** The message of the error that `promise` ends in; bun's rejects does not take the client's own kind of promise. */
async function failure(promise: PromiseLike<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("it succeeded");
}

describe.skipIf(!hasStories)(
  `a real model through the official client (${hasStories ? "stories260K" : withoutShared})`,
  () => {
    beforeAll(async () => {
      server = await startKoala(["--model", stories, "--threads", "2"]);
      client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
    });
    afterAll(async () => {
      await server?.stop();
    });

    test("greedy completion from BOS gives the published text", async () => {
      const answer = await client.completions.create(greedy);
      expect(answer.choices[0]?.text.trimStart()).toStartWith(await publishedText());
    });

    test("streaming gives the same text", async () => {
      let text = "";
      for await (const chunk of await client.completions.create({ ...greedy, stream: true }))
        text += chunk.choices[0]?.text ?? "";
      expect(text.trimStart()).toStartWith(await publishedText());
    });

    test("31 neighbours change nothing", async () => {
      const neighbours = Array.from({ length: 31 }, (_, i) =>
        client.completions.create({
          ...greedy,
          prompt: `Once there was a number ${i} and`,
          temperature: 1,
          seed: i,
        }),
      );
      const [answer] = await Promise.all([client.completions.create(greedy), ...neighbours]);
      expect(answer?.choices[0]?.text.trimStart()).toStartWith(await publishedText());
    });

    test("64 streams, a third aborted at random: the rest are byte-identical to runs alone and every page is free at the end", async () => {
      const request = (i: number) => ({
        model: "stories260K",
        prompt: i % 4 === 0 ? "Once upon a time, there was a big dog" : `One day number ${i}, Lily`,
        temperature: i % 2,
        seed: i,
        max_tokens: 40 + (i % 50),
      });
      const stream = async (i: number, abortAfter: number): Promise<string> => {
        let text = "";
        const chunks = await client.completions.create({ ...request(i), stream: true });
        let count = 0;
        for await (const chunk of chunks) {
          text += chunk.choices[0]?.text ?? "";
          if (++count === abortAfter) break;
        }
        return text;
      };
      const aborted = (i: number) => (i * 7) % 3 === 0;
      const together = await Promise.all(
        Array.from({ length: 64 }, (_, i) => stream(i, aborted(i) ? 1 + ((i * 5) % 23) : Infinity)),
      );
      await idle();
      for (let i = 0; i < 64; i++) {
        if (!aborted(i))
          expect(together[i]).toBe((await client.completions.create(request(i))).choices[0]?.text as string);
      }
      await idle();
      expect(await metric("koala_kv_cache_usage_perc")).toBe(0);
    });

    test("a harness that scores by echo gets one log-probability a token, the generated one included", async () => {
      const prompt = [1, 403, 407, 261, 378, 432];
      const scored = { model: "stories260K", prompt: [prompt], temperature: 0, logprobs: 1, echo: true };
      const [one, zero] = await Promise.all([
        client.completions.create({ ...scored, max_tokens: 1 }),
        client.completions.create({ ...scored, max_tokens: 0 }),
      ]);
      const withAnswer = one.choices[0]?.logprobs?.token_logprobs as (number | null)[];
      const withoutAnswer = zero.choices[0]?.logprobs?.token_logprobs as (number | null)[];
      expect(withAnswer.length).toBe(prompt.length + 1);
      expect(withoutAnswer).toEqual(withAnswer.slice(0, -1));
      // Greedy decoding from BOS begins with exactly these tokens, so each is the most likely one.
      one.choices[0]?.logprobs?.top_logprobs?.slice(1).forEach((top, i) => {
        expect(Math.max(...Object.values(top as Record<string, number>))).toBe(withAnswer[i + 1] as number);
      });
    });

    test("a prompt longer than the context is refused with both numbers, and nobody else notices", async () => {
      expect(await failure(client.completions.create({ ...greedy, prompt: Array(600).fill(5) }))).toMatch(
        /512.*600/,
      );
      expect((await client.completions.create({ ...greedy, max_tokens: 8 })).choices[0]?.text).toBeTruthy();
    });

    test("killing the engine fails what runs with a sentence, and the next request works again", async () => {
      const running = client.completions.create({
        ...greedy,
        ignore_eos: true,
        max_tokens: 500,
        stream: true,
      } as typeof greedy & { stream: true });
      const chunks = await running;
      const pids = (await Bun.$`pgrep -P ${server.process.pid}`.text()).trim().split("\n");
      expect(pids.length).toBe(1);
      const read = (async () => {
        for await (const _ of chunks);
      })();
      process.kill(Number(pids[0]), "SIGKILL");
      expect(await failure(read)).toMatch(/engine/i);
      for (let i = 0; (await fetch(`${server.url}/readyz`)).status !== 200; i++) {
        if (i > 200) throw new Error("not ready again after five seconds");
        await Bun.sleep(25);
      }
      const answer = await client.completions.create(greedy);
      expect(answer.choices[0]?.text.trimStart()).toStartWith(await publishedText());
    });
  },
);
