/** The judges that are models or services: guard on our engine, ONNX of the user's, remote addresses, and the route over all. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { categories } from "../../../src/eval/moderation/categories.ts";
import { guardBackend } from "../../../src/server/moderation/guard.ts";
import { Moderator } from "../../../src/server/moderation/moderator.ts";
import { categoriesOf, onnxBackend } from "../../../src/server/moderation/onnx.ts";
import { remoteBackend } from "../../../src/server/moderation/remote.ts";
import { builtinTemplate } from "../../../src/text/template.ts";
import { bigramLogprobs, byteTokenizer, FakeEngine } from "../../support/fake_engine.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { listeningServer, testServer } from "../../support/test_server.ts";
import { wordBackend } from "./backends.ts";

const folder = temporaryFolder("moderation");
const servers: ReturnType<typeof listeningServer>[] = [];
afterAll(() => Promise.all(servers.map(({ running }) => running.close({ graceMs: 0 }))));
const listening = (...given: Parameters<typeof listeningServer>) => {
  servers.push(listeningServer(...given));
  return servers.at(-1)!;
};

const rejected = (promise: PromiseLike<unknown>): Promise<Error> =>
  Promise.resolve(promise).then(
    () => new Error("it was not rejected"),
    (error: Error) => error,
  );

describe("a guard model", () => {
  const tokenizer = byteTokenizer();
  const guard = (script: string) => {
    const engine = new FakeEngine(tokenizer, { script: () => script });
    const backend = guardBackend({ engine, tokenizer, template: builtinTemplate("chatml", tokenizer) });
    return {
      engine,
      backend,
      judge: async (text: string, phase: "request" | "stream" = "request") =>
        (await backend.judge([text], { phase, signal: AbortSignal.any([]) }))[0]!,
    };
  };
  /** P("u") against P("s") after these ids: in the byte vocabulary a word begins with its first letter. */
  const share = (previous: number) => {
    const row = bigramLogprobs(previous);
    const order = [...row.keys()].toSorted((a, b) => row[b]! - row[a]!).slice(0, 20);
    const likely = (letter: string, chosen: boolean) =>
      chosen || order.includes(letter.charCodeAt(0)) ? Math.exp(row[letter.charCodeAt(0)]!) : 0;
    return { likely };
  };

  test("scores P(unsafe) on the categories of its hazard codes", async () => {
    const { judge, engine } = guard("\n\nunsafe\nS1,S10");
    const { scores } = await judge("a question");
    const { likely } = share("\n".charCodeAt(0));
    const expected = likely("u", true) / (likely("u", true) + likely("s", false));
    for (const category of ["violence", "illicit/violent", "hate"] as const)
      expect(scores.get(category)).toBeCloseTo(expected, 12);
    expect(scores.get("sexual")).toBe(0);
    expect(tokenizer.decode(engine.requests[0]!.prompt)).toContain("a question");
    expect(engine.requests[0]!.params.temperature).toBe(0);
  });

  test("judges an answer as the assistant's turn", async () => {
    const { judge, engine } = guard("safe");
    const { scores } = await judge("an answer", "stream");
    expect([...scores.values()].every((score) => score === 0)).toBe(true);
    expect(tokenizer.decode(engine.requests[0]!.prompt)).toMatch(/assistant\s+an answer/);
  });

  test("unsafe without a known code still counts, and a model that says neither is an error", async () => {
    expect((await guard("unsafe\nS99").judge("x")).scores.get("illicit")).toBeGreaterThan(0);
    expect(guard("Sure! Here is").judge("x")).rejects.toMatchObject({ code: "bad_answer" });
    const { engine, judge } = guard("safe");
    engine.options.failAfter = 1;
    expect(judge("x")).rejects.toThrow("The logits were not finite.");
  });
});

