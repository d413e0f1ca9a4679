/** Fetching models: what arrives is what the hub listed, whatever breaks on the way; and the token stays at home. */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { downloadFile } from "../../src/model/download.ts";
import { fetchModel, type FetchOptions, type FetchProgress, isModelName } from "../../src/model/hub.ts";
import { UsageError } from "../../src/util/errors.ts";
import { type HubFile, StandInHub } from "../support/stand_in_hub.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = temporaryFolder("hub");
const running: StandInHub[] = [];
afterEach(async () => {
  for (const hub of running.splice(0)) await hub.stop();
});

const weights = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 255);
const json = (value: unknown): HubFile => ({ bytes: Buffer.from(JSON.stringify(value)), lfs: false });
const singleModel = (): Record<string, HubFile> => ({
  ".gitattributes": json({}),
  "README.md": json({}),
  "config.json": json({ model_type: "llama" }),
  "tokenizer.json": { bytes: Buffer.from('{"version":"1.0"}'), lfs: true },
  "model.safetensors": { bytes: weights, lfs: true },
  "pytorch_model.bin": { bytes: Buffer.from("pickle"), lfs: true },
  "onnx/model.onnx": { bytes: Buffer.from("onnx"), lfs: true },
  "original/consolidated.00.pth": { bytes: Buffer.from("pickle"), lfs: true },
});

function newHub(files = singleModel(), model = "org/tiny-model"): StandInHub {
  const hub = new StandInHub(model, files);
  running.push(hub);
  return hub;
}

const newCache = () => mkdtempSync(join(root, "cache-"));

function fetchFrom(hub: StandInHub, options: FetchOptions = {}, name = hub.model): Promise<string> {
  return fetchModel(name, {
    endpoint: hub.endpoint,
    token: null,
    retryDelayMs: 1,
    cacheDirectory: newCache(),
    onNotice: () => {},
    ...options,
  });
}

async function refusal(fetching: Promise<string>): Promise<string> {
  const outcome = await fetching.catch((error: unknown) => error);
  if (!(outcome instanceof UsageError)) throw new Error(`not refused by a sentence: ${outcome}`);
  return outcome.message;
}

const visible = (directory: string) =>
  readdirSync(directory)
    .filter((name) => !name.startsWith("."))
    .sort();

describe("a model", () => {
  test("arrives with config, tokenizer and safetensors, and without pickles", async () => {
    const hub = newHub();
    const seen: FetchProgress[] = [];
    const directory = await fetchFrom(hub, { onProgress: (progress) => seen.push(progress) });
    expect(basename(directory)).toBe("tiny-model");
    expect(visible(directory)).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
    expect(Buffer.compare(readFileSync(join(directory, "model.safetensors")), weights)).toBe(0);
    expect(hub.seen.some(({ path }) => /bin|pth|onnx|README/.test(path))).toBe(false);
    const last = seen.at(-1)!;
    expect(last.bytesDone).toBe(last.bytesTotal);
    expect(last.bytesTotal).toBeGreaterThan(weights.length);
    expect(seen.every(({ bytesDone }, i) => i === 0 || bytesDone >= seen[i - 1]!.bytesDone)).toBe(true);
  });

  test("in shards arrives with the shards that its index names", async () => {
    const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    const hub = newHub({
      "config.json": json({}),
      "model.safetensors.index.json": json({ weight_map: { a: shards[0], b: shards[1] } }),
      [shards[0]!]: { bytes: weights.slice(0, 1000), lfs: true },
      [shards[1]!]: { bytes: weights.slice(1000, 3000), lfs: true },
      "model-00003-of-00003.safetensors": { bytes: weights, lfs: true },
    });
    const directory = await fetchFrom(hub);
    expect(visible(directory)).toEqual(["config.json", ...shards, "model.safetensors.index.json"].sort());
  });

  test("is not asked for twice", async () => {
    const hub = newHub();
    const cacheDirectory = newCache();
    const first = await fetchFrom(hub, { cacheDirectory });
    hub.seen.length = 0;
    expect(await fetchFrom(hub, { cacheDirectory })).toBe(first);
    expect(hub.seen.map(({ path }) => path)).toEqual([`/api/models/${hub.model}/revision/main`]);
    expect(await fetchFrom(hub, { cacheDirectory }, `${hub.model}@${hub.commit}`)).toBe(first);
    expect(hub.seen.length).toBe(1);
  });

  test("comes from the cache when there is no network, and says so", async () => {
    const hub = newHub();
    const cacheDirectory = newCache();
    const first = await fetchFrom(hub, { cacheDirectory });
    const notices: string[] = [];
    await hub.stop();
    expect(await fetchFrom(hub, { cacheDirectory, onNotice: (text) => notices.push(text) })).toBe(first);
    expect(notices.join()).toMatch(/cannot be reached .* using the copy of org\/tiny-model/);
  });

  test("with a file that shrank in the cache is fetched again", async () => {
    const hub = newHub();
    const cacheDirectory = newCache();
    const directory = await fetchFrom(hub, { cacheDirectory });
    truncateSync(join(directory, "model.safetensors"), 10);
    await fetchFrom(hub, { cacheDirectory });
    expect(Buffer.compare(readFileSync(join(directory, "model.safetensors")), weights)).toBe(0);
  });

  test("asked for by two at once is fetched once", async () => {
    const hub = newHub();
    const cacheDirectory = newCache();
    const notices: string[] = [];
    const options: FetchOptions = { cacheDirectory, onNotice: (text) => notices.push(text) };
    const both = await Promise.all([fetchFrom(hub, options), fetchFrom(hub, options)]);
    expect(notices.join()).toMatch(/^Another process is fetching into .*; waiting for it\.$/);
    expect(both[0]).toBe(both[1]);
    expect(
      hub.seen.filter(({ path, host }) => host === "storage" && path === "/model.safetensors").length,
    ).toBe(1);
  });
});

