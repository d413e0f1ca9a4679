/** One model held by several ranks: what PyTorch, PEFT and one rank computed, through steps and through the engine's core. */
import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import "../support/emulator.ts";
import { checkDevices, openRunner } from "../../src/cli/tensor_parallel.ts";
import { EngineCore } from "../../src/engine/core.ts";
import { adapterTable, defaultRunnerOptions, type RunnerOptions } from "../../src/engine/load_runner.ts";
import type { LlamaRunner } from "../../src/engine/llama_runner.ts";
import { builtinModel } from "../../src/model/builtin_model.ts";
import type { EngineEvent, GenerateRequest } from "../../src/engine/messages.ts";
import { greedy as greedyRow } from "../../src/engine/runner.ts";
import { readSafetensorsHeader, type TensorToWrite, writeSafetensors } from "../../src/model/safetensors.ts";
import { uniform } from "../../src/util/rng.ts";
import { greedy } from "../support/fake_runner.ts";
import { farthest, readGolden } from "../support/golden.ts";
import { greedyIds, row, testDevice } from "../support/models.ts";
import { families, familyDirectory } from "../support/paths.ts";
import { randomAdapter } from "../support/random_adapter.ts";
import { temporaryFolder } from "../support/temporary.ts";

const V = 512;
const pageSize = 32;

const opened: LlamaRunner[] = [];
afterAll(() => opened.forEach((runner) => runner.close()));

async function open(directory: string, tensorParallel: number, options: Partial<RunnerOptions> = {}) {
  const { runner } = await openRunner({
    ...defaultRunnerOptions,
    directory,
    device: testDevice,
    threads: 2,
    cacheBytes: 64 * 2 ** 20,
    maxSequences: 8,
    dtype: "float32",
    tensorParallel,
    ...options,
  });
  opened.push(runner);
  return runner;
}

const largest = (a: Float32Array): number => a.reduce((max, value) => Math.max(max, Math.abs(value)), 0);

/** Where there are more ranks than key/value heads, several hold the same one. */
const cases = [
  ...families.map((family): [string, number] => [family, 2]),
  ["llama-mha", 4],
  ["llama-gqa-rope3", 8],
  ["qwen2-bias", 4],
] as [string, number][];

describe.each(testDevice === "cpu" ? cases : cases.slice(0, 1))("%s on %i ranks", (family, ranks) => {
  const golden = readGolden(family);
  const directory = familyDirectory(family);
  const runners = Promise.all([open(directory, 1), open(directory, ranks)]);

  test("gives logits within 1e-5 of one rank's and 1e-4 of PyTorch's, and transformers' greedy tokens", async () => {
    const [one, several] = await runners;
    const { values } = (await golden).floats("logits");
    const prompts = (await golden).ids("inputs.ids");
    const wanted = (await golden).ids("greedy.ids");
    for (const [b, ids] of prompts.entries()) {
      const logits = several.logitsOf(row(0, ids, 0));
      const alone = one.logitsOf(row(0, ids, 0));
      expect(farthest(logits, alone) / largest(alone)).toBeLessThan(1e-5);
      const want = values.subarray(b * ids.length * V, (b + 1) * ids.length * V);
      expect(farthest(logits, want)).toBeLessThan(1e-4);
      expect(greedyIds(several, ids, 32)).toEqual(wanted[b]?.slice(ids.length) as number[]);
    }
  });

  test("a packed batch, single rows and chunks of any size are equal, bit for bit", async () => {
    const [, several] = await runners;
    const prompts = (await golden).ids("inputs.ids");
    const score = (ids: number[]) => ({ targets: [...ids.slice(1), -1], top: 1 });
    const rows = prompts.map((ids, b) => row(b, ids, 0, { score: score(ids) }));
    expect(several.step(rows).map(({ scores }) => scores)).toEqual(
      rows.map((one) => several.step([one])[0]?.scores ?? null),
    );
    const ids = (await golden).ids("greedy.ids")[0] as number[];
    const whole = several.logitsOf(row(0, ids, 0));
    for (const size of [1, 7]) {
      const parts: number[] = [];
      for (let past = 0; past < ids.length; past += size)
        parts.push(...several.logitsOf(row(1, ids.slice(past, past + size), past)));
      expect(parts).toEqual(Array.from(whole));
    }
  });

  test("gives PEFT's logits with an adapter, the base's beside it, and one rank's sum of hidden states", async () => {
    const [one, several] = await runners;
    const adapter = await several.loadAdapter(join(directory, "lora"));
    const { values } = (await golden).floats("lora.logits");
    const base = (await golden).floats("logits").values;
    (await golden).ids("inputs.ids").forEach((ids, b) => {
      const place = [b * ids.length * V, (b + 1) * ids.length * V] as const;
      const adapted = several.logitsOf(row(0, ids, 0, { adapter }));
      expect(farthest(adapted, values.subarray(...place))).toBeLessThan(1e-4);
      expect(farthest(several.logitsOf(row(1, ids, 0)), base.subarray(...place))).toBeLessThan(1e-4);
      const rows = [row(0, ids, 0, { embed: true })];
      const [sum, alone] = [several, one].map((runner) => runner.step(rows)[0]?.hiddenSum as Float64Array);
      expect(farthest(sum as Float64Array, alone as Float64Array)).toBeLessThan(1e-4);
    });
    adapter.close();
  });
});