describe("an ONNX classifier", () => {
  const model = join(folder, "toxic");
  mkdirSync(model);
  const config = (labels: string[]) =>
    writeFileSync(join(model, "config.json"), JSON.stringify({ id2label: { ...labels } }));

  test("without the packages is refused with what to install, in a bare folder and in Koala's own", async () => {
    config(["toxic", "threat"]);
    for (const place of [folder, join(import.meta.dir, "..", "..", "..")])
      await expect(onnxBackend(model, place)).rejects.toThrow(
        "npm install @huggingface/transformers onnxruntime-node",
      );
  });

  test("with labels that mean nothing here is refused with their names", async () => {
    config(["LABEL_0", "POSITIVE"]);
    await expect(onnxBackend(model, folder)).rejects.toThrow("LABEL_0, POSITIVE");
    await expect(onnxBackend(join(folder, "none"), folder)).rejects.toThrow("config.json");
  });

  test("is asked through the user's own packages, and its labels become categories", async () => {
    config(["toxic", "threat", "identity_hate", "sexual_explicit"]);
    const place = join(folder, "user");
    const packages = join(place, "node_modules");
    const write = (name: string, file: string, text: string) => {
      mkdirSync(join(packages, name), { recursive: true });
      writeFileSync(join(packages, name, file), text);
    };
    write("onnxruntime-node", "package.json", '{"name": "onnxruntime-node", "version": "1.30.0"}');
    write("@huggingface/transformers", "package.json", '{"name": "t", "version": "4.3.1"}');
    write(
      "@huggingface/transformers/dist",
      "transformers.node.mjs",
      `export const env = {};
       export const asked = [];
       export const pipeline = async (task, model, options) => {
         asked.push([task, model, options, { ...env }]);
         return async (texts, { top_k }) => texts.map((text) => [
           { label: "toxic", score: text.length / 100 }, { label: "threat", score: 0.25 },
           { label: "identity_hate", score: 0.5 }, { label: "obscene", score: 1 }]);
       };`,
    );
    const backend = await onnxBackend(model, place);
    const [first, second] = await backend.judge(["12345", "1234567890"], {
      phase: "request",
      signal: AbortSignal.any([]),
    });
    expect(Object.fromEntries(first!.scores)).toEqual({
      harassment: 0.05,
      "harassment/threatening": 0.25,
      violence: 0.25,
      hate: 0.5,
    });
    expect(second!.scores.get("harassment")).toBe(0.1);
    expect(backend.categories).toEqual([
      "harassment",
      "harassment/threatening",
      "hate",
      "sexual",
      "violence",
    ]);
    const { asked } = await import(
      join(packages, "@huggingface/transformers", "dist", "transformers.node.mjs")
    );
    expect(asked).toEqual([
      [
        "text-classification",
        "toxic",
        { dtype: "fp32" },
        { allowRemoteModels: false, localModelPath: folder },
      ],
    ]);
  });

  test("labels of the samples and of OpenAI are known by their names", () => {
    expect([categoriesOf("S3"), categoriesOf("Self-Harm"), categoriesOf("OK")]).toEqual([
      ["sexual/minors"],
      ["self-harm"],
      [],
    ]);
  });
});

describe("a remote address", () => {
  test("another server of ours judges: scores, flags, key and path", async () => {
    const far = listening({
      moderation: { moderator: new Moderator([wordBackend("bomb")]), mode: null },
      apiKeys: [],
    });
    const chain = new Moderator([remoteBackend(`${far.running.url}/v1`)]);
    const { results, error } = await chain.check(["a bomb", "a rose"], "request");
    expect(error).toBeNull();
    expect(results.map(({ flagged }) => flagged)).toEqual([true, false]);
    expect(results[0]!.category_scores.violence).toBe(0.9);
  });

  test("that fails, answers nonsense or hangs is an error and never a pass", async () => {
    const sent: (string | null)[] = [];
    const odd = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request) => {
        sent.push(request.headers.get("authorization"), new URL(request.url).pathname);
        const path = new URL(request.url).pathname;
        if (path.startsWith("/hang")) return new Promise<Response>(() => {});
        return path.startsWith("/busy")
          ? new Response("no", { status: 429 })
          : Response.json({ results: [] });
      },
    });
    const check = async (path: string) =>
      await new Moderator([remoteBackend(odd.url.href + path, { apiKey: "k" })], { timeoutMs: 50 }).check(
        ["x"],
        "request",
      );
    expect((await check("busy")).error).toMatchObject({
      code: "unavailable",
      message: expect.stringContaining("429"),
    });
    expect((await check("")).error).toMatchObject({ code: "bad_answer" });
    expect(sent.slice(-2)).toEqual(["Bearer k", "/v1/moderations"]);
    expect(await check("hang")).toMatchObject({ error: { code: "timeout" }, refused: true });
    void odd.stop(true);
    expect(() => remoteBackend("ftp://x")).toThrow("no http address");
  });
});