describe("a broken connection", () => {
  test("is taken up where it ended", async () => {
    const hub = newHub();
    hub.misbehaviour = { cut: { file: "model.safetensors", after: 100_000 } };
    const directory = await fetchFrom(hub);
    expect(Buffer.compare(readFileSync(join(directory, "model.safetensors")), weights)).toBe(0);
    expect(
      hub.seen
        .filter(({ path, host }) => host === "storage" && path === "/model.safetensors")
        .map(({ range }) => range),
    ).toEqual([null, "bytes=100000-"]);
  });

  test("is taken up by the next run", async () => {
    const hub = newHub();
    const cacheDirectory = newCache();
    hub.misbehaviour = { cut: { file: "model.safetensors", after: 100_000 } };
    expect(await refusal(fetchFrom(hub, { cacheDirectory, attemptsMax: 1 }))).toMatch(
      /goes on where this one stopped/,
    );
    hub.seen.length = 0;
    await fetchFrom(hub, { cacheDirectory });
    expect(hub.seen.filter(({ host }) => host === "storage").map(({ path, range }) => [path, range])).toEqual(
      [["/model.safetensors", "bytes=100000-"]],
    );
  });

  test("starts over where the server ignores ranges", async () => {
    const hub = newHub();
    hub.misbehaviour = { cut: { file: "model.safetensors", after: 100_000 }, ignoreRanges: true };
    const directory = await fetchFrom(hub);
    expect(Buffer.compare(readFileSync(join(directory, "model.safetensors")), weights)).toBe(0);
  });

  test("reset in mid-file is taken up, too", async () => {
    const requests: string[] = [];
    const server = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        async data(socket, data) {
          requests.push(/range: (.*)\r/i.exec(data.toString())?.[1] ?? "whole");
          if (requests.length > 1) {
            socket.end(
              "HTTP/1.1 206 Partial Content\r\ncontent-length: 2\r\ncontent-range: bytes 2-3/4\r\n\r\ncd",
            );
            return;
          }
          socket.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab");
          await Bun.sleep(50); // long enough to be read before the reset
          socket.terminate();
        },
      },
    });
    const origin = `http://127.0.0.1:${server.port}`;
    const path = join(newCache(), "file");
    const hash = {
      kind: "sha256",
      hex: "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589",
    } as const; // printf abcd | sha256sum
    const retries: string[] = [];
    const onRetry = (sentence: string) => void retries.push(sentence);
    const transport = { token: null, origin, attemptsMax: 2, retryDelayMs: 1, stallMs: 5000, onRetry };
    await downloadFile({ url: `${origin}/file`, path, bytes: 4, hash }, transport, () => {});
    expect(readFileSync(path, "utf8")).toBe("abcd");
    expect(requests).toEqual(["whole", "bytes=2-"]);
    expect(retries).toHaveLength(1);
    server.stop(true);
  });

  test("of a server that falls silent is given up and tried again", async () => {
    let requests = 0;
    const notices: string[] = [];
    const silent = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      idleTimeout: 0,
      fetch: () => (requests++, new Promise<Response>(() => {})),
    });
    const fetching = fetchModel("org/m", {
      endpoint: `http://127.0.0.1:${silent.port}`,
      token: null,
      retryDelayMs: 1,
      attemptsMax: 3,
      stallMs: 50,
      cacheDirectory: newCache(),
      onNotice: (sentence) => notices.push(sentence),
    });
    expect(await refusal(fetching)).toMatch(/was silent for 0.05 s/);
    expect(requests).toBe(3);
    const host = `127.0.0.1:${silent.port}`;
    expect(notices).toEqual([
      `${host} was silent for 0.05 s; attempt 2 of 3 follows in 0.0 s.`,
      `${host} was silent for 0.05 s; attempt 3 of 3 follows in 0.0 s.`,
    ]);
    await silent.stop(true);
  });
});

