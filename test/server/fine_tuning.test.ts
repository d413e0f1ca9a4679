/** What files, uploads and jobs refuse, in OpenAI's error shape, and what a stranger's form must not do. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { toFile } from "openai";
import { temporaryFolder } from "../support/temporary.ts";
import { testServer } from "../support/test_server.ts";
import { makeTinyModel } from "../support/tiny_model.ts";
import {
  jobUntil,
  trainableTemplate,
  trainingLines,
  tuningServer,
  type TuningServer,
  uploadTraining,
} from "../support/tuning_server.ts";

const folder = temporaryFolder("fine-tuning");
let server: TuningServer;
let good: string;

beforeAll(async () => {
  const model = await makeTinyModel(join(folder, "base"), { chatTemplate: trainableTemplate });
  server = await tuningServer({
    database: join(folder, "koala.db"),
    dataDirectory: join(folder, "data"),
    model,
    ranksMax: 2,
  });
  good = (await uploadTraining(server.client)).id;
});
afterAll(() => server.close());

const url = (path: string): string => `${server.running.url}${path}`;
const post = (path: string, body: unknown) =>
  fetch(url(path), { method: "POST", body: JSON.stringify(body) });

async function refused(
  response: Response,
  status: number,
): Promise<{ message: string; param: string | null; code: string }> {
  const body = (await response.json()) as {
    error: { message: string; type: string; param: string | null; code: string };
  };
  expect(response.status).toBe(status);
  expect(Object.keys(body)).toEqual(["error"]);
  expect(Object.keys(body.error).sort()).toEqual(["code", "message", "param", "type"]);
  return body.error;
}

const create = (more: object) =>
  post("/v1/fine_tuning/jobs", { model: "tiny", training_file: good, ...more });
const createWith = async (text: string, more: object = {}) =>
  create({ training_file: (await uploadTraining(server.client, text)).id, ...more });

/** The error of a job whose file is found to be wrong when it is read. */
async function faultOf(created: Response): Promise<{ code: string; message: string; param: string | null }> {
  expect(created.status).toBe(200);
  const { id, status } = (await created.json()) as { id: string; status: string };
  expect(status).toBe("validating_files");
  const job = await jobUntil(server.client, id);
  expect(job).toMatchObject({ status: "failed", fine_tuned_model: null, finished_at: expect.any(Number) });
  const [last] = (await server.client.fineTuning.jobs.listEvents(id)).data;
  expect(last).toMatchObject({ level: "error", message: job.error!.message });
  return job.error!;
}

const line = (messages: unknown) => `${JSON.stringify({ messages })}\n`;
const user = { role: "user", content: "Hi" };
const assistant = { role: "assistant", content: "Hello." };

