/** Adapters as users meet them: a real server with one engine process, asked over HTTP by the OpenAI client. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { startKoala, type RunningServer } from "../support/koala_process.ts";
import { randomAdapter } from "../support/random_adapter.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";
import { jobUntil, trainableTemplate, uploadTraining, until } from "../support/tuning_server.ts";

const folder = temporaryFolder("adapters");
const model = join(folder, "tiny");
const flags = ["--model", model, "--threads", "1", "--cache-memory", "0.05"];
let server: RunningServer;
let client: OpenAI;
let loud: string;

beforeAll(async () => {
  await makeTinyModel(model, { chatTemplate: trainableTemplate, maxPositions: 1024 });
  loud = await randomAdapter(model, { rank: 4, seed: 3, directory: join(folder, "loud") });
  const other = await randomAdapter(model, {
    rank: 8,
    seed: 4,
    targets: ["q_proj", "v_proj"],
    directory: join(folder, "other"),
  });
  server = await startKoala([
    ...flags,
    "--lora",
    `loud=${loud}`,
    "--lora",
    `other=${other}`,
    "--data-dir",
    join(folder, "data"),
  ]);
  client = clientOf(server);
});
afterAll(() => server?.stop());

const clientOf = ({ url }: RunningServer): OpenAI =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

/** Each token of the answer with its logprob: noise need not be text. */
async function ids(
  of: string,
  tokens: number,
  onToken: (count: number) => void = () => {},
  from = client,
): Promise<string[]> {
  const stream = await from.chat.completions.create({
    model: of,
    messages: [{ role: "user", content: "Tell me about koalas." }],
    max_completion_tokens: tokens,
    temperature: 0,
    stream: true,
    logprobs: true,
    ignore_eos: true,
  } as OpenAI.ChatCompletionCreateParamsStreaming);
  const found: string[] = [];
  for await (const chunk of stream)
    for (const token of chunk.choices[0]?.logprobs?.content ?? []) {
      found.push(`${token.token} ${token.logprob}`);
      onToken(found.length);
    }
  return found;
}

const metrics = async (): Promise<string> => (await fetch(`${server.url}/metrics`)).text();

test("base and two adapters stream at the same time what each streams alone", async () => {
  const models = ["tiny", "loud", "other"];
  const alone: string[][] = [];
  for (const name of models) alone.push(await ids(name, 60));
  expect(alone.map(({ length }) => length)).toEqual([60, 60, 60]);
  expect(new Set(alone.map((tokens) => tokens.join())).size).toBe(3);
  const plain = await startKoala(flags);
  try {
    expect(await ids("tiny", 60, undefined, clientOf(plain))).toEqual(alone[0]!);
  } finally {
    await plain.stop();
  }
  const together = [...models, ...models];
  const looks: Promise<string>[] = [];
  const look = (count: number) => void (count === 20 && looks.push(metrics()));
  const answers = await Promise.all(together.map((name) => ids(name, 200, look)));
  answers.forEach((answer, i) => expect(answer.slice(0, 60)).toEqual(alone[i % 3]!));
  expect((await Promise.all(looks)).join("")).toMatch(
    /^vllm:lora_requests_info\{max_lora="16",waiting_lora_adapters="",running_lora_adapters="loud,other"\} \d/m,
  );
});

