/** The whole way with nothing faked: `koala serve`, the official client, a training process, and a model that has learned.
 *  The base is a random one, so what it says afterwards can only come from training. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { type RunningServer, startKoala } from "../support/koala_process.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";
import {
  jobUntil,
  trainableTemplate,
  trainingLines,
  until,
  uploadTraining,
} from "../support/tuning_server.ts";

const folder = temporaryFolder("tuned");
const model = await makeTinyModel(join(folder, "base"), { chatTemplate: trainableTemplate });
const dataDirectory = join(folder, "data");
const args = [
  "--model",
  model,
  "--data-dir",
  dataDirectory,
  "--database",
  join(folder, "koala.db"),
  "--threads",
  "1",
];
const servers: RunningServer[] = [];
afterAll(() => Promise.all(servers.map((server) => server.stop("SIGKILL"))));

async function start(...more: string[]): Promise<{ client: OpenAI; server: RunningServer }> {
  const server = await startKoala([...args, "--training-threads", "1", ...more]);
  servers.push(server);
  return { server, client: new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 }) };
}

const ask = async (client: OpenAI, name: string, i: number): Promise<string | null> => {
  const messages = [{ role: "user" as const, content: `What is ${i} and ${i}?` }];
  const answer = await client.chat.completions.create({
    model: name,
    messages,
    temperature: 0,
    max_tokens: 24,
  });
  return answer.choices[0]!.message.content;
};

const fast = {
  koala_learning_rate: "0.01",
  koala_precision: "float32",
  koala_schedule: "constant",
  koala_warmup_share: "0",
};

/** Where the system lists processes as files; elsewhere nobody is killed. */
function trainingProcesses(jobId: string): number[] {
  if (!existsSync("/proc/self/cmdline")) return [];
  return readdirSync("/proc").flatMap((name) => {
    const command = join("/proc", name, "cmdline");
    const found = /^\d+$/.test(name) && existsSync(command) && readFileSync(command, "utf8").includes(jobId);
    return found ? [Number(name)] : [];
  });
}

describe("koala serve --data-dir", () => {
  test("trains, serves what it trained beside the base, and has it again after kill -9, by two ranks and then by one", async () => {
    const first = await start("--training-ranks", "2");
    const { id: training_file } = await uploadTraining(first.client, trainingLines(4));
    const job = await first.client.fineTuning.jobs.create({
      model: "base",
      training_file,
      validation_file: training_file,
      suffix: "sums",
      seed: 1,
      metadata: fast,
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 25, batch_size: 4 } } },
    });
    await until(async () => ((await first.client.fineTuning.jobs.retrieve(job.id)) as any).step >= 5);
    // Both at once: nobody can say good-bye.
    await first.server.stop("SIGKILL");

    const { client } = await start();
    const done = await jobUntil(client, job.id, undefined, 60_000);
    expect(done).toMatchObject({ status: "succeeded", error: null });
    const name = done.fine_tuned_model!;
    expect(await ask(client, name, 2)).toBe("It is 4.");
    expect(await ask(client, name, 3)).toBe("It is 6.");
    expect(await ask(client, "base", 3)).not.toBe("It is 6.");
    const checkpoints = (await client.fineTuning.jobs.checkpoints.list(job.id)).data;
    expect(checkpoints.length).toBeGreaterThan(1);
    expect(await ask(client, checkpoints[0]!.fine_tuned_model_checkpoint, 3)).toBe("It is 6.");
    expect(checkpoints[0]!.metrics.full_valid_loss).toBeNumber();
    const events = [];
    for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 100 })) events.push(event);
    const steps = events.flatMap(({ type, data }) => (type === "metrics" ? [(data as any).step] : []));
    expect(steps.toReversed()).toEqual(Array.from({ length: (done as any).total_steps }, (_, i) => i + 1));
    expect(events.some(({ message }) => message.startsWith("Training goes on at step"))).toBe(true);
  }, 90_000);

  test("DPO trains all weights, LoRA an adapter, and a tuned model is tuned again", async () => {
    const { client } = await start();
    const { jobs } = client.fineTuning;
    const pairs = Array.from({ length: 4 }, (_, i) => {
      const answer = (content: string) => [{ role: "assistant", content }];
      const input = { messages: [{ role: "user", content: `What is ${i} and ${i}?` }] };
      return `${JSON.stringify({ input, preferred_output: answer(`${2 * i}.`), non_preferred_output: answer("No.") })}\n`;
    });
    const dpo = await jobs.create({
      model: "base",
      training_file: (await uploadTraining(client, pairs.join(""))).id,
      seed: 1,
      metadata: { ...fast, koala_learning_rate: "0.003" },
      method: { type: "dpo", dpo: { hyperparameters: { n_epochs: 6, batch_size: 4, beta: 0.5 } } },
    });
    const preferred = await jobUntil(client, dpo.id, undefined, 60_000);
    expect(preferred).toMatchObject({
      status: "succeeded",
      error: null,
      method: { dpo: { hyperparameters: { beta: 0.5 } } },
    });
    const metrics = (await jobs.listEvents(dpo.id, { limit: 100 })).data.filter(
      ({ type }) => type === "metrics",
    );
    expect((metrics[0]!.data as any).preference_accuracy).toBe(1);

    const { id: training_file } = await uploadTraining(client, trainingLines(4));
    const lora = await jobs.create({
      model: preferred.fine_tuned_model!,
      training_file,
      seed: 1,
      metadata: { ...fast, koala_method: "lora", koala_lora_rank: "32", koala_recompute: "block" },
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 30, batch_size: 4 } } },
    });
    await until(async () => ((await jobs.retrieve(lora.id)) as any).step >= 5);
    for (const pid of trainingProcesses(lora.id)) process.kill(pid, "SIGKILL");
    const adapted = await jobUntil(client, lora.id, undefined, 60_000);
    expect(adapted).toMatchObject({ status: "succeeded", error: null });
    expect(adapted.fine_tuned_model).toStartWith("ft:base:koala::");
    expect(await ask(client, adapted.fine_tuned_model!, 3)).toBe("It is 6.");
    expect(await ask(client, preferred.fine_tuned_model!, 3)).not.toBe("It is 6.");
  }, 90_000);
});