describe("other element types on two ranks", () => {
  test.skipIf(testDevice !== "cpu").each([...families])(
    "%s in float64 differs from one rank in the last bits only",
    async (family) => {
      const ids = (await readGolden(family)).ids("inputs.ids")[0] as number[];
      const [one, two] = await Promise.all(
        [1, 2].map((ranks) => open(familyDirectory(family), ranks, { dtype: "float64" })),
      );
      const alone = (one as LlamaRunner).logitsOf(row(0, ids, 0));
      // Logits are rounded to float32 in the end: one step of its last bit at most.
      expect(farthest((two as LlamaRunner).logitsOf(row(0, ids, 0)), alone) / largest(alone)).toBeLessThan(
        2 ** -23,
      );
    },
  );

  test.each([
    ["int8", "auto"],
    ["int4", "auto"],
    ["bfloat16", "fp8"],
    ["int4", "fp8"],
  ] as const)(
    "koala-tiny with weights of %s and a cache of %s is near one rank",
    async (dtype, kvCacheDtype) => {
      const ids = (await readGolden("llama-mha")).ids("inputs.ids")[0] as number[];
      const [alone, shared] = await Promise.all(
        [1, 2].map(async (ranks) =>
          (await open(builtinModel(), ranks, { dtype, kvCacheDtype })).logitsOf(row(0, ids, 0)),
        ),
      );
      const error = farthest(shared as Float32Array, alone as Float32Array) / largest(alone as Float32Array);
      // Products round their inputs to eight bits, so that a sum in another order moves them. Measured: at most 0.0024.
      expect(error).toBeLessThan(1e-2);
    },
  );

  test.each(["llama-gqa-rope3", "qwen3-qknorm"])(
    "%s in bfloat16 is as close to PyTorch as one rank is",
    async (family) => {
      const golden = await readGolden(family);
      const ids = golden.ids("inputs.ids")[0] as number[];
      const { values } = golden.floats("logits");
      const [one, two] = await Promise.all(
        [1, 2].map(async (ranks) =>
          farthest(
            (await open(familyDirectory(family), ranks, { dtype: "bfloat16" })).logitsOf(row(0, ids, 0)),
            values,
          ),
        ),
      );
      expect(two).toBeLessThan(1.5 * (one as number));
    },
  );
});

type Held = TensorToWrite & { data: Uint8Array };

