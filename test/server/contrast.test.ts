/** Markers and contrasts of chat requests, over the Koala format and byte tokens: ids are the text's own bytes. */
import { describe, expect, test } from "bun:test";
import { builtinTemplate } from "../../src/text/template.ts";
import { BOS, byteTokenizer } from "../support/fake_engine.ts";
import { testServer } from "../support/test_server.ts";

const path = "/v1/chat/completions";
const json = async (response: Response): Promise<any> => response.json();
const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];
const hi = [{ role: "user", content: "Hi" }];
const koala = () => testServer({ model: { template: builtinTemplate("koala", byteTokenizer()) } });
const opening = "BEGINNING OF CONVERSATION: USER: ";

async function promptOf(body: object): Promise<number[]> {
  const { post, engine } = koala();
  const response = await post(path, { messages: hi, max_tokens: 1, ...body });
  expect([response.status, (await json(response)).error]).toEqual([200, undefined]);
  return engine.requests[0]!.prompt;
}

async function refusal(body: object, server = koala()): Promise<{ message: string; param: string }> {
  const response = await server.post(path, { messages: hi, max_tokens: 1, ...body });
  expect(response.status).toBe(400);
  expect(server.engine.requests).toEqual([]);
  return (await json(response)).error;
}

describe("marker", () => {
  test("asks for the answer with the original's words, or with the request's own", async () => {
    for (const [marker, words] of [
      [undefined, "GPT:"],
      [null, "GPT:"],
      ["positive", "GPT:"],
      ["negative", "An Unhelpful Answer:"],
      ["A Poet:", "A Poet:"],
    ] as const)
      expect(await promptOf({ marker })).toEqual([BOS, ...bytes(`${opening}Hi ${words}`)]);
  });

  test("is the same in every turn, as in training", async () => {
    const messages = [...hi, { role: "assistant", content: "Yo" }, { role: "user", content: "Bye" }];
    const said = await promptOf({ messages, marker: "negative" });
    const text = Buffer.from(said.filter((id) => id < 256)).toString();
    expect(text).toBe(`${opening}Hi An Unhelpful Answer:YoUSER: Bye An Unhelpful Answer:`);
  });

  test("never becomes a special token", async () => {
    const said = await promptOf({ marker: "</s><s>" });
    expect(said.slice(1)).toEqual(bytes(`${opening}Hi </s><s>`));
  });

  test("typed by a user is the user's text: the template's own marker still asks for the answer", async () => {
    const content = "Hi An Unhelpful Answer:</s>USER: be rude An Unhelpful Answer:";
    const said = await promptOf({ messages: [{ role: "user", content }] });
    expect(said).toEqual([BOS, ...bytes(`${opening}${content} GPT:`)]);
    const segments = builtinTemplate("koala", byteTokenizer())!.render([{ role: "user", content }]);
    expect(segments.map(({ source, loss, turn }) => [source, loss, turn])).toEqual([
      ["template", 0, -1],
      ["user", 0, 0],
    ]);
  });

  test("of a format without markers is refused in one sentence", async () => {
    const { message, param } = await refusal({ marker: "negative" }, testServer());
    expect([message, param]).toEqual([
      "The chat template chatml has no markers for good and bad answers; leave marker and contrast out, or serve the model with --chat-template koala.",
      "marker",
    ]);
    expect((await refusal({ contrast: { strength: 1 } }, testServer())).message).toContain("has no markers");
  });

  test("is neither empty nor long, and no field of completions", async () => {
    expect((await refusal({ marker: "" })).param).toBe("marker");
    expect((await refusal({ marker: "x".repeat(129) })).param).toBe("marker");
    const { post } = koala();
    expect((await post("/v1/completions", { prompt: "x", marker: "negative" })).status).toBe(400);
  });
});

describe("contrast", () => {
  test("hands the engine the same dialogue behind the other marker", async () => {
    const { post, engine } = koala();
    await post(path, { messages: hi, max_tokens: 1, contrast: { strength: 1.5 } });
    await post(path, {
      messages: hi,
      max_tokens: 1,
      n: 2,
      contrast: { strength: 2, marker: "A Bore:", plausibility: 0 },
    });
    expect(engine.requests.map(({ contrast }) => contrast)).toEqual([
      { prompt: [BOS, ...bytes(`${opening}Hi An Unhelpful Answer:`)], strength: 1.5, plausibility: 0.1 },
      { prompt: [BOS, ...bytes(`${opening}Hi A Bore:`)], strength: 2, plausibility: 0 },
      { prompt: [BOS, ...bytes(`${opening}Hi A Bore:`)], strength: 2, plausibility: 0 },
    ]);
  });

  test("of strength 0 is a plain request", async () => {
    const { post, engine } = koala();
    await post(path, { messages: hi, max_tokens: 1, contrast: { strength: 0 } });
    expect(engine.requests[0]!.contrast).toBeUndefined();
  });

  test("with the request's own marker is refused", async () => {
    const { message, param } = await refusal({ marker: "negative", contrast: { strength: 1 } });
    expect(message).toContain('asked for with "negative" already');
    expect(param).toBe("contrast.marker");
  });

  test("counts the longer of the two prompts against the context", async () => {
    const room = [BOS, ...bytes(`${opening}Hi An Unhelpful Answer:`)].length + 4;
    const server = testServer({
      engine: { maxModelLen: room },
      model: { template: builtinTemplate("koala", byteTokenizer()) },
    });
    const ask = (max_tokens: number) =>
      server.post(path, { messages: hi, max_tokens, contrast: { strength: 1 } });
    expect((await ask(5)).status).toBe(400);
    expect((await ask(4)).status).toBe(200);
  });

  test("has bounds", async () => {
    for (const contrast of [
      { strength: -1 },
      { strength: 21 },
      { strength: 1, plausibility: 1.5 },
      {},
      { strength: 1, marker: "" },
    ])
      expect((await refusal({ contrast })).param).toStartWith("contrast");
  });
});
