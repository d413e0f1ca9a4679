/** Files that do not fit: the quota of the operator, a full disk, and a limit of the system. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { toFile } from "openai";
import { size } from "../../src/cli/model_options.ts";
import { usedBytes } from "../../src/server/storage_quota.ts";
import { startKoala } from "../support/koala_process.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";
import { jobUntil, trainableTemplate, trainingLines, tuningServer } from "../support/tuning_server.ts";

const folder = temporaryFolder("storage");
const model = await makeTinyModel(join(folder, "base"), { chatTemplate: trainableTemplate });

const upload = async (client: OpenAI, bytes: number | string) => {
  const text = typeof bytes === "string" ? bytes : "x".repeat(bytes);
  return client.files.create({ file: await toFile(Buffer.from(text), "a.jsonl"), purpose: "fine-tune" });
};
const refusal = async (promise: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> =>
  promise.then(
    () => expect.unreachable("it should have been refused"),
    (error) => error,
  );

describe("--max-storage", async () => {
  const dataDirectory = join(folder, "quota");
  const server = await tuningServer({
    database: join(folder, "quota.db"),
    dataDirectory,
    model,
    storageMax: 100_000,
  });
  afterAll(() => server.close());
  const { client } = server;

  test("counts files, parts and jobs, and a refusal names what is used and allowed", async () => {
    const first = await upload(client, 60_000);
    const error = await refusal(upload(client, 60_000));
    expect(error).toMatchObject({
      status: 413,
      code: "storage_quota_exceeded",
      type: "invalid_request_error",
    });
    expect(error.message).toContain("60000 of 100000 bytes (58.6 KiB of 97.7 KiB) are used");
    expect(readdirSync(join(dataDirectory, "files"))).toEqual([first.id]);
    mkdirSync(join(dataDirectory, "jobs", "x"), { recursive: true });
    writeFileSync(join(dataDirectory, "jobs", "x", "weights"), Buffer.alloc(39_999));
    expect(await usedBytes(dataDirectory)).toBe(99_999);
    await refusal(upload(client, 2));
    await client.files.delete((await upload(client, 1)).id);
    rmSync(join(dataDirectory, "jobs"), { recursive: true });
    await client.files.delete(first.id);
  });

  test("holds for uploads side by side, and for parts, which become a file without counting twice", async () => {
    const both = await Promise.allSettled([upload(client, 60_000), upload(client, 60_000)]);
    const kept = both.flatMap((one) => (one.status === "fulfilled" ? [one.value.id] : []));
    expect(kept.length).toBeLessThan(2);
    for (const id of kept) await client.files.delete(id);
    const bytes = Buffer.from("y".repeat(40_000));
    const parted = await client.uploads.create({
      bytes: 80_000,
      filename: "b.jsonl",
      mime_type: "application/jsonl",
      purpose: "fine-tune",
    });
    const part_ids = [];
    for (let i = 0; i < 2; i++)
      part_ids.push((await client.uploads.parts.create(parted.id, { data: await toFile(bytes, "part") })).id);
    const third = refusal(client.uploads.parts.create(parted.id, { data: await toFile(bytes, "part") }));
    expect(await third).toMatchObject({ status: 413 });
    const { file } = await client.uploads.complete(parted.id, { part_ids });
    expect(file!.bytes).toBe(80_000);
    expect(await usedBytes(dataDirectory)).toBe(80_000);
    await client.files.delete(file!.id);
  });

  test("fails a job whose model would not fit before it trains", async () => {
    const { id: training_file } = await upload(client, trainingLines(4));
    const { id } = await client.fineTuning.jobs.create({ model: "tiny", training_file });
    const job = await jobUntil(client, id);
    expect(job).toMatchObject({ status: "failed", error: { code: "storage_quota_exceeded" } });
    // 160,064 parameters in float32.
    expect(job.error!.message).toMatch(/^The finished model has 640256 bytes, and \d+ of the 100000 bytes/);
  });

  test("pauses a job whose epochs leave no room for the finished model; with more room it goes on", async () => {
    const of = { database: join(folder, "epochs.db"), dataDirectory: join(folder, "epochs"), model };
    const narrow = await tuningServer({ ...of, storageMax: 1_000_000 });
    const { id: training_file } = await upload(narrow.client, trainingLines(4));
    const { id } = await narrow.client.fineTuning.jobs.create({
      model: "tiny",
      training_file,
      metadata: { steps: "40", epochs: "20", step_ms: "50" },
    });
    const paused = await jobUntil(narrow.client, id, ["paused", "succeeded", "failed"]);
    expect(paused).toMatchObject({ status: "paused", error: null });
    const { data: events } = await narrow.client.fineTuning.jobs.listEvents(id, { limit: 100 });
    const warning = events.find(({ level }) => level === "warn")!.message;
    expect(warning).toMatch(
      /^The finished model has 640256 bytes, and \d+ of the 1000000 .* resume this job\.$/,
    );
    await narrow.close();
    const wide = await tuningServer({ ...of, storageMax: 10_000_000 });
    await wide.client.fineTuning.jobs.resume(id);
    expect(await jobUntil(wide.client, id)).toMatchObject({ status: "succeeded", error: null });
    await wide.close();
  });

  test.each([
    ["1", 1],
    ["500MB", 5e8],
    ["1.5 KiB", 1536],
    ["2T", 2e12],
    ["3GiB", 3 * 2 ** 30],
  ])("reads %s", (text, bytes) => {
    expect(size(text)).toBe(bytes);
  });
  test.each(["", "0", "-1", "many", "1PB", "1e3"])("refuses %p", (text) => {
    expect(() => size(text)).toThrow(/as 500MB, 20GB or 2TiB/);
  });
});

/** Fills what is there, sees 507 and no half file, makes room, and goes on. */
async function fillAndGoOn(client: OpenAI, dataDirectory: string, code: string): Promise<void> {
  const small = await upload(client, 200_000);
  const error = await refusal(upload(client, 2_000_000));
  expect(error).toMatchObject({ status: 507, code: "no_space", type: "server_error" });
  expect(error.message).toContain(
    `There is no space left for this file on the server (${code}); nothing of it was kept.`,
  );
  expect(readdirSync(join(dataDirectory, "files"))).toEqual([small.id]);
  expect((await client.files.list()).data.map(({ id }) => id)).toEqual([small.id]);
  const parted = await client.uploads.create({
    bytes: 2_000_000,
    filename: "b.jsonl",
    mime_type: "application/jsonl",
    purpose: "fine-tune",
  });
  const part = refusal(
    client.uploads.parts.create(parted.id, { data: await toFile(Buffer.alloc(2_000_000), "part") }),
  );
  expect(await part).toMatchObject({ status: 507 });
  expect(readdirSync(join(dataDirectory, "parts"))).toEqual([]);
  await client.files.delete(small.id);
  expect((await upload(client, 300_000)).bytes).toBe(300_000);
}