describe("training data that fails its job", () => {
  test.each([
    ["no JSON", `${trainingLines(2)}{"messages": [oops\n`, /^train\.jsonl line 3: malformed JSON/],
    ["no object", `${trainingLines(1)}42\n`, /^train\.jsonl line 2: the line is no JSON object/],
    [
      "no messages",
      `${trainingLines(1)}{"text": "x"}\n`,
      /^train\.jsonl line 2: messages is not a list of messages/,
    ],
    [
      "a wrong role",
      line([user, { role: "robot", content: "x" }]),
      /^train\.jsonl line 1: messages has the role "robot", which is none of system, /,
    ],
    ["no answer", line([user]), /^train\.jsonl line 1: the conversation has no answer/],
    ["content that is no text", line([user, { role: "assistant", content: 7 }]), /content that is not text/],
    ["a wrong weight", line([user, { ...assistant, weight: 2 }]), /weight that is not from 0 to 1/],
    [
      "a weighted question",
      line([{ ...user, weight: 1 }, assistant]),
      /weight on a message that is no answer/,
    ],
    ["nothing", "", /is empty: it holds no records/],
    ["nothing but blank lines", "\n\n \n", /is empty/],
    [
      "no UTF-8",
      Buffer.from([...Buffer.from(trainingLines(1)), 0xff, 0xfe, 0x0a]) as never,
      /line 2: the bytes are not UTF-8/,
    ],
  ])("%s", async (_, text, reason) => {
    const error = await faultOf(await createWith(text as string));
    expect(error).toMatchObject({ param: "training_file", code: "invalid_training_file" });
    expect(error.message).toMatch(reason);
  });

  test("a request that is refused leaves nothing behind", async () => {
    const jobs = join(folder, "data", "jobs");
    const before = readdirSync(jobs);
    await refused(await create({ metadata: { koala_ranks: "3" } }), 400);
    await refused(await create({ validation_file: "file-none" }), 400);
    expect(readdirSync(jobs)).toEqual(before);
  });

  test("a validation file is read, too, and named", async () => {
    const { id: validation_file } = await uploadTraining(server.client, "{}\n", "held-out.jsonl");
    const error = await faultOf(await create({ validation_file }));
    expect(error).toMatchObject({ code: "invalid_training_file", param: "validation_file" });
    expect(error.message).toMatch(/^held-out\.jsonl line 1: messages is not a list/);
  });

  test("pairs where dialogues are asked for, and the reverse", async () => {
    const pair = `${JSON.stringify({ input: { messages: [user] }, preferred_output: [assistant], non_preferred_output: [{ role: "assistant", content: "No." }] })}\n`;
    expect((await faultOf(await createWith(pair))).message).toMatch(/line 1: messages is not a list/);
    const dpo = await faultOf(await create({ method: { type: "dpo" } }));
    expect(dpo.message).toMatch(/^train\.jsonl line 1: input is missing/);
    expect((await refused(await create({ validation_file: "file-none" }), 400)).param).toBe(
      "validation_file",
    );
  });

  test("dialogues that are longer than a row, with the setting that would allow them", async () => {
    const long = line([{ ...user, content: "x".repeat(40) }, assistant]);
    const error = await faultOf(await createWith(long, { metadata: { koala_sequence_length: "16" } }));
    expect(error).toMatchObject({ param: "training_file", code: "invalid_training_file" });
    expect(error.message).toMatch(
      /^The data is refused: too-long \(1 x, train\.jsonl line 1\): .* by name \(metadata\.koala_allow = "too-long"\)\.$/,
    );
  });

  test("dialogues without labels where kto asks for them", async () => {
    const kto = await faultOf(await create({ method: { type: "dpo" }, metadata: { koala_loss: "kto" } }));
    expect(kto.message).toMatch(
      /^train\.jsonl line 1: the record is neither an answer with a label nor a pair/,
    );
    const lost = await refused(await create({ metadata: { koala_loss: "kto" } }), 400);
    expect(lost).toMatchObject({
      param: "metadata.koala_loss",
      message: "metadata.koala_loss belongs to method dpo, whose beta it takes.",
    });
  });

  test("a file of another purpose, or none", async () => {
    const other = await server.client.files.create({
      file: await toFile(Buffer.from("{}"), "x.jsonl"),
      purpose: "batch",
    });
    expect((await refused(await create({ training_file: other.id }), 400)).message).toContain(
      "purpose batch",
    );
    const none = await refused(await create({ training_file: "file-none" }), 400);
    expect(none).toMatchObject({
      param: "training_file",
      message: "training_file file-none does not exist.",
    });
  });
});