/** The family's model with tensors and settings changed. */
async function variant(
  family: string,
  settings: object,
  change: (tensors: Held[]) => Held[],
): Promise<string> {
  const directory = temporaryFolder("variant");
  const source = join(familyDirectory(family), "model.safetensors");
  const { tensors, metadata } = await readSafetensorsHeader(source);
  const bytes = await Bun.file(source).bytes();
  const all = [...tensors].map(([name, { dtype, shape, begin, end }]): Held => {
    return { name, dtype, shape, data: bytes.slice(begin, end) };
  });
  await writeSafetensors(join(directory, "model.safetensors"), change(all), metadata);
  const config = (await Bun.file(join(familyDirectory(family), "config.json")).json()) as object;
  await Bun.write(join(directory, "config.json"), JSON.stringify({ ...config, ...settings }));
  return directory;
}

const withVocabulary = (family: string, words: number): Promise<string> =>
  variant(family, { vocab_size: words }, (tensors) =>
    tensors.map((tensor) => {
      const [rows, ...rest] = tensor.shape;
      if (rows !== V) return tensor;
      return {
        ...tensor,
        shape: [words, ...rest],
        data: tensor.data.slice(0, (tensor.data.length / V) * words),
      };
    }),
  );

/** Every linear layer of a block has a bias, none of which is small. */
const withBiases = (family: string): Promise<string> =>
  variant(family, { attention_bias: true, mlp_bias: true }, (tensors) => [
    ...tensors,
    ...tensors.flatMap(({ name, shape }): Held[] => {
      if (!name.endsWith("_proj.weight")) return [];
      const values = Float32Array.from({ length: shape[0] as number }, (_, i) =>
        Math.sin(3 * i + name.length),
      );
      const data = new Uint8Array(values.buffer);
      return [{ name: name.replace(/weight$/, "bias"), dtype: "F32", shape: [values.length], data }];
    }),
  ]);

test("biases of summed products are added once", async () => {
  const directory = await withBiases("llama-mha");
  const [one, two] = await Promise.all([1, 2].map((ranks) => open(directory, ranks)));
  const tokens = [1, 5, 77, 300, 508];
  const alone = (one as LlamaRunner).logitsOf(row(0, tokens, 0));
  const plain = (await open(familyDirectory("llama-mha"), 1)).logitsOf(row(0, tokens, 0));
  expect(farthest(alone, plain)).toBeGreaterThan(0.1);
  expect(farthest((two as LlamaRunner).logitsOf(row(0, tokens, 0)), alone) / largest(alone)).toBeLessThan(
    1e-5,
  );
});

test("a vocabulary that the ranks do not divide has every logit once and in its place", async () => {
  const directory = await withVocabulary("llama-mha", 509);
  const [one, four] = await Promise.all([1, 4].map((ranks) => open(directory, ranks)));
  const tokens = [1, 5, 77, 300, 508];
  const alone = (one as LlamaRunner).logitsOf(row(0, tokens, 0));
  expect(alone.length).toBe(5 * 509);
  expect(farthest((four as LlamaRunner).logitsOf(row(0, tokens, 0)), alone) / largest(alone)).toBeLessThan(
    1e-5,
  );
});

test.skipIf(testDevice !== "cpu")("a step of more numbers than one message holds is told whole", async () => {
  const directory = familyDirectory("llama-mha");
  const [one, two] = await Promise.all(
    [1, 2].map((ranks) => open(directory, ranks, { maxStepTokens: 3000, maxSequences: 16 })),
  );
  const rows = Array.from({ length: 12 }, (_, s) =>
    row(
      s,
      Array.from({ length: 230 }, (__, i) => (s * 37 + i * 11) % V),
      0,
      { sample: greedyRow },
    ),
  );
  const answers = [one, two].map((runner) => (runner as LlamaRunner).step(rows).map(({ id }) => id));
  expect(answers[1]).toEqual(answers[0] as number[]);
});

interface Planned {
  request: GenerateRequest;
  arrivesAt: number;
  abortsAt: number;
}

