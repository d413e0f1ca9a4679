/** Which results of jobs run in the base's engine, and which need an engine of their own. */
import { beforeAll, expect, test } from "bun:test";
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { openTunedAdapter } from "../../src/cli/adapter_models.ts";
import type { AdapterSource } from "../../src/engine/messages.ts";
import { ModelRegistry } from "../../src/server/context.ts";
import type { StoredModel } from "../../src/store/models.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { byteTokenizer, FakeEngine } from "../support/fake_engine.ts";
import { randomAdapter } from "../support/random_adapter.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { testServer } from "../support/test_server.ts";
import { makeTinyModel } from "../support/tiny_model.ts";

const folder = temporaryFolder("adapter-models");
const base = join(folder, "base");
const row: StoredModel = {
  id: "ft:tiny:koala::1",
  jobId: "ftjob-1",
  parent: "tiny",
  folder: "",
  template: null,
  createdAt: new Date(5000),
};

class HostEngine extends FakeEngine {
  readonly loads: AdapterSource[] = [];
  readonly adapters = {
    load: async (source: AdapterSource) => void this.loads.push(source),
    unload: async () => {},
  };
}

/** A base that is served, and what a LoRA job left of it. */
async function setUp(name: string) {
  const directory = join(folder, name);
  await makeTinyModel(directory);
  await cp(await randomAdapter(base, { rank: 2, seed: 1 }), join(directory, "adapter"), { recursive: true });
  await Bun.write(join(directory, "koala.json"), JSON.stringify({ base }));
  const engine = new HostEngine(byteTokenizer(), { script: () => "" });
  const tokenizer = await loadTokenizer(base);
  const registry = new ModelRegistry([{ ...testServer().model, id: "tiny", path: base, tokenizer, engine }]);
  return { directory, engine, registry };
}

beforeAll(async () => {
  await makeTinyModel(base);
});

test("an adapter of the served base is loaded into the base's engine, under the job's name", async () => {
  const { directory, engine, registry } = await setUp("good");
  const model = await openTunedAdapter(row, directory, registry);
  expect(model).toMatchObject({
    id: row.id,
    parent: "tiny",
    created: 5,
    sharesEngine: true,
    path: directory,
  });
  expect(model?.template).not.toBeNull();
  expect(engine.loads[0]).toEqual({ id: row.id, generation: 5000, path: join(directory, "adapter") });
});

test("another base, another tokenizer, or no adapter needs an engine of its own", async () => {
  const { directory, engine, registry } = await setUp("others");
  const elsewhere = new ModelRegistry([{ ...registry.list()[0]!, path: join(folder, "elsewhere") }]);
  expect(await openTunedAdapter(row, directory, elsewhere)).toBeNull();
  const { adapters: _, ...plain } = engine;
  const without = new ModelRegistry([{ ...registry.list()[0]!, engine: plain as never }]);
  expect(await openTunedAdapter(row, directory, without)).toBeNull();
  const path = join(directory, "tokenizer.json");
  const tokenizer = await Bun.file(path).json();
  await Bun.write(path, JSON.stringify({ ...tokenizer, normalizer: { type: "NFC" } }));
  expect(await openTunedAdapter(row, directory, registry)).toBeNull();
  await rm(join(directory, "adapter"), { recursive: true });
  expect(await openTunedAdapter(row, directory, registry)).toBeNull();
  expect(engine.loads).toEqual([]);
});

test("a template that is not that of the training is refused, as with merged weights", async () => {
  const { directory, registry } = await setUp("template");
  await Bun.write(join(directory, "koala.json"), JSON.stringify({ base, template: "0".repeat(64) }));
  await expect(openTunedAdapter(row, directory, registry)).rejects.toThrow(
    /was trained with its own chat template/,
  );
});