describe("jobs that are refused", () => {
  const hyper = (values: object) => ({
    method: { type: "supervised", supervised: { hyperparameters: values } },
  });
  test.each([
    [{ model: "nobody" }, "model", /"nobody" does not exist here/],
    [{ model: undefined }, "model", /required/],
    [{ training_file: undefined }, "training_file", /required/],
    [{ method: { type: "reinforcement", reinforcement: {} } }, "method.type", /not supported/],
    [{ method: { type: "magic" } }, "method.type", /must be/],
    [hyper({ n_epochs: 51 }), "method.supervised.hyperparameters.n_epochs", /at most 50, but is 51/],
    [hyper({ n_epochs: 0 }), "method.supervised.hyperparameters.n_epochs", /at least 1/],
    [
      hyper({ n_epochs: 1.5 }),
      "method.supervised.hyperparameters.n_epochs",
      /must be a string or an integer, but is 1.5/,
    ],
    [hyper({ n_epochs: "many" }), "method.supervised.hyperparameters.n_epochs", /must be a number or "auto"/],
    [hyper({ batch_size: 257 }), "method.supervised.hyperparameters.batch_size", /at most 256/],
    [
      hyper({ learning_rate_multiplier: 0 }),
      "method.supervised.hyperparameters.learning_rate_multiplier",
      /more than 0/,
    ],
    [hyper({ beta: 1 }), "method.supervised.hyperparameters.beta", /Unknown parameter/],
    [
      { method: { type: "dpo", dpo: { hyperparameters: { beta: 3 } } } },
      "method.dpo.hyperparameters.beta",
      /at most 2/,
    ],
    [{ suffix: "a:b" }, "suffix", /letters, digits, - and _, at most 64/],
    [{ suffix: "x".repeat(65) }, "suffix", /letters, digits, - and _, at most 64/],
    [{ seed: -1 }, "seed", /at least 0/],
    [{ integrations: [{ type: "wandb" }] }, "integrations", /must be empty/],
    [{ metadata: { koala_magic: "1" } }, "metadata.koala_magic", /is not known; known are koala_method/],
    [
      { metadata: { koala_sequence_length: "many" } },
      "metadata.koala_sequence_length",
      /whole number from 16/,
    ],
    [{ metadata: { koala_lora_rank: "8" } }, "metadata.koala_lora_rank", /needs koala_method lora/],
    [
      { metadata: { koala_ranks: "3" } },
      "metadata.koala_ranks",
      /is 3, but this server trains a job on at most 2: .* --training-ranks/,
    ],
    [{ metadata: { koala_ranks: "0" } }, "metadata.koala_ranks", /whole number from 1 to 8/],
    [{ metadata: { koala_markers: "true" } }, "metadata.koala_markers", /needs koala_template koala/],
    [
      { metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, "v"])) },
      "metadata",
      /at most 16 pairs/,
    ],
    [{ magic: 1 }, "magic", /Unknown parameter/],
  ])("%j", async (change, param, reason) => {
    const error = await refused(await create(change), 400);
    expect(error.param).toBe(param as string);
    expect(error.message).toMatch(reason as RegExp);
  });

  test("null is not set, and the deprecated place of hyperparameters is read", async () => {
    const job = await (
      await create({
        suffix: null,
        seed: null,
        metadata: null,
        hyperparameters: { n_epochs: 7, batch_size: null },
      })
    ).json();
    expect(job).toMatchObject({
      user_provided_suffix: null,
      metadata: null,
      hyperparameters: { n_epochs: 7, batch_size: "auto" },
      method: { type: "supervised" },
    });
    // Without a body, without a type: as the official clients send it.
    const cancelled = await fetch(url(`/v1/fine_tuning/jobs/${job.id}/cancel`), { method: "POST" });
    expect(await cancelled.json()).toMatchObject({ id: job.id, status: "cancelled" });
  });

  test("dialogues for a model without a chat template, unless the job names one", async () => {
    server.context.models.add({ ...server.model, id: "bare", aliases: [], template: null });
    const error = await refused(await create({ model: "bare" }), 400);
    expect(error).toMatchObject({ param: "metadata.koala_template", code: "no_chat_template" });
    const job = await (await create({ model: "bare", metadata: { koala_template: "koala" } })).json();
    expect(job.status).toBe("validating_files");
    await server.client.fineTuning.jobs.cancel(job.id);
  });

  test("a server without a data directory says what is missing", async () => {
    const { get, post: send } = testServer();
    for (const response of [
      await get("/v1/files"),
      await send("/v1/fine_tuning/jobs", { model: "tiny", training_file: "x" }),
    ])
      expect((await refused(response, 501)).message).toContain("--data-dir");
  });
});

