/** Model directories: one file or shards with an index, and a sentence for everything else that people have. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { writeSafetensors } from "../../src/model/safetensors.ts";
import { UsageError } from "../../src/util/errors.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = temporaryFolder("checkpoint");
const stories = new URL("../../../shared/models/stories260K", import.meta.url).pathname;
const newDirectory = () => mkdtempSync(join(root, "model-"));

async function shard(directory: string, file: string, names: string[]): Promise<void> {
  await writeSafetensors(
    join(directory, file),
    names.map((name) => ({ name, dtype: "F32", shape: [2], data: new Uint8Array(8) })),
  );
}

/** Two shards of two tensors; `map` changes the index. */
async function sharded(map: Record<string, unknown> = {}): Promise<string> {
  const directory = newDirectory();
  await shard(directory, "model-00001-of-00002.safetensors", ["a", "b"]);
  await shard(directory, "model-00002-of-00002.safetensors", ["c", "d"]);
  const [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  const weightMap = { a: first, b: first, c: second, d: second, ...map };
  writeFileSync(
    join(directory, "model.safetensors.index.json"),
    JSON.stringify({ metadata: { total_size: 32 }, weight_map: weightMap }),
  );
  return directory;
}

async function refusal(directory: string): Promise<string> {
  const outcome = await openCheckpoint(directory).then(
    () => "accepted",
    (error: unknown) => error,
  );
  if (!(outcome instanceof UsageError)) throw new Error(`not refused by a sentence: ${outcome}`);
  return outcome.message;
}

describe("a sharded directory", () => {
  test("gives every tensor with the file that holds it", async () => {
    const directory = await sharded();
    const { tensors, files, weightBytes } = await openCheckpoint(directory);
    expect([...tensors.keys()].sort()).toEqual(["a", "b", "c", "d"]);
    expect(tensors.get("c")!.file).toBe(join(directory, "model-00002-of-00002.safetensors"));
    expect(files.length).toBe(2);
    expect(weightBytes).toBe(32);
  });

  test("yields to a single file beside it, as in transformers", async () => {
    const directory = await sharded();
    await shard(directory, "model.safetensors", ["whole"]);
    expect([...(await openCheckpoint(directory)).tensors.keys()]).toEqual(["whole"]);
  });

  test("is refused where a shard is missing", async () => {
    expect(await refusal(await sharded({ e: "model-00003-of-00003.safetensors" }))).toMatch(
      /lacks 1 of the 3 weight files that its index names: model-00003-of-00003\.safetensors/,
    );
  });

  test("is refused where a shard lacks a tensor of the index", async () => {
    expect(await refusal(await sharded({ e: "model-00001-of-00002.safetensors" }))).toMatch(/lacks tensor e/);
  });

  test("is refused where a tensor lies in another shard than the index says", async () => {
    expect(await refusal(await sharded({ a: "model-00002-of-00002.safetensors" }))).toMatch(
      /Tensor a .* is in model-00001/,
    );
  });

  test("is refused where two shards hold the same tensor", async () => {
    const directory = await sharded();
    await shard(directory, "model-00002-of-00002.safetensors", ["a", "c", "d"]);
    expect(await refusal(directory)).toMatch(/Tensor a .*model-00002.*model-00001/);
  });

  for (const name of [
    "../model.safetensors",
    "/etc/passwd",
    "a/b.safetensors",
    "..",
    "a\\b.safetensors",
    "x.bin",
    "\0.safetensors",
    "",
    7,
    null,
  ]) {
    test(`is refused where the index points to ${JSON.stringify(name)}`, async () => {
      expect(await refusal(await sharded({ a: name }))).toMatch(
        /tensor a is placed in .*not the name of a safetensors file beside it/,
      );
    });
  }

  for (const [text, sentence] of [
    ["{", /not JSON/],
    ["[]", /no weight_map/],
    ['{"weight_map":[]}', /no weight_map/],
    ['{"weight_map":{}}', /empty/],
    ["null", /no weight_map/],
  ] as const) {
    test(`is refused where the index is ${text}`, async () => {
      const directory = await sharded();
      writeFileSync(join(directory, "model.safetensors.index.json"), text);
      expect(await refusal(directory)).toMatch(sentence);
    });
  }
});

describe("a directory without safetensors", () => {
  for (const [file, sentence] of [
    ["pytorch_model.bin", /holds pytorch_model\.bin.*Pickled weights can run code/],
    ["consolidated.00.pth", /holds consolidated\.00\.pth.*save_pretrained/],
    ["llama.Q4_K_M.gguf", /holds llama\.Q4_K_M\.gguf.*GGUF/],
    ["tf_model.h5", /holds tf_model\.h5/],
    ["adapter_model.safetensors", /is an adapter/],
    ["weights.safetensors", /rename a single file to model\.safetensors/],
    ["config.json", /holds neither model\.safetensors nor/],
  ] as const) {
    test(`with ${file} gets a sentence that names it`, async () => {
      const directory = newDirectory();
      writeFileSync(join(directory, file), "x");
      expect(await refusal(directory)).toMatch(sentence);
    });
  }

  test("or no directory at all", async () => {
    expect(await refusal(join(root, "nowhere"))).toMatch(/There is no directory/);
    const file = join(root, "file");
    writeFileSync(file, "x");
    expect(await refusal(file)).toMatch(/is a file/);
  });
});

describe.skipIf(!existsSync(stories))("stories260K (skipped where the model is not at hand)", () => {
  test("has its 260032 weights and tied embeddings", async () => {
    const { tensors, weightBytes, metadata } = await openCheckpoint(stories);
    expect(tensors.get("model.embed_tokens.weight")!.shape).toEqual([512, 64]);
    expect(weightBytes / 4).toBe(260032);
    expect(metadata.format).toBe("pt");
  });
});