/** Requests that share prefixes, run with adapters or against a second prompt, and are given up. */
function plan(seed: number): Planned[] {
  let drawn = 0;
  const below = (end: number) => Math.floor(uniform(seed, drawn++) * end);
  const root = Array.from({ length: 100 }, () => below(V));
  return Array.from({ length: 10 }, (_, i): Planned => {
    const shared = below(3) === 0 ? 70 : below(20);
    const prompt = [...root.slice(0, shared), ...Array.from({ length: 1 + below(30) }, () => below(V))];
    const kind = below(4);
    return {
      request: {
        id: `r${i}`,
        prompt,
        params: {
          ...greedy,
          maxTokens: kind === 2 ? 5 + below(20) : 40 + below(90),
          logprobs: below(2) === 0 ? null : 2,
        },
        group: null,
        priority: below(3) - 1,
        cacheSalt: "",
        adapter: kind === 0 ? "odd@1" : kind === 1 ? "even@1" : null,
        contrast: kind === 2 ? { prompt: prompt.slice(1).concat(7), strength: 0.5, plausibility: 0.1 } : null,
      },
      arrivesAt: below(12),
      abortsAt: below(4) === 0 ? below(60) : Infinity,
    };
  });
}

interface Ended {
  tokens: number[];
  logprobs: number[];
  reason: string;
}

async function run(runner: LlamaRunner, plans: Planned[], adapters: string[]) {
  const core = new EngineCore({
    runner,
    compileGrammar: () => {
      throw new Error("no grammar");
    },
    endIds: [],
    // One place for two adapters, so that they take turns.
    adapters: adapterTable(runner, { ...defaultRunnerOptions, directory: "", maxAdapters: 1 }),
  });
  for (const [i, id] of ["odd", "even"].entries())
    await core.adapters?.add({ id, generation: 1, path: adapters[i] as string });
  const ended = new Map<string, Ended>();
  const listen = () => {
    for (const [id, event] of core.takeOutput().events) note(ended, id, event);
  };
  for (let now = 0; now < 5000; now++) {
    for (const { request, arrivesAt, abortsAt } of plans) {
      if (arrivesAt === now) core.generate(request);
      if (abortsAt === now) core.abort(request.id);
    }
    expect(core.step()).toBeNull();
    core.cache.check(core.owners);
    listen();
    // Adapters are read beside the steps; where nothing else is left, those who need one wait for it.
    await (core.idle ? Bun.sleep(1) : new Promise((resolve) => setImmediate(resolve)));
    if (now > 40 && [...ended.values()].filter(({ reason }) => reason !== "").length === plans.length) break;
  }
  return { ended, stats: core.stats };
}

function note(ended: Map<string, Ended>, id: string, event: EngineEvent): void {
  const seen = ended.get(id) ?? { tokens: [], logprobs: [], reason: "" };
  ended.set(id, seen);
  if (event.type === "token") seen.tokens.push(event.id);
  if (event.type === "token" && event.logprob !== null) seen.logprobs.push(event.logprob.logprob);
  if (event.type === "finish") seen.reason = event.reason;
}

test.skipIf(testDevice !== "cpu")(
  "random schedules with preemption, shared prefixes, aborts, contrast and adapters answer on two ranks as on one",
  async () => {
    const directory = familyDirectory("qwen3-qknorm");
    const adapters = await Promise.all(
      [3, 4].map((seed) => randomAdapter(directory, { rank: 4, seed, alpha: 2 })),
    );
    const totals = { preemptions: 0, prefixHitTokens: 0, aborted: 0, whole: 0 };
    // Eight pages: one sequence of the longest, so that others are preempted.
    const small = { maxStepTokens: 48, maxModelLen: 256, dtype: "float32" as const };
    const bytes = 8 * 2 * 2 * pageSize * 2 * 32 * 4;
    const [one, two] = await Promise.all(
      [1, 2].map((ranks) => open(directory, ranks, { ...small, cacheBytes: bytes })),
    );
    expect((two as LlamaRunner).pageCount).toBe(8);
    for (let seed = 0; seed < 4; seed++) {
      const plans = plan(seed);
      const alone = await run(one as LlamaRunner, plans, adapters);
      const together = await run(two as LlamaRunner, plans, adapters);
      for (const { request, abortsAt } of plans) {
        const [a, b] = [alone.ended.get(request.id), together.ended.get(request.id)] as [Ended, Ended];
        // When an adapter is there, and with it what an abort cuts off, depends on the clock.
        const length = Math.min(a.tokens.length, b.tokens.length);
        if (abortsAt === Infinity) expect([b.reason, b.tokens.length]).toEqual([a.reason, a.tokens.length]);
        expect(b.tokens.slice(0, length)).toEqual(a.tokens.slice(0, length));
        a.logprobs.slice(0, length).forEach((value, i) => expect(b.logprobs[i]).toBeCloseTo(value, 3));
        totals[b.reason === "abort" ? "aborted" : "whole"]++;
      }
      expect(together.stats).toMatchObject({ running: 0, waiting: 0, pagesUsed: 0 });
      totals.preemptions += together.stats.preemptions;
      totals.prefixHitTokens += together.stats.prefixHitTokens;
    }
    // The schedules have met what they are for.
    expect(totals.preemptions).toBeGreaterThan(1);
    expect(totals.prefixHitTokens).toBeGreaterThan(100);
    expect(totals.aborted).toBeGreaterThan(3);
    expect(totals.whole).toBeGreaterThan(20);
  },
);