describe("a form with a file", () => {
  const boundary = "----edge";
  const part = (headers: string, body: string) => `--${boundary}\r\n${headers}\r\n\r\n${body}\r\n`;
  const field = (name: string, value: string) =>
    part(`Content-Disposition: form-data; name="${name}"`, value);
  const file = (name: string, body: string) =>
    part(`Content-Disposition: form-data; name="file"; filename="${name}"\r\nContent-Type: text/plain`, body);
  const send = (body: string | ReadableStream, type = `multipart/form-data; boundary=${boundary}`) =>
    fetch(url("/v1/files"), { method: "POST", body, headers: { "content-type": type } });
  const end = `--${boundary}--\r\n`;
  const purpose = field("purpose", "fine-tune");

  test("comes in any order and in pieces of any size, boundaries inside the text included", async () => {
    const text = `first\r\n--${boundary.slice(0, -1)}x\r\n\r\n--\r\n`;
    for (const body of [purpose + file("a.jsonl", text), file("a.jsonl", text) + purpose])
      for (const size of [1, 7, 10_000]) {
        const whole = Buffer.from(`preamble\r\n${body}${end}`);
        let at = 0;
        const stream = new ReadableStream({
          pull(controller) {
            if (at >= whole.length) return controller.close();
            controller.enqueue(whole.subarray(at, (at += size)));
          },
        });
        const made = await (await send(stream)).json();
        expect(made).toMatchObject({ object: "file", bytes: text.length, filename: "a.jsonl" });
        expect(await (await fetch(url(`/v1/files/${made.id}/content`))).text()).toBe(text);
      }
  });

  test.each([
    ["no form", "{}", "application/json", /multipart\/form-data/],
    ["no last boundary", purpose + file("a.jsonl", "x"), undefined, /ends before its last boundary/],
    ["no file", purpose + end, undefined, /file is required/],
    ["no purpose", file("a.jsonl", "x") + end, undefined, /purpose is required/],
    [
      "two files",
      file("a.jsonl", "x") + file("a.jsonl", "x") + purpose + end,
      undefined,
      /more than one file/,
    ],
    ["a wrong purpose", file("a.jsonl", "x") + field("purpose", "fun") + end, undefined, /purpose must be/],
    [
      "a result of the server's own",
      file("a.csv", "x") + field("purpose", "fine-tune-results") + end,
      undefined,
      /purpose must be/,
    ],
    ["no .jsonl", file("a.txt", "x") + purpose + end, undefined, /must be a \.jsonl file/],
    ["a path as name", file("../../a.jsonl", "x") + purpose + end, undefined, /without slashes/],
    [
      "an unknown field",
      file("a.jsonl", "x") + purpose + field("color", "red") + end,
      undefined,
      /Unknown parameter: color/,
    ],
    [
      "too short a life",
      file("a.jsonl", "x") +
        purpose +
        field("expires_after[anchor]", "created_at") +
        field("expires_after[seconds]", "60") +
        end,
      undefined,
      /at least 3600/,
    ],
    ["headers without end", `--${boundary}\r\n${"x".repeat(20_000)}`, undefined, /longer than 16384 bytes/],
    ["fields without end", field("a", "b").repeat(40), undefined, /more than 32 fields/],
    [
      "__proto__",
      file("a.jsonl", "x") + purpose + field("__proto__", "x") + end,
      undefined,
      /Unknown parameter/,
    ],
  ])("%s is refused", async (_, body, type, reason) => {
    expect((await refused(await send(body, type), 400)).message).toMatch(reason);
  });

  test("lives as long as it was asked to, and no broken upload stays on disk", async () => {
    const form =
      file("a.jsonl", "x") +
      purpose +
      field("expires_after[anchor]", "created_at") +
      field("expires_after[seconds]", "3600");
    const made = await (await send(form + end)).json();
    expect(made.expires_at - made.created_at).toBe(3600);
    const { data } = await (await fetch(url("/v1/files?limit=10000"))).json();
    const known = data.map((one: { id: string }) => one.id);
    expect(readdirSync(join(folder, "data", "files")).toSorted()).toEqual(known.toSorted());
  });

  test("streams to disk: 320 MB arrive in much less memory, and one byte more than allowed is a 413", async () => {
    const piece = Buffer.alloc(2 ** 20, "a");
    const body = (megabytes: number) => {
      let left = megabytes;
      return new ReadableStream({
        start: (controller) => controller.enqueue(Buffer.from(purpose + file("a.jsonl", "").slice(0, -2))),
        pull(controller) {
          if (left-- > 0) return controller.enqueue(piece);
          controller.enqueue(Buffer.from(`\r\n${end}`));
          controller.close();
        },
      });
    };
    Bun.gc(true);
    const before = process.memoryUsage().rss;
    const made = await (await send(body(320))).json();
    expect(made.bytes).toBe(320 * 2 ** 20);
    expect(process.memoryUsage().rss - before).toBeLessThan(160 * 2 ** 20);
    await fetch(url(`/v1/files/${made.id}`), { method: "DELETE" });
    server.context.limits.uploadBytesMax = 2 ** 20;
    const error = await refused(await send(body(1).pipeThrough(oneMore())), 413);
    expect(error).toMatchObject({ param: "file", code: "file_too_large" });
    server.context.limits.uploadBytesMax = 512 * 2 ** 20;
  });

  /** One byte into the file. */
  const oneMore = () => {
    let count = 0;
    return new TransformStream<Uint8Array, Uint8Array>({
      transform(piece, controller) {
        controller.enqueue(piece);
        if (count++ === 0) controller.enqueue(Buffer.from("b"));
      },
    });
  };
});