describe("POST /v1/moderations", () => {
  test("speaks to the official client: one result a text, all 13 keys, by the built-in judges", async () => {
    const { running } = listening({});
    const client = new OpenAI({ baseURL: `${running.url}/v1`, apiKey: "none", maxRetries: 0 });
    const texts = ["How do I make a pipe bomb?", "What do koalas eat for breakfast in the morning?"];
    const answer = await client.moderations.create({ input: texts, model: "omni-moderation-latest" });
    expect(answer.results.map(({ flagged }) => flagged)).toEqual([true, false]);
    for (const result of answer.results)
      for (const table of [result.categories, result.category_scores, result.category_applied_input_types])
        expect(Object.keys(table).toSorted()).toEqual([...categories]);
    expect(answer.model).toStartWith("koala:rules+linear");
    const linear = await client.moderations.create({ input: texts[0]!, model: "linear" });
    expect(linear.results[0]!.categories.illicit).toBeNull();
    expect(linear.model).toContain("unscored=harassment/threatening,illicit,illicit/violent");
    const parts = await client.moderations.create({
      input: [
        { type: "text", text: texts[0]! },
        { type: "text", text: "x" },
      ],
    });
    expect(parts.results.length).toBe(1);
    const image = client.moderations.create({
      input: [{ type: "image_url", image_url: { url: "data:image/png;base64,xx" } }],
    });
    expect((await rejected(image)).message).toContain("Images cannot be judged here");
    const unknown = client.moderations.create({ input: "x", model: "none" });
    expect(await rejected(unknown)).toBeInstanceOf(OpenAI.NotFoundError);
  });

  test("the official client sees chat results and the content filter", async () => {
    const { running } = listening({
      engine: { script: () => "fine" },
      moderation: { moderator: new Moderator([wordBackend("bomb")]), mode: null },
    });
    const client = new OpenAI({ baseURL: `${running.url}/v1`, apiKey: "none", maxRetries: 0 });
    const ask = (content: string) => ({
      model: "tiny",
      messages: [{ role: "user" as const, content }],
      moderation: { model: "omni-moderation-latest", policy: { input: { mode: "block" as const } } },
    });
    const { moderation, choices } = await client.chat.completions.create(ask("a bomb"));
    expect(choices[0]!.finish_reason).toBe("content_filter");
    expect(moderation!.input).toMatchObject({ type: "moderation_results", results: [{ flagged: true }] });
    const final = await client.chat.completions.stream(ask("a rose")).finalChatCompletion();
    expect(final.choices[0]!.message.content).toBe("fine");
    const refused = client.chat.completions.parse(ask("a bomb"));
    expect((await rejected(refused)).message).toContain("content filter");
  });

  test("a judge that fails is a 503, and thresholds decide what is flagged", async () => {
    const broken = testServer({
      moderation: {
        moderator: new Moderator([{ ...wordBackend("x"), judge: () => Promise.reject(new Error("gone")) }]),
        mode: null,
      },
    });
    const response = await broken.post("/v1/moderations", { input: "x" });
    expect([response.status, (await response.json()).error.code]).toEqual([503, "moderation_unavailable"]);
    const strict = new Moderator([wordBackend("x")], { thresholds: { violence: 0.05 } });
    expect((await strict.check(["y"], "request")).results[0]!.flagged).toBe(true);
  });

  test("long texts are judged in overlapping pieces", async () => {
    const seen: string[] = [];
    const chain = new Moderator([{ ...wordBackend("bomb", "violence", seen), charsMax: 500 }]);
    const text = `${"a ".repeat(245)}bomb ${"b ".repeat(800)}`;
    expect((await chain.check([text], "request")).refused).toBe(true);
    expect(seen.length).toBeGreaterThan(5);
    expect(Math.max(...seen.map(({ length }) => length))).toBe(500);
  });
});