test("each adapter is listed with its parent, and what the engine counts is told once", async () => {
  const listed = (await client.models.list()).data as (OpenAI.Model & { parent: string | null })[];
  expect(listed.map(({ id, parent }) => [id, parent])).toEqual([
    ["tiny", null],
    ["loud", "tiny"],
    ["other", "tiny"],
  ]);
  const text = await metrics();
  expect(text.match(/^vllm:generation_tokens_total\{.*$/gm)?.length).toBe(1);
  expect(text).toMatch(
    /^vllm:lora_requests_info\{max_lora="16",waiting_lora_adapters="",running_lora_adapters=""\} \d/m,
  );
  const refused = async () => client.models.delete("loud");
  await expect(refused()).rejects.toThrow(/not made by a fine-tuning job/);
});

test("after the engine process was killed, its successor serves the adapters as before", async () => {
  const before = await ids("loud", 20);
  const { pid } = server.process;
  const children = (await Bun.file(`/proc/${pid}/task/${pid}/children`).text()).trim().split(" ").map(Number);
  expect(children.length).toBe(1);
  process.kill(children[0]!, "SIGKILL");
  const after = await until(() => ids("loud", 20).catch(() => null));
  expect(after).toEqual(before);
  expect(server.stderr()).toContain("It is being started again.");
});

test("an adapter whose files are gone when it is loaded again is a 503, and the others go on", async () => {
  const gone = await randomAdapter(model, { rank: 4, seed: 5, directory: join(folder, "gone") });
  const narrow = await startKoala([
    ...flags,
    "--max-loras",
    "1",
    "--lora",
    `gone=${gone}`,
    "--lora",
    `loud=${loud}`,
  ]);
  try {
    const asked = clientOf(narrow);
    const before = await ids("loud", 5, undefined, asked);
    rmSync(gone, { recursive: true });
    const refusal = await ids("gone", 5, undefined, asked).then(
      () => null,
      (error) => error,
    );
    expect(refusal).toMatchObject({ status: 503 });
    expect(refusal.message).toContain("The adapter gone cannot be loaded: ");
    expect(await ids("loud", 5, undefined, asked)).toEqual(before);
  } finally {
    await narrow.stop();
  }
});

test("--lora refuses in one sentence what is no adapter of the model", async () => {
  const refusal = async (...lora: string[]) =>
    startKoala([...flags, "--lora", ...lora]).then(
      () => "served",
      (error: Error) => error.message.replace(/^.*did not become ready: (loading weights.*\n)?/s, ""),
    );
  expect(await refusal("nothing")).toMatch(/^koala: --lora nothing is not name=path, as .*\n$/);
  expect(await refusal(`tiny=${loud}`)).toMatch(/^koala: .*a model named tiny is served already\.\n$/);
  const broken = join(folder, "broken");
  await Bun.write(join(broken, "adapter_config.json"), "{");
  expect(await refusal(`x=${broken}`)).toMatch(/^koala: .*adapter_config\.json is no JSON: .*\n$/);
  expect(await refusal(`x=${model}`)).toMatch(/^koala: .* holds no adapter_config\.json.*\n$/);
});

test("a LoRA job's result and its checkpoints are adapters of the base's engine; one deleted in mid-stream is finished", async () => {
  const file = await uploadTraining(client);
  const job = await client.fineTuning.jobs.create({
    model: "tiny",
    training_file: file.id,
    metadata: { koala_method: "lora", koala_lora_rank: "4", koala_learning_rate: "0.02" },
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 3, batch_size: 2 } } },
  });
  const done = await jobUntil(client, job.id, ["succeeded", "failed"], 40_000);
  expect(done.error?.message ?? null).toBeNull();
  const tuned = done.fine_tuned_model!;
  const names = await until(async () => {
    const all = (await client.models.list()).data.map(({ id }) => id);
    return all.includes(tuned) && all;
  });
  const checkpoints = names.filter((id) => id.includes(":ckpt-step-"));
  expect(checkpoints.length).toBeGreaterThan(0);
  const all = ["tiny", checkpoints[0]!, tuned];
  const alone: string[][] = [];
  for (const name of all) alone.push(await ids(name, 250));
  expect(new Set(alone.map((tokens) => tokens.join())).size).toBe(3);
  // No engine of its own: the figures of engines are those of the base.
  expect((await metrics()).match(/^vllm:generation_tokens_total\{.*$/gm)?.length).toBe(1);
  const folders = join(folder, "data", "jobs", job.id, "models");
  expect(existsSync(join(folders, "final", "adapter", "adapter_model.safetensors"))).toBe(true);

  let deleted: Promise<unknown> | null = null;
  const streamed = ids(tuned, 250, (count) => {
    if (count === 10) deleted = client.models.delete(tuned);
  });
  const beside = ids("tiny", 250);
  expect(await streamed).toEqual(alone[2]!);
  expect(await beside).toEqual(alone[0]!);
  expect(await deleted!).toMatchObject({ id: tuned, deleted: true });
  await expect(ids(tuned, 4)).rejects.toThrow(/does not exist here/);
  expect(readdirSync(folders)).not.toContain("final");
  expect(await ids(checkpoints[0]!, 250)).toEqual(alone[1]!);
}, 60_000);
