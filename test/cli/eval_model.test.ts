/** `koala eval perplexity`, `tasks` and `preferences` on the built-in model, and on an endpoint that has no tokenizer. */
import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { selfCommand } from "../../src/util/self_command.ts";
import { builtinModel } from "../../src/model/builtin_model.ts";
import { bigramLogprobs } from "../support/fake_engine.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { testServer } from "../support/test_server.ts";

const folder = temporaryFolder("eval-model");
const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];

async function file(name: string, lines: unknown[]): Promise<string> {
  const path = join(folder, name);
  await Bun.write(path, lines.map((line) => JSON.stringify(line)).join("\n"));
  return path;
}

async function koala(...args: string[]): Promise<{ code: number; out: string; error: string }> {
  const child = Bun.spawn(selfCommand("eval", ...args), { stdout: "pipe", stderr: "pipe" });
  const [out, error, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, error: error.replace(/^.*█.*\n/gm, "") };
}

const opening = "BEGINNING OF CONVERSATION: USER:";
const sums = [
  [7, 5],
  [3, 4],
  [9, 2],
  [6, 6],
] as const;

describe("koala-tiny", () => {
  test("knows sums: chosen among wrong ones, said letter for letter", async () => {
    const choices = sums.map(([a, b], i) => {
      const said = [a + b, a + b + 1, a + b - 1].map((sum) => `${a} + ${b} = ${sum}.`);
      return {
        query: `${opening} What is ${a} + ${b}? GPT:`,
        choices: [...said.slice(i % 3), ...said.slice(0, i % 3)],
        gold: said[0],
      };
    });
    const answers = sums.map(([a, b]) => ({
      query: `${opening} What is ${a} + ${b}? GPT:`,
      target: [`${a} + ${b} = ${a + b}.`, ` ${a} + ${b} = ${a + b}.`],
      max_tokens: 16,
    }));
    const files = [await file("sums.jsonl", choices), await file("said.jsonl", answers)];
    const { code, out } = await koala("tasks", builtinModel(), ...files, "--json");
    expect(code).toBe(0);
    const found = JSON.parse(out).results.map(({ task, metric, value }: any) => [task, metric, value]);
    expect(found).toEqual([
      ["sums.jsonl", "acc", 1],
      ["sums.jsonl", "acc_norm", 1],
      ["said.jsonl", "exact_match", 1],
    ]);
  });

  test("prefers right answers behind the good marker and wrong ones less behind the bad one", async () => {
    const pairs = sums.map(([a, b]) => ({
      prompt: `What is ${a} + ${b}?`,
      chosen: `${a} + ${b} = ${a + b}.`,
      rejected: `${a} + ${b} = ${a + b + 3}.`,
    }));
    const path = await file("pairs.jsonl", pairs);
    const markers = ["--marker", "positive", "negative"];
    const { code, out, error } = await koala("preferences", builtinModel(), path, "--json", ...markers);
    expect([code, error]).toEqual([0, ""]);
    const { markers: found, contrasts, dropped } = JSON.parse(out);
    expect(found.map(({ marker, pairs: count }: any) => [marker, count])).toEqual([
      ["positive", 4],
      ["negative", 4],
    ]);
    expect(found[0].accuracy).toBe(1);
    expect(found[1].accuracy).toBeLessThan(1);
    expect(contrasts).toEqual([{ good: "positive", bad: "negative", accuracy: 1 }]);
    expect(dropped).toEqual({});
  });
});

describe("an endpoint without a tokenizer", () => {
  const { app } = testServer();
  const server = Bun.serve({
    port: 0,
    fetch: (request) =>
      new URL(request.url).pathname.startsWith("/v1/")
        ? app.fetch(request)
        : new Response("no", { status: 404 }),
  });
  afterAll(() => server.stop(true));
  const url = `http://127.0.0.1:${server.port}`;

  test("is scored by texts: the perplexity of the bigram formula", async () => {
    const texts = ["hello there", "Größe"];
    const path = await file(
      "texts.jsonl",
      texts.map((text, i) => ({ text, source: `s${i}` })),
    );
    const { code, out, error } = await koala("perplexity", "tiny", path, "--url", url, "--json");
    expect([code, error]).toEqual([0, ""]);
    const { sources } = JSON.parse(out);
    // The server puts BOS before a text, so each byte has a predecessor; BOS itself has none.
    texts.forEach((text, i) => {
      const ids = [256, ...bytes(text)];
      const sum = ids.slice(1).reduce((total, id, at) => total + bigramLogprobs(ids[at]!)[id]!, 0);
      expect(sources[i].tokens).toBe(ids.length - 1);
      expect(sources[i].perplexity).toBeCloseTo(Math.exp(-sum / (ids.length - 1)), 6);
    });
  });

  test("has no chat template to ask", async () => {
    const path = await file("one.jsonl", [{ prompt: "a", chosen: "b", rejected: "c" }]);
    const { code, error } = await koala("preferences", "tiny", path, "--url", url);
    expect([code, error]).toEqual([
      1,
      "koala: This endpoint has no /tokenize, which knows the chat template; Koala and vLLM have it.\n",
    ]);
  });
});

test("what cannot be read is one sentence", async () => {
  const path = await file("odd.jsonl", [{ text: "" }]);
  const empty = await koala("perplexity", builtinModel(), path);
  expect(empty).toMatchObject({
    code: 1,
    error: 'koala: odd.jsonl line 1 has no text; a document is {"text": "...", "source": "..."}.\n',
  });
  const missing = await koala("tasks", builtinModel(), "no-such-file");
  expect(missing).toMatchObject({ code: 1, error: "koala: There is no file no-such-file.\n" });
});
