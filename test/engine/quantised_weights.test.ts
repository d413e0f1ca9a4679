/** Models with weights of int8 and int4: the bfloat16 model of the dequantised weights bit for bit, how far that is from the
 *  original, and what stands beside such weights. */
import { describe, expect, test } from "bun:test";
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { loadRunner, defaultRunnerOptions } from "../../src/engine/load_runner.ts";
import type { LlamaRunner } from "../../src/engine/llama_runner.ts";
import type { StepRow } from "../../src/engine/runner.ts";
import { builtinModel } from "../../src/model/builtin_model.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { writeSafetensors } from "../../src/model/safetensors.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { dequantised, type QuantType } from "../ffi/quantise.ts";
import { decode, encode } from "../ffi/target.ts";
import { cosine, readGolden } from "../support/golden.ts";
import { greedyIds, openModel, row, testDevice } from "../support/models.ts";
import { families, familyDirectory } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { writeJson } from "../support/tiny_model.ts";

const V = 512;
const folder = temporaryFolder("quantised-weights");
const quantTypes = { int8: "q8", int4: "q4" } as const;
const dtypes = ["int8", "int4"] as const;

/** Cosines of the rows of logits of `ids` with those that were wanted. */
function cosines(
  runner: LlamaRunner,
  ids: number[],
  wanted: Float32Array,
  more: Partial<StepRow> = {},
): number[] {
  const [logits, size] = [runner.logitsOf(row(0, ids, 0, more)), wanted.length / ids.length];
  return ids.map((_, t) =>
    cosine(logits.subarray(t * size, (t + 1) * size), wanted.subarray(t * size, (t + 1) * size)),
  );
}

const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** A copy of a model whose matrices, the embedding apart, are bf16(q d). */
async function dequantisedModel(family: string, type: QuantType): Promise<string> {
  const directory = join(folder, `${family}-${type}`);
  await mkdir(directory);
  const { tensors } = await openCheckpoint(familyDirectory(family));
  const written = [...tensors].map(async ([name, tensor]) => {
    const bytes = await Bun.file(tensor.file).slice(tensor.begin, tensor.end).bytes();
    const { shape } = tensor;
    if (shape.length !== 2 || name === "model.embed_tokens.weight")
      return { name, dtype: tensor.dtype, shape, data: bytes };
    const values =
      tensor.dtype === "F32" ? new Float32Array(bytes.buffer) : decode(new Uint16Array(bytes.buffer), "bf16");
    const data = new Uint8Array(encode(dequantised(values, type), "bf16").buffer);
    return { name, dtype: "BF16" as const, shape, data };
  });
  await writeSafetensors(join(directory, "model.safetensors"), await Promise.all(written));
  await copyFile(join(familyDirectory(family), "config.json"), join(directory, "config.json"));
  return directory;
}

describe.each(["llama-mha", "mistral-swa", "qwen3-qknorm"] as const)("%s", (family) => {
  test.each(dtypes)(
    "with weights of %s is the bfloat16 model of the dequantised weights, bit for bit",
    async (dtype) => {
      const ids = (await readGolden(family)).ids("greedy.ids")[0] as number[];
      const directory = await dequantisedModel(family, quantTypes[dtype]);
      const [runner, meant] = await Promise.all([
        openModel(familyDirectory(family), { dtype }),
        openModel(directory, { dtype: "bfloat16" }),
      ]);
      const logits = runner.logitsOf(row(0, ids, 0));
      expect(Array.from(logits)).toEqual(Array.from(meant.logitsOf(row(0, ids, 0))));
      const chunk = runner.logitsOf(row(1, ids.slice(0, 9), 0));
      expect(Array.from(chunk)).toEqual(Array.from(logits.subarray(0, 9 * V)));
      runner.close();
      meant.close();
    },
  );
});

// These weights are random: what rounding does to them, nothing averages out. bfloat16 alone gives 0.9999.
test.each(families)("%s in int8 and int4 is near PyTorch's logits", async (family) => {
  const golden = await readGolden(family);
  const { values } = golden.floats("logits");
  for (const [dtype, average, least] of [
    ["int8", 0.999, 0.995],
    ["int4", 0.9, 0.3],
  ] as const) {
    const runner = await openModel(familyDirectory(family), { dtype });
    const all = golden
      .ids("inputs.ids")
      .flatMap((ids, b) =>
        cosines(runner, ids, values.subarray(b * ids.length * V, (b + 1) * ids.length * V)),
      );
    expect(mean(all)).toBeGreaterThan(average);
    expect(Math.min(...all)).toBeGreaterThan(least);
    runner.close();
  }
});

