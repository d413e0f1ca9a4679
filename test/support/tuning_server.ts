/** A server on a port with files and fine-tuning jobs, over fake engines; its training processes are the fake ones or real. */
import { join } from "node:path";
import OpenAI, { toFile } from "openai";
import { startFineTuning, type RunningFineTuning } from "../../src/cli/jobs/fine_tuning.ts";
import type { TunedModel } from "../../src/cli/jobs/tuned_models.ts";
import { LazyEngine } from "../../src/engine/lazy_engine.ts";
import { listen, type RunningServer } from "../../src/server/listen.ts";
import { selfCommand } from "../../src/util/self_command.ts";
import { byteTokenizer, FakeEngine, type FakeOptions } from "./fake_engine.ts";
import { testServer, type TestServer } from "./test_server.ts";

export interface TuningServer extends TestServer {
  running: RunningServer;
  tuning: RunningFineTuning;
  client: OpenAI;
  /** Lines of the supervisor's log. */
  notices: string[];
  close(): Promise<void>;
}

const fakeTrainer = join(import.meta.dir, "fake_trainer_child.ts");

export async function tuningServer(of: {
  database: string;
  dataDirectory: string;
  /** Folder of the base model, served as "tiny". */
  model: string;
  real?: boolean;
  leaseMs?: number;
  ranksMax?: number;
  storageMax?: number;
  /** Of the tuned models' engines. */
  engine?: FakeOptions;
}): Promise<TuningServer> {
  const server = testServer({ model: { path: of.model } });
  const notices: string[] = [];
  const tuning = await startFineTuning({
    database: of.database,
    dataDirectory: of.dataDirectory,
    registry: server.context.models,
    template: null,
    threads: 1,
    ranksMax: of.ranksMax ?? 1,
    storageMax: of.storageMax ?? null,
    pollMs: 50,
    leaseMs: of.leaseMs ?? 5000,
    stopGraceMs: 5000,
    command: (options) =>
      of.real
        ? selfCommand("train-job", JSON.stringify(options))
        : [process.execPath, fakeTrainer, JSON.stringify(options)],
    open: async (row, directory) => {
      const start = () => new FakeEngine(byteTokenizer(), of.engine ?? { script: () => `I am ${row.id}.` });
      const engine = new LazyEngine({ start, idleMs: 60_000 });
      const created = Math.floor(row.createdAt.getTime() / 1000);
      return {
        ...server.model,
        id: row.id,
        aliases: [],
        engine,
        parent: row.parent,
        created,
        path: directory,
      } satisfies TunedModel;
    },
    log: (line) => notices.push(line),
  });
  server.context.fineTuning = tuning.fineTuning;
  const running = listen(server.app, { context: server.context, host: "127.0.0.1", port: 0 });
  const client = new OpenAI({ baseURL: `${running.url}/v1`, apiKey: "none", maxRetries: 0 });
  const close = async () => {
    await running.close({ graceMs: 0 });
    await tuning.close();
  };
  return { ...server, running, tuning, client, notices, close };
}

/** Answers end with the token that ends them, so that a model can learn to stop. */
export const trainableTemplate =
  "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";

const dialogue = (i: number): string =>
  JSON.stringify({
    messages: [
      { role: "user", content: `What is ${i} and ${i}?` },
      { role: "assistant", content: `It is ${2 * i}.` },
    ],
  });

export const trainingLines = (count = 4): string =>
  Array.from({ length: count }, (_, i) => `${dialogue(i)}\n`).join("");

export async function uploadTraining(client: OpenAI, text = trainingLines(), name = "train.jsonl") {
  return client.files.create({ file: await toFile(Buffer.from(text), name), purpose: "fine-tune" });
}

/** Polls as clients do, until the job is in one of these states. */
export async function jobUntil(
  client: OpenAI,
  id: string,
  states: string[] = ["succeeded", "failed", "cancelled"],
  timeoutMs = 15_000,
) {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const job = await client.fineTuning.jobs.retrieve(id);
    if (states.includes(job.status)) return job;
    if (performance.now() > deadline)
      throw new Error(`The job ${id} is ${job.status}, not ${states.join(" or ")}: ${JSON.stringify(job)}`);
    await Bun.sleep(20);
  }
}

/** Waits for what `ask` finds, at most ten seconds. */
export async function until<T>(ask: () => Promise<T | null | undefined | false>): Promise<T> {
  for (let i = 0; i < 500; i++) {
    const found = await ask();
    if (found) return found;
    await Bun.sleep(20);
  }
  throw new Error("what was waited for did not come");
}
