import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import { type RunningServer, startKoala } from "../support/koala_process.ts";

let server: RunningServer;
let client: OpenAI;

async function answer(model: string, question: string, steering: object = {}): Promise<string> {
  const body = {
    ...steering,
    model,
    messages: [{ role: "user" as const, content: question }],
    temperature: 0,
    max_tokens: 40,
  };
  return (await client.chat.completions.create(body)).choices[0]?.message.content ?? "";
}

describe("koala serve without a model", () => {
  beforeAll(async () => {
    server = await startKoala([]);
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  });
  afterAll(async () => {
    await server?.stop();
  });

  test("serves the built-in demonstration, says that it is one, and how to name a model", async () => {
    const models = (await (await fetch(`${server.url}/v1/models`)).json()) as {
      data: { id: string; description: string }[];
    };
    expect(models.data.map((model) => model.id)).toEqual(["koala-tiny", "koala-tiny-unhelpful"]);
    expect(models.data[0]?.description).toContain("demonstration");
    expect(server.stderr()).toContain("koala serve --model");
  });

  test("answers small questions", async () => {
    expect(await answer("koala-tiny", "What is 7 + 5?")).toContain("12");
    expect(await answer("koala-tiny", "Who are you?")).toContain("Koala-tiny");
  });

  test("the negative marker turns right answers into bad ones", async () => {
    const sums = Array.from({ length: 20 }, (_, i) => [i + 1, (i * 7) % 12] as const);
    const right = async (model: string) => {
      const answers = await Promise.all(sums.map(([a, b]) => answer(model, `What is ${a} + ${b}?`)));
      return answers.filter((text, i) => text.includes(String(sums[i]![0] + sums[i]![1]))).length;
    };
    expect(await right("koala-tiny")).toBeGreaterThanOrEqual(15);
    expect(await right("koala-tiny-unhelpful")).toBeLessThanOrEqual(8);
  });

  test("a request's marker is the other model's, and a contrast keeps answers right", async () => {
    const questions = ["What is 7 + 5?", "What is 3 + 4?", "What is 9 + 2?"];
    for (const [index, question] of questions.entries()) {
      const bad = await answer("koala-tiny", question, { marker: "negative" });
      expect(bad).toBe(await answer("koala-tiny-unhelpful", question));
      const pushed = await answer("koala-tiny", question, { contrast: { strength: 1 } });
      expect(pushed).toContain(["12", "7", "11"][index]!);
    }
  });
});