const disk = join(folder, "disk");
mkdirSync(disk);
const mounted =
  process.platform === "linux" &&
  Bun.spawnSync(["sh", "-c", `mount -t tmpfs -o size=1m tmpfs '${disk}' 2>&1`]).success;

describe.skipIf(!mounted)("a full disk (skipped where no small one can be mounted)", () => {
  afterAll(() => {
    Bun.spawnSync(["umount", "-l", disk]);
  });

  test("is a 507 in one sentence, without a half file, and the server goes on", async () => {
    const server = await tuningServer({
      database: join(folder, "disk.db"),
      dataDirectory: join(disk, "data"),
      model,
    });
    await fillAndGoOn(server.client, join(disk, "data"), "ENOSPC");
    await server.close();
  });
});

describe.skipIf(Bun.which("prlimit") === null)(
  "a limit on the size of files (skipped without prlimit)",
  () => {
    test("is a 507, too", async () => {
      const dataDirectory = join(folder, "limited");
      const server = await startKoala(["--model", model, "--threads", "1", "--data-dir", dataDirectory]);
      try {
        Bun.spawnSync(["prlimit", "--pid", String(server.process.pid), "--fsize=1000000"]);
        const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
        await fillAndGoOn(client, dataDirectory, "EFBIG");
      } finally {
        await server.stop();
      }
    });
  },
);
