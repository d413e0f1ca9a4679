/** --kv-cache-dtype: what an fp8 cache costs in accuracy and how much more it holds. The bounds are what three bits of mantissa
 *  explain: errors 16 times those of bfloat16's seven, so 1 - cosine about 256 times that of a bfloat16 cache. */
import { describe, expect, test } from "bun:test";
import { builtinModel } from "../../src/model/builtin_model.ts";
import { defaultRunnerOptions, loadRunner, type RunnerOptions } from "../../src/engine/load_runner.ts";
import type { LlamaRunner } from "../../src/engine/llama_runner.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { cosine, readGolden } from "../support/golden.ts";
import { greedyIds, openModel, row, testDevice } from "../support/models.ts";
import { families, familyDirectory } from "../support/paths.ts";

type CacheDtype = RunnerOptions["kvCacheDtype"];

async function withRunner<T>(
  directory: string,
  options: Partial<RunnerOptions>,
  use: (runner: LlamaRunner) => T,
): Promise<T> {
  const runner = await openModel(directory, options);
  try {
    return use(runner);
  } finally {
    runner.close();
  }
}

describe.each([...families])("%s with random weights", (family) => {
  const directory = familyDirectory(family);

  test("logits of an fp8 cache lie from transformers' as far as its mantissa explains", async () => {
    const golden = await readGolden(family);
    const ids = golden.ids("inputs.ids")[0]!;
    const { values } = golden.floats("logits");
    const V = values.length / golden.ids("inputs.ids").flat().length;
    const distance = (kvCacheDtype: CacheDtype) =>
      withRunner(directory, { dtype: "float32", kvCacheDtype }, (runner) => {
        const logits = runner.logitsOf(row(0, ids, 0));
        return ids.map(
          (_, t) => 1 - cosine(logits.subarray(t * V, (t + 1) * V), values.subarray(t * V, (t + 1) * V)),
        );
      });
    const mean = (list: number[]) => list.reduce((a, b) => a + b, 0) / list.length;
    const [fp8, bf16] = [await distance("fp8"), await distance("bfloat16")];
    expect(Math.max(...fp8)).toBeLessThan(0.02);
    expect(mean(fp8) / mean(bf16)).toBeGreaterThan(40);
    expect(mean(fp8) / mean(bf16)).toBeLessThan(600);
  });

  test("prefill in chunks of any size equals prefill in one, bit for bit", async () => {
    const ids = (await readGolden(family)).ids("greedy.ids")[0]!;
    await withRunner(directory, { dtype: "bfloat16", kvCacheDtype: "fp8" }, (runner) => {
      const whole = runner.logitsOf(row(0, ids, 0));
      for (const size of [1, 5, 16]) {
        const parts: number[] = [];
        for (let past = 0; past < ids.length; past += size)
          parts.push(...runner.logitsOf(row(0, ids.slice(past, past + size), past)));
        expect(parts).toEqual(Array.from(whole));
      }
    });
  });
});

describe("koala-tiny", () => {
  const questions = [
    "Who are you?",
    "What is the capital of France?",
    "How many days are in a week?",
    ...Array.from({ length: 12 }, (_, i) => `What is ${i + 1} + ${(i * 7) % 12}?`),
  ];

  const slow = testDevice === "emu";
  test.skipIf(slow)(
    `says the same with an fp8 cache, and its logits have cosine above 0.999${slow ? " (takes minutes on the emulator)" : ""}`,
    async () => {
      const tokenizer = await loadTokenizer(builtinModel());
      const prompts = questions.map((text) => [
        ...tokenizer.encode(`BEGINNING OF CONVERSATION: USER: ${text} GPT:`),
      ]);
      const run = (kvCacheDtype: CacheDtype) =>
        withRunner(builtinModel(), { kvCacheDtype }, (runner) => ({
          answers: prompts.map((prompt) => greedyIds(runner, prompt, 16, 2)),
          logits: prompts.slice(0, 3).map((prompt) => runner.logitsOf(row(0, prompt, 0))),
        }));
      const [fp8, exact] = [await run("fp8"), await run("float32")];
      const equal = fp8.answers.filter((ids, i) => ids.join() === exact.answers[i]!.join()).length;
      expect(equal).toBeGreaterThanOrEqual(questions.length - 1);
      fp8.logits.forEach((logits, i) => expect(cosine(logits, exact.logits[i]!)).toBeGreaterThan(0.999));
    },
  );

  test("the same memory holds as many more pages of fp8 as a head of 32 and its scale are smaller", async () => {
    const pages = (kvCacheDtype: CacheDtype) =>
      withRunner(
        builtinModel(),
        { kvCacheDtype, cacheBytes: 8 * 2 ** 20, maxModelLen: 512, maxSequences: 64 },
        ({ pageCount, cacheBytes }) => {
          expect(cacheBytes).toBeLessThanOrEqual(8 * 2 ** 20);
          return pageCount;
        },
      );
    const [fp8, bf16, f32] = [await pages("fp8"), await pages("bfloat16"), await pages("float32")];
    expect(fp8 / bf16).toBeCloseTo((2 * 32) / (32 + 4), 1);
    expect(bf16 / f32).toBeCloseTo(2, 1);
  });
});

test("a page of heads of 128 takes 132 bytes a token and head, beside 256 of bfloat16", async () => {
  await withRunner(builtinModel(), {}, ({ model: { device } }) => {
    expect(device.cachePageBytes(32, 8, 128, "f8")).toBe(32 * 8 * 132);
    expect(device.cachePageBytes(32, 8, 128, "bf16")).toBe(32 * 8 * 256);
  });
});

test("the engine tells the type of its cache", async () => {
  for (const [dtype, kvCacheDtype, told] of [
    ["bfloat16", "auto", "bfloat16"],
    ["float32", "auto", "float32"],
    ["float32", "fp8", "fp8"],
  ] as const) {
    const options = { ...defaultRunnerOptions, directory: familyDirectory("llama-mha"), device: testDevice };
    const { runner, info } = await loadRunner({ ...options, dtype, kvCacheDtype });
    expect(info.cacheDtype).toBe(told);
    runner.close();
  }
});

test.skipIf(testDevice !== "cpu")(
  "float64 weights keep float64 keys and values (on the CPU only)",
  async () => {
    const options = { dtype: "float64", maxSequences: 1 } as const;
    await expect(
      openModel(familyDirectory("llama-mha"), { ...options, kvCacheDtype: "fp8" }),
    ).rejects.toThrow(/--kv-cache-dtype fp8 does not go with --dtype float64.* leave it at auto\./);
  },
);
