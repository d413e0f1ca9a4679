/** A job of the API on two ranks: the same bits as on one, whatever happens to its processes. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";
import {
  jobUntil,
  trainableTemplate,
  trainingLines,
  tuningServer,
  until,
  uploadTraining,
} from "../support/tuning_server.ts";

const folder = temporaryFolder("job-ranks");
const model = await makeTinyModel(join(folder, "base"), {
  chatTemplate: trainableTemplate,
  maxPositions: 1024,
});
const server = await tuningServer({
  database: join(folder, "koala.db"),
  dataDirectory: join(folder, "data"),
  model,
  real: true,
  ranksMax: 2,
});
afterAll(() => server.close());
const { jobs } = server.client.fineTuning;
const { id: training_file } = await uploadTraining(server.client, trainingLines(300));

/** Rows of 1024 tokens: two a micro-batch on one rank as on two, so that the sums are the same ones. */
const create = (ranks: string) =>
  jobs.create({
    model: "tiny",
    training_file,
    validation_file: training_file,
    seed: 1,
    metadata: { koala_ranks: ranks, koala_sequence_length: "1024", koala_learning_rate: "0.003" },
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 4, batch_size: 256 } } },
  });

async function resultOf(id: string) {
  const done = await jobUntil(server.client, id, undefined, 60_000);
  expect(done).toMatchObject({ status: "succeeded", error: null });
  const models = join(folder, "data", "jobs", id, "models");
  const weights = readdirSync(models)
    .sort()
    .map((name) => [name, Bun.hash(readFileSync(join(models, name, "model.safetensors"))).toString(16)]);
  const result = await (await server.client.files.content(done.result_files[0]!)).text();
  const { data } = await jobs.checkpoints.list(id);
  const checkpoints = data.map(({ step_number, metrics }) => ({ step_number, metrics }));
  return { weights, result, checkpoints };
}

/** Ids of the processes of a job whose command line has `word`, where the system lists them as files. */
function processes(jobId: string, word: string): number[] {
  return readdirSync("/proc").flatMap((name) => {
    const path = join("/proc", name, "cmdline");
    if (!/^\d+$/.test(name) || !existsSync(path)) return [];
    const words = readFileSync(path, "utf8").split("\0");
    return words.includes(word) && words.some((one) => one.includes(jobId)) ? [Number(name)] : [];
  });
}

const stepOf = async (id: string): Promise<number> => ((await jobs.retrieve(id)) as any).step;

test.skipIf(!existsSync("/proc/self/cmdline"))(
  "two ranks end with the bits of one, through kill -9 of a rank, of their keeper, and a pause",
  async () => {
    const alone = await create("1");
    const expected = await resultOf(alone.id);
    expect(expected.weights.length).toBe(4); // three epochs' ends and the last
    const { id } = await create("2");
    await until(async () => (await stepOf(id)) >= 2);
    const ranks = processes(id, "rank");
    expect(ranks).toHaveLength(2);
    process.kill(ranks[1]!, "SIGKILL");
    await until(async () => processes(id, "rank").length === 2 && !processes(id, "rank").includes(ranks[0]!));
    process.kill(processes(id, "train-job")[0]!, "SIGKILL");
    await until(async () => (await stepOf(id)) >= 4 && processes(id, "rank").length === 2);
    await jobs.pause(id);
    await until(async () => processes(id, "train-job").length === 0);
    expect(processes(id, "rank")).toEqual([]);
    await jobs.resume(id);
    expect(await resultOf(id)).toEqual(expected);
    const { data: events } = await jobs.listEvents(id, { limit: 200 });
    const messages = events.map(({ message }) => message).join("\n");
    expect(messages).toMatch(/2 ranks train on them/);
    expect(messages).toMatch(/Rank \d was ended by SIGKILL in step \d+, .* all start again/);
  },
  90_000,
);