describe.skipIf(process.arch !== "x64")("two emulated GPUs (need x86-64)", () => {
  test("give the CPU's logits, with an adapter too", async () => {
    const directory = familyDirectory("qwen2-bias");
    const adapter = await randomAdapter(directory, { rank: 2, seed: 1 });
    const logits = await Promise.all(
      [
        ["cpu", 1],
        ["emu", 2],
      ].map(async ([device, ranks]) => {
        const runner = await open(directory, ranks as number, { device: device as string });
        return runner.logitsOf(row(0, [1, 5, 9, 200], 0, { adapter: await runner.loadAdapter(adapter) }));
      }),
    );
    const [cpu, emu] = logits as [Float32Array, Float32Array];
    expect(farthest(emu, cpu) / largest(cpu)).toBeLessThan(1e-5);
  });
});

describe("numbers of ranks that cannot be", () => {
  const refusal = (family: string, ranks: number, options: Partial<RunnerOptions> = {}) =>
    open(familyDirectory(family), ranks, options).then(
      () => null,
      (error: Error) => `${error.name}: ${error.message}`,
    );

  test("heads, key/value heads and the intermediate size are shared out whole", async () => {
    expect(await refusal("llama-mha", 3)).toBe(
      "UsageError: --tensor-parallel 3 does not divide the 4 query heads; this model can be shared out to 1, 2, or 4.",
    );
    expect(await refusal("llama-gqa-rope3", 6)).toStartWith(
      "UsageError: --tensor-parallel 6 does not divide the 8 query heads; ",
    );
  });

  test("more ranks than GPUs", () => {
    const device = { ordinal: 0, name: "", memoryBytes: 0, capability: 90, multiprocessors: 1, peers: [] };
    const driver = { state: "working" as const, cuda: 13000, devices: [device] };
    expect(() => checkDevices(2, driver)).toThrow(
      "--tensor-parallel 2 needs as many GPUs, and this machine has 1; koala doctor lists it.",
    );
    expect(() => checkDevices(1, driver)).not.toThrow();
  });

  test("rows of quantised weights are shared out in whole blocks", async () => {
    expect(await refusal("mistral-swa", 2, { dtype: "int8" })).toBe(
      `UsageError: ${familyDirectory("mistral-swa")}: model.layers.0.mlp.down_proj.weight has rows of 160 elements, of which each rank has 80; int8 weights have a scale for every 32, so rows must be a multiple of 32. Choose --dtype bfloat16 or a smaller --tensor-parallel.`,
    );
  });

  test("a cache that no rank can hold is told with a rank's figures, and no rank is left", async () => {
    expect(await refusal("llama-mha", 2, { cacheBytes: 1000 })).toBe(
      "UsageError: A KV cache of 0.00 GiB a rank holds 0 tokens, fewer than one sequence of 256, which takes 0.00 GiB. Lower --max-model-len or raise --cache-memory.",
    );
  });
});