describe.skipIf(testDevice !== "cpu")("a trained model, koala-tiny", () => {
  const said = "BEGINNING OF CONVERSATION: USER: What is 7 + 5? GPT: 7 + 5 = 12.";

  test.each([
    ["int8", 0.9999, 0.01],
    ["int4", 0.98, 0.05],
  ] as const)(
    "in %s has logits of cosine above %d, and answers as in float32",
    async (dtype, least, worse) => {
      const ids = (await loadTokenizer(builtinModel())).encode(said);
      const [exact, runner] = await Promise.all([
        openModel(builtinModel(), { dtype: "float32" }),
        openModel(builtinModel(), { dtype }),
      ]);
      const all = cosines(runner, ids, exact.logitsOf(row(0, ids, 0)));
      expect(mean(all)).toBeGreaterThan(least);
      const prompt = ids.slice(0, -9);
      expect(greedyIds(runner, prompt, 8)).toEqual(greedyIds(exact, prompt, 8));
      const loss = (model: LlamaRunner): number => {
        const targets = [...ids.slice(1), -1];
        const scores = model.step([row(0, ids, 0, { score: { targets, top: 0 } })])[0]?.scores ?? [];
        return -mean(scores.slice(-9, -1).map((score) => score?.logprob ?? Number.NaN));
      };
      expect(Math.abs(loss(runner) - loss(exact))).toBeLessThan(worse);
      runner.close();
      exact.close();
    },
  );
});

describe("beside weights of int8 and int4", () => {
  test("an adapter gives near PEFT's logits, and the same bits alone and in a mixed batch", async () => {
    for (const [dtype, least] of [
      ["int8", 0.999],
      ["int4", 0.9],
    ] as const) {
      const runner = await openModel(familyDirectory("llama-mha"), { dtype });
      const adapter = await runner.loadAdapter(join(familyDirectory("llama-mha"), "lora"));
      const golden = await readGolden("llama-mha");
      const wanted = golden.floats("lora.logits").values;
      const ids = golden.ids("inputs.ids")[0] as number[];
      expect(mean(cosines(runner, ids, wanted.subarray(0, ids.length * V), { adapter }))).toBeGreaterThan(
        least,
      );
      const score = { targets: [...ids.slice(1), -1], top: 1 };
      const alone = runner.step([row(0, ids, 0, { adapter, score })])[0]?.scores;
      const [, mixed] = runner.step([row(1, ids, 0, { score }), row(2, ids, 0, { adapter, score })]);
      expect(mixed?.scores).toEqual(alone as never);
      adapter.close();
      runner.close();
    }
  });

  test("keys and values stay bfloat16, and the engine says what the weights are", async () => {
    const open = async (dtype: "bfloat16" | (typeof dtypes)[number]) => {
      const directory = familyDirectory("llama-mha");
      const options = {
        ...defaultRunnerOptions,
        directory,
        device: testDevice,
        dtype,
        cacheBytes: 2 ** 24,
        threads: 1,
      };
      const { runner, info } = await loadRunner(options);
      runner.close();
      return info;
    };
    const [whole, ...quantised] = await Promise.all([open("bfloat16"), ...dtypes.map(open)]);
    expect(quantised.map(({ dtype }) => dtype)).toEqual([...dtypes]);
    for (const info of quantised) expect(info.cacheBytes).toBe(whole.cacheBytes);
    expect(quantised[0]!.weightBytes / whole.weightBytes).toBeLessThan(0.54);
    expect(quantised[1]!.weightBytes / whole.weightBytes).toBeLessThan(0.29);
  });

  test("a matrix whose rows are no whole blocks is refused by name", async () => {
    const directory = join(folder, "odd");
    await mkdir(directory);
    const { tensors } = await openCheckpoint(familyDirectory("llama-mha"));
    const config = await Bun.file(join(familyDirectory("llama-mha"), "config.json")).json();
    const F = 40;
    const written = [...tensors].map(([name, tensor]) => {
      const shape = tensor.shape.map((n) => (n === config.intermediate_size ? F : n));
      const size = shape.reduce((a, b) => a * b, 1);
      return { name, dtype: "BF16" as const, shape, data: new Uint8Array(2 * size) };
    });
    await writeSafetensors(join(directory, "model.safetensors"), written);
    await writeJson(directory, "config.json", { ...config, intermediate_size: F });
    for (const dtype of dtypes)
      await expect(openModel(directory, { dtype })).rejects.toThrow(
        `${directory}: model.layers.0.mlp.down_proj.weight has rows of 40 elements; ${dtype} weights have a scale for every 32, so rows must be a multiple of 32. Choose --dtype bfloat16.`,
      );
    (await openModel(directory, { dtype: "bfloat16" })).close();
  });
});