describe("a file that is not what was announced", () => {
  test("with a wrong byte is refused and removed", async () => {
    for (const file of ["model.safetensors", "config.json"]) {
      const hub = newHub();
      const cacheDirectory = newCache();
      hub.misbehaviour = { corrupt: file };
      expect(await refusal(fetchFrom(hub, { cacheDirectory }))).toMatch(`${file} arrived damaged`);
      const directory = join(cacheDirectory, "models", "org", hub.commit, "tiny-model");
      expect(visible(directory).filter((name) => name.startsWith(file))).toEqual([]);
      hub.misbehaviour = {};
      await fetchFrom(hub, { cacheDirectory });
      expect(existsSync(join(directory, file))).toBe(true);
    }
  });

  test("with bytes too many is refused and removed", async () => {
    const hub = newHub();
    hub.misbehaviour = { oversize: "model.safetensors" };
    expect(await refusal(fetchFrom(hub))).toMatch(/sends more than the 300000 bytes that it announced/);
  });

  test("with a rotten part on disk is refused, and right the next time", async () => {
    const hub = newHub();
    const cacheDirectory = newCache();
    hub.misbehaviour = { cut: { file: "model.safetensors", after: 5000 } };
    await refusal(fetchFrom(hub, { cacheDirectory, attemptsMax: 1 }));
    const directory = join(cacheDirectory, "models", "org", hub.commit, "tiny-model");
    writeFileSync(join(directory, "model.safetensors.part"), new Uint8Array(5000));
    expect(await refusal(fetchFrom(hub, { cacheDirectory }))).toMatch(/arrived damaged/);
    await fetchFrom(hub, { cacheDirectory });
  });

  test("of more bytes than the disk has room for is not begun", async () => {
    const hub = newHub({ "config.json": json({}) });
    const blobId = "9e26dfeeb6e641a33dae4961196235bdb965b21b"; // printf '{}' | git hash-object --stdin
    const siblings = [
      { rfilename: "config.json", size: 2, blobId },
      { rfilename: "model.safetensors", size: 2 ** 52, blobId },
    ];
    hub.misbehaviour = { listing: { sha: hub.commit, siblings } };
    expect(await refusal(fetchFrom(hub))).toMatch(/GB left, and 4503599\.63 GB are still to be fetched/);
  });
});

describe("the token", () => {
  test("goes to the hub and not to where it redirects", async () => {
    const hub = newHub();
    hub.token = "hf_secret";
    await fetchFrom(hub, { token: "hf_secret" });
    const storage = hub.seen.filter(({ host }) => host === "storage");
    expect(storage.length).toBe(2);
    expect(storage.every(({ authorization }) => authorization === null)).toBe(true);
    expect(
      hub.seen
        .filter(({ host }) => host === "hub")
        .every(({ authorization }) => authorization === "Bearer hf_secret"),
    ).toBe(true);
  });

  test("is asked for where it is missing, and doubted where it is wrong", async () => {
    const hub = newHub();
    hub.token = "hf_secret";
    expect(await refusal(fetchFrom(hub))).toMatch(
      /shows org\/tiny-model to nobody without a token \(401\).*set HF_TOKEN/,
    );
    expect(await refusal(fetchFrom(hub, { token: "hf_wrong" }))).toMatch(
      /does not accept the token in HF_TOKEN/,
    );
    expect(hub.seen.length).toBe(2);
  });

  test("does not open a gated model before its owners do", async () => {
    const hub = newHub();
    hub.gated = true;
    expect(await refusal(fetchFrom(hub, { token: "hf_secret" }))).toMatch(
      /Access to org\/tiny-model is granted by its owners.*ask for it at http/,
    );
  });
});

describe("the cache", () => {
  test("that cannot be written is named in a sentence", async () => {
    const hub = newHub();
    const file = join(newCache(), "file");
    writeFileSync(file, "");
    expect(await refusal(fetchFrom(hub, { cacheDirectory: file }))).toMatch(
      /Cannot make the cache folder .*Name another with HF_HOME/,
    );
  });

  test("is filled after the hub was asked again for a redirect whose signature ran out", async () => {
    const hub = newHub();
    hub.misbehaviour = { storageFailures: { status: 403, count: 1 } };
    await fetchFrom(hub);
    const asked = hub.seen.filter(({ host, path }) => host === "hub" && path.endsWith("/tokenizer.json"));
    expect(asked.length).toBe(2);
  });
});

