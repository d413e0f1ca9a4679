/** Files, uploads and fine-tuning jobs through the official client, over processes that train nothing. */
import { afterEach, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { toFile } from "openai";
import { onEachDatabase } from "../support/stores.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";
import {
  jobUntil,
  trainableTemplate,
  trainingLines,
  tuningServer,
  type TuningServer,
  until,
  uploadTraining,
} from "../support/tuning_server.ts";

const folder = temporaryFolder("tuning");
let folders = 0;
const newFolder = (): string => join(folder, String(folders++));
const model = await makeTinyModel(join(folder, "base"), { chatTemplate: trainableTemplate });

/** Each holds connections to the database, which has only so many. */
const open: TuningServer[] = [];
afterEach(() => Promise.all(open.splice(0).map((server) => server.close())));

const rejected = async (promise: Promise<unknown>): Promise<any> =>
  promise.then(
    () => null,
    (error: unknown) => error,
  );

const collect = async <T>(pages: AsyncIterable<T>): Promise<T[]> => {
  const all: T[] = [];
  for await (const one of pages) all.push(one);
  return all;
};

onEachDatabase("fine-tuning", (newDatabase) => {
  async function start(more: Partial<Parameters<typeof tuningServer>[0]> = {}) {
    const server = await tuningServer({
      database: await newDatabase(),
      dataDirectory: newFolder(),
      model,
      ...more,
    });
    open.push(server);
    return server;
  }

  test("upload, create, poll, events, checkpoints, result file, chat with both models, delete", async () => {
    const { client, context, engine } = await start();
    const file = await uploadTraining(client);
    expect(file).toMatchObject({
      object: "file",
      filename: "train.jsonl",
      purpose: "fine-tune",
      status: "processed",
    });
    await client.files.waitForProcessing(file.id, { pollInterval: 10 });
    const created = await client.fineTuning.jobs.create({
      model: "tiny",
      training_file: file.id,
      suffix: "demo",
      seed: 42,
      metadata: { team: "a" },
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2, batch_size: "auto" } } },
    });
    expect(created).toMatchObject({ object: "fine_tuning.job", seed: 42, finished_at: null, error: null });
    // As OpenAI's: the answer does not wait for the files to be read.
    expect(created.status).toBe("validating_files");
    // The file may go: the job has put its bytes by.
    await client.files.delete(file.id);
    const done = await jobUntil(client, created.id);
    expect(done).toMatchObject({
      status: "succeeded",
      metadata: { team: "a" },
      // The smallest models take the largest steps that "auto" knows.
      hyperparameters: { n_epochs: 2, batch_size: 1, learning_rate_multiplier: 40 },
      error: null,
    });
    expect(done.trained_tokens).toBeGreaterThan(0);
    expect(done.fine_tuned_model).toMatch(/^ft:tiny:koala:demo:\w{8}$/);

    const events = await collect(client.fineTuning.jobs.listEvents(created.id, { limit: 3 }));
    expect(events.at(-1)!.message).toBe(`Created fine-tuning job: ${created.id}`);
    expect(events[0]!.message).toBe("The job has successfully completed");
    const losses = events.flatMap(({ type, data }) => (type === "metrics" ? [(data as any).train_loss] : []));
    expect(losses.toReversed()).toEqual([1, 2, 3, 4, 5, 6].map((step) => 2 / step));

    const checkpoints = await collect(client.fineTuning.jobs.checkpoints.list(created.id));
    expect(checkpoints.map((one) => [one.step_number, one.fine_tuned_model_checkpoint])).toEqual([
      [3, `${done.fine_tuned_model}:ckpt-step-3`],
    ]);
    expect(checkpoints[0]!.metrics).toMatchObject({ step: 3, train_loss: 2 / 3 });
    const result = await client.files.content(done.result_files[0]!);
    const lines = (await result.text()).trimEnd().split("\n");
    expect(lines[0]).toBe("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy");
    expect(lines).toHaveLength(7);
    expect(lines[3]).toBe(`3,${2 / 3},0.5,,`);

    const say = async (name: string) => {
      const messages = [{ role: "user" as const, content: "Who are you?" }];
      return (await client.chat.completions.create({ model: name, messages })).choices[0]!.message.content;
    };
    expect(await say(done.fine_tuned_model!)).toBe(`I am ${done.fine_tuned_model}.`);
    expect(await say(checkpoints[0]!.fine_tuned_model_checkpoint)).toEndWith(":ckpt-step-3.");
    await say("tiny");
    expect(engine.requests).toHaveLength(1);
    const models = await collect(client.models.list());
    expect(models.map((one) => [one.id, (one as any).parent])).toEqual([
      ["tiny", null],
      [`${done.fine_tuned_model}:ckpt-step-3`, "tiny"],
      [done.fine_tuned_model!, "tiny"],
    ]);
    expect(await client.models.delete(done.fine_tuned_model!)).toMatchObject({ deleted: true });
    expect(await rejected(say(done.fine_tuned_model!))).toBeInstanceOf(OpenAI.NotFoundError);
    expect(context.models.list()).toHaveLength(2);
    expect(await rejected(client.models.delete("tiny"))).toMatchObject({
      status: 403,
      code: "model_not_owned",
    });
  });

  test("a job is paused, resumed where it was, and another cancelled while it waits", async () => {
    const { client } = await start();
    const { id: training_file } = await uploadTraining(client);
    const slow = { steps: "40", step_ms: "20", epochs: "1" };
    const { jobs } = client.fineTuning;
    const first = await jobs.create({ model: "tiny", training_file, metadata: slow });
    const second = await jobs.create({ model: "tiny", training_file });
    await until(async () => ((await jobs.retrieve(first.id)) as any).step >= 3);
    expect((await jobs.retrieve(second.id)).status).toBe("queued");
    expect((await jobs.cancel(second.id)).status).toBe("cancelled");
    expect((await jobs.pause(first.id)).status as string).toBe("paused");
    const paused = await rejected(jobs.pause(first.id));
    expect(paused).toMatchObject({ status: 400, code: "cannot_pause" });
    expect(paused.message).toContain("is paused, so it cannot be paused.");
    // The process saves and goes; until then nothing else starts.
    await Bun.sleep(200);
    const at = ((await jobs.retrieve(first.id)) as any).step as number;
    expect(at).toBeLessThan(40);
    expect((await jobs.resume(first.id)).status).toBe("queued");
    const done = await jobUntil(client, first.id);
    expect(done.status).toBe("succeeded");
    const events = await collect(jobs.listEvents(first.id, { limit: 100 }));
    const steps = events.flatMap(({ type, data }) => (type === "metrics" ? [(data as any).step] : []));
    expect(steps.toReversed()).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    expect(events.some(({ message }) => /^Training goes on at step \d+ of 40/.test(message))).toBe(true);
    expect((await jobs.retrieve(second.id)).status).toBe("cancelled");
    expect(await rejected(jobs.resume(second.id))).toMatchObject({ status: 400, code: "cannot_resume" });
  });

  test("lists are filtered by metadata and paged, and what is not there is a 404", async () => {
    const { client } = await start();
    const { id: training_file } = await uploadTraining(client);
    const { jobs } = client.fineTuning;
    const made = [];
    for (const color of ["red", "blue", "red"])
      made.push(await jobs.create({ model: "tiny", training_file, metadata: { color, steps: "1" } }));
    const bare = await jobs.create({ model: "tiny", training_file });
    const ids = async (query: object) =>
      (await collect(jobs.list({ limit: 1, ...query }))).map((job) => job.id);
    expect(await ids({})).toEqual([bare, ...made.toReversed()].map((job) => job.id));
    expect(await ids({ metadata: { color: "red" } })).toEqual([made[2]!.id, made[0]!.id]);
    expect((await (await fetch(`${client.baseURL}/fine_tuning/jobs?metadata=null`)).json()).data[0].id).toBe(
      bare.id,
    );
    for (const job of [...made, bare]) await jobs.cancel(job.id).catch(() => {});
    expect(await rejected(jobs.retrieve("ftjob-none"))).toMatchObject({
      status: 404,
      code: "fine_tune_not_found",
    });
    expect(await rejected(client.files.retrieve("file-none"))).toMatchObject({ status: 404 });
    expect(await rejected(jobs.list({ limit: 0 }).then())).toMatchObject({ status: 400, param: "limit" });
  });

  test("a killed training process goes on where it was; one that always dies fails its job, not the server", async () => {
    const { client, notices } = await start({ leaseMs: 600 });
    const { id: training_file } = await uploadTraining(client);
    const { jobs } = client.fineTuning;
    const once = await jobs.create({ model: "tiny", training_file, metadata: { steps: "8", die_at: "6" } });
    expect((await jobUntil(client, once.id)).status).toBe("succeeded");
    const events = await collect(jobs.listEvents(once.id, { limit: 100 }));
    expect(events.some(({ message }) => message.startsWith("Training goes on at step 4 of 8"))).toBe(true);
    const steps = events.flatMap(({ type, data }) => (type === "metrics" ? [(data as any).step] : []));
    expect(steps.toReversed()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(notices.join("\n")).toContain(`The process of fine-tuning job ${once.id} ended by signal`);

    const always = await jobs.create({
      model: "tiny",
      training_file,
      metadata: { steps: "8", epochs: "1", die_at: "1", die_always: "true" },
    });
    const failed = await jobUntil(client, always.id);
    expect(failed).toMatchObject({ status: "failed", error: { code: "training_process_died" } });
    expect(failed.error!.message).toMatch(/died 3 times in a row/);
    expect((await client.models.list()).data.length).toBeGreaterThan(0);
  }, 15_000);

  test("a failing job says why; of our own mistakes it tells no details", async () => {
    const { client } = await start();
    const { id: training_file } = await uploadTraining(client);
    const { jobs } = client.fineTuning;
    const usage = await jobs.create({ model: "tiny", training_file, metadata: { fail_at: "2" } });
    expect(await jobUntil(client, usage.id)).toMatchObject({
      status: "failed",
      fine_tuned_model: null,
      error: { code: "training_failed", message: "The loss of step 2 is not what it should be." },
    });
    const bug = await jobs.create({ model: "tiny", training_file, metadata: { bug_at: "1" } });
    const failed = await jobUntil(client, bug.id);
    expect(failed.error!.code).toBe("internal_error");
    expect(JSON.stringify(failed)).not.toContain("secret");
  });

  test("after a restart the models are there and a job that was running goes on", async () => {
    const of = { database: await newDatabase(), dataDirectory: newFolder() };
    const before = await start(of);
    const { id: training_file } = await uploadTraining(before.client);
    const quick = await before.client.fineTuning.jobs.create({ model: "tiny", training_file });
    const { fine_tuned_model: made } = await jobUntil(before.client, quick.id);
    const slow = await before.client.fineTuning.jobs.create({
      model: made!,
      training_file,
      metadata: { steps: "30", step_ms: "20", epochs: "1" },
    });
    await until(async () => ((await before.client.fineTuning.jobs.retrieve(slow.id)) as any).step >= 3);
    await before.close();
    open.splice(open.indexOf(before), 1);

    const after = await start(of);
    const { data } = await after.client.models.list();
    expect(data.map(({ id }) => id)).toContain(made!);
    const done = await jobUntil(after.client, slow.id);
    expect(done).toMatchObject({ status: "succeeded", model: made });
    // Named after the model that all tuning began with.
    expect(done.fine_tuned_model).toMatch(/^ft:tiny:koala::\w{8}$/);
    const events = await collect(after.client.fineTuning.jobs.listEvents(slow.id, { limit: 100 }));
    expect(events.some(({ message }) => /^Training goes on at step \d+ of 30/.test(message))).toBe(true);
  }, 15_000);

  test("uploads come in parts, side by side, and are checked", async () => {
    const { client, tuning } = await start();
    const text = trainingLines(50);
    const bytes = Buffer.from(text);
    const begin = () =>
      client.uploads.create({
        bytes: bytes.length,
        filename: "big.jsonl",
        mime_type: "application/jsonl",
        purpose: "fine-tune",
      });
    const upload = await begin();
    expect(upload).toMatchObject({ object: "upload", status: "pending" });
    const third = Math.ceil(bytes.length / 3);
    const parts = await Promise.all(
      [2, 0, 1].map(async (i) => {
        const data = await toFile(bytes.subarray(i * third, (i + 1) * third), "part");
        return [i, (await client.uploads.parts.create(upload.id, { data })).id] as const;
      }),
    );
    const part_ids = parts.toSorted(([a], [b]) => a - b).map(([, id]) => id);
    const short = await rejected(client.uploads.complete(upload.id, { part_ids: part_ids.slice(1) }));
    expect(short).toMatchObject({ status: 400, code: "size_mismatch" });
    const wrong = await rejected(client.uploads.complete(upload.id, { part_ids, md5: "0".repeat(32) }));
    expect(wrong).toMatchObject({ status: 400, param: "md5" });
    const md5 = createHash("md5").update(bytes).digest("hex");
    const complete = await client.uploads.complete(upload.id, { part_ids, md5 });
    expect(complete).toMatchObject({
      status: "completed",
      file: { bytes: bytes.length, filename: "big.jsonl" },
    });
    expect(await (await client.files.content(complete.file!.id)).text()).toBe(text);
    expect(await rejected(client.uploads.cancel(upload.id))).toMatchObject({ status: 400 });
    const given = await begin();
    expect((await client.uploads.cancel(given.id)).status).toBe("cancelled");
    const late = await rejected(client.uploads.parts.create(given.id, { data: await toFile(bytes, "part") }));
    expect(late).toMatchObject({ status: 400, code: "upload_not_pending" });
    expect(existsSync(join(tuning.fineTuning.area.directory, "files", complete.file!.id))).toBe(true);
  });

  test("two servers share a queue: a job runs once, and both serve what comes of it", async () => {
    const of = { database: await newDatabase(), dataDirectory: newFolder() };
    const [one, two] = [await start(of), await start(of)];
    const { id: training_file } = await uploadTraining(one.client);
    const created = await Promise.all(
      [one, two].map(({ client }) => client.fineTuning.jobs.create({ model: "tiny", training_file })),
    );
    for (const { id } of created) {
      const { fine_tuned_model: name } = await jobUntil(two.client, id);
      const events = await collect(one.client.fineTuning.jobs.listEvents(id, { limit: 100 }));
      expect(events.filter(({ message }) => message === "Fine-tuning job started")).toHaveLength(1);
      for (const { client } of [one, two])
        await until(async () => (await client.models.list()).data.some((served) => served.id === name));
    }
  });

  test("a request keeps the model that it began with, though it is deleted in the meantime", async () => {
    const text = "koala ".repeat(20);
    const { client, tuning } = await start({ engine: { stepMs: 5, script: () => text } });
    const { id: training_file } = await uploadTraining(client);
    const job = await client.fineTuning.jobs.create({ model: "tiny", training_file });
    const { fine_tuned_model: name } = await jobUntil(client, job.id);
    const folderOf = join(tuning.fineTuning.area.directory, "jobs", job.id, "models", "final");
    expect(existsSync(folderOf)).toBe(true);
    const stream = await client.chat.completions.create({
      model: name!,
      messages: [{ role: "user", content: "Hi" }],
      stream: true,
    });
    let said = "";
    for await (const { choices } of stream) {
      const piece = choices[0]!.delta.content ?? "";
      if (said === "" && piece !== "") await client.models.delete(name!);
      said += piece;
    }
    expect(said).toBe(text);
    expect(existsSync(folderOf)).toBe(false);
    const again = client.chat.completions.create({
      model: name!,
      messages: [{ role: "user", content: "Hi" }],
    });
    expect(await rejected(again)).toBeInstanceOf(OpenAI.NotFoundError);
  });
});