describe("a refusal is one sentence", () => {
  test("for a model and a revision that are not there", async () => {
    const hub = newHub();
    expect(await refusal(fetchFrom(hub, {}, "org/other"))).toMatch(/has no model org\/other \(404\)/);
    expect(await refusal(fetchFrom(hub, {}, "org/tiny-model@v9"))).toMatch(
      /org\/tiny-model has no revision v9/,
    );
  });

  test("for a model without safetensors", async () => {
    const hub = newHub({ "config.json": json({}), "pytorch_model.bin": json(1), "model.Q4.gguf": json(1) });
    expect(await refusal(fetchFrom(hub))).toMatch(
      /neither model\.safetensors nor .*only pytorch_model\.bin, model\.Q4\.gguf/,
    );
  });

  for (const name of ["../../config.json", "/etc/cron.d/x", "a/../../b", "a\\..\\b", "a//b", "./x"]) {
    test(`for a listing with the file name ${JSON.stringify(name)}`, async () => {
      const cacheDirectory = newCache();
      const hub = newHub({ ...singleModel(), [name]: json(1) });
      expect(await refusal(fetchFrom(hub, { cacheDirectory }))).toMatch(
        /points out of its folder\. Nothing was fetched/,
      );
      expect(readdirSync(cacheDirectory)).toEqual([]);
    });
  }

  test("for an index that points out of its folder", async () => {
    const hub = newHub({
      "config.json": json({}),
      "model.safetensors.index.json": json({ weight_map: { a: "../../../x.safetensors" } }),
    });
    expect(await refusal(fetchFrom(hub))).toMatch(/not the name of a safetensors file beside it/);
  });

  for (const [what, listing] of [
    ["a commit that is a path", { sha: "../../../../tmp", siblings: [] }],
    ["no list", { error: "x" }],
    ["negative sizes", { sha: "0".repeat(40), siblings: [{ rfilename: "config.json", size: -1 }] }],
  ] as const) {
    test(`for an answer with ${what}`, async () => {
      const hub = newHub();
      hub.misbehaviour = { listing };
      expect(await refusal(fetchFrom(hub))).toMatch(/does not answer as the hub does/);
    });
  }

  test("for files that come without a hash", async () => {
    const hub = newHub();
    hub.misbehaviour = {
      listing: {
        sha: hub.commit,
        siblings: [
          { rfilename: "config.json", size: 2 },
          { rfilename: "model.safetensors", size: 2 },
        ],
      },
    };
    expect(await refusal(fetchFrom(hub))).toMatch(/gives no size and hash for config\.json/);
  });

  test("for a redirect to a file or in a circle", async () => {
    const hub = newHub();
    hub.misbehaviour = { redirect: "file:///etc/passwd" };
    expect(await refusal(fetchFrom(hub))).toMatch(/redirects to file:/);
    hub.misbehaviour = { redirect: `${hub.endpoint}/${hub.model}/resolve/${hub.commit}/tokenizer.json` };
    expect(await refusal(fetchFrom(hub))).toMatch(/redirects more than ten times/);
  });

  test("for names that are no names of models", async () => {
    for (const name of ["model", "a/b/c", "../x", "a/..", "org/m@../x", "org/m@", "-a/b", "a/b?x", ""]) {
      expect(isModelName(name)).toBe(false);
      expect(await refusal(fetchModel(name))).toMatch(/is neither a folder nor the name of a model/);
    }
    for (const name of ["meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-0.5B@main", "a/b@refs/pr/3"])
      expect(isModelName(name)).toBe(true);
  });
});

describe("a busy hub", () => {
  test("is asked again after the pause it wishes", async () => {
    const hub = newHub();
    hub.misbehaviour = { failures: { status: 503, count: 2, headers: { "retry-after": "0" } } };
    await fetchFrom(hub);
    expect(hub.seen.filter(({ path }) => path.startsWith("/api/")).length).toBe(3);
  });

  test("that goes on refusing is given up with a sentence", async () => {
    const hub = newHub();
    hub.misbehaviour = { failures: { status: 429, count: 99 } };
    expect(await refusal(fetchFrom(hub, { attemptsMax: 3 }))).toMatch(/limits requests \(429\)/);
    expect(hub.seen.length).toBe(3);
  });
});
