/** A few steps of training on another device end where the CPU's end: the GPU's sources, run by the emulator. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { buildEmulator } from "../../ffi/build_gpu.ts";
import { DatasetWriter } from "../../src/data/shard.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { parseRecipe } from "../../src/train/recipe.ts";
import { runTraining } from "../../src/train/run.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { koala } from "../support/refusal.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = temporaryFolder("devices");
const config = {
  architectures: ["Qwen3ForCausalLM"], // with norms of queries and keys, so that every backward op has its turn
  model_type: "qwen3",
  hidden_size: 32,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 16,
  intermediate_size: 48,
  num_hidden_layers: 2,
  vocab_size: 40,
  max_position_embeddings: 64,
  tie_word_embeddings: false,
  eos_token_id: 2,
};

const recipeText = `
output = "out"
sequence_length = 24
rows_per_step = 2
micro_rows = 1
steps = 3
seed = 3
export_dtype = "float32"
[model]
path = "test"
init = "random"
[data]
dataset = "data"
[schedule]
type = "constant"
learning_rate = 1e-2
`;

async function trained(
  device: string,
  settings: string[],
): Promise<{ losses: number[]; weights: Float32Array }> {
  const folder = join(root, `${device}-${settings.join("-").replace(/\W/g, "")}`);
  await Bun.write(join(folder, "base", "config.json"), JSON.stringify(config));
  const writer = await DatasetWriter.create(join(folder, "data"));
  for (let i = 0; i < 12; i++)
    writer.add([
      { ids: [1, 3 + i, 4 + ((7 * i) % 30)], loss: 0, source: "user", turn: 0 },
      {
        ids: Array.from({ length: 3 + (i % 4) }, (_, k) => 5 + ((i * 5 + k) % 30)),
        loss: 1,
        source: "a",
        turn: 1,
      },
    ]);
  await writer.finish({ hash: "devices", pairs: false, inputs: {}, report: {} });
  const losses: number[] = [];
  const made = await runTraining({
    recipe: parseRecipe(recipeText, "recipe.toml", [
      ...settings,
      `device="${device}"`,
      `output=${JSON.stringify(join(folder, "out"))}`,
    ]),
    model: join(folder, "base"),
    dataset: join(folder, "data"),
    resume: false,
    measure: false,
    onEvent: (event: TrainEvent) => void (event.type === "step" && losses.push(event.loss)),
  });
  const { tensors } = await openCheckpoint(made!);
  const parts = await Promise.all(
    [...tensors.values()].map(
      async ({ file, begin, end }) => new Float32Array(await Bun.file(file).slice(begin, end).arrayBuffer()),
    ),
  );
  return { losses, weights: Float32Array.from(parts.flatMap((part) => [...part])) };
}

/** Of a to b, relative to b. */
function distance(a: Float32Array, b: Float32Array): number {
  let [difference, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

describe.skipIf(process.arch !== "x64")("training on an emulated GPU (needs x86-64)", () => {
  test.each([
    ["float32", ['precision="float32"'], 1e-5, 1e-4],
    [
      "bf16 with dropout and recomputation",
      ['precision="bf16"', "dropout.residual=0.1", 'recompute="block"'],
      2e-2,
      2e-2,
    ],
  ] as const)("in %s ends where the CPU's ends", async (_, settings, lossError, weightError) => {
    await buildEmulator({ quiet: true });
    const cpu = await trained("cpu", [...settings]);
    const emu = await trained("emu", [...settings]);
    expect(cpu.losses).toHaveLength(3);
    emu.losses.forEach((loss, i) => expect(Math.abs(loss - cpu.losses[i]!)).toBeLessThan(lossError));
    expect(distance(emu.weights, cpu.weights)).toBeLessThan(weightError);
  });
});

test("a device that is not there is told in one sentence, before anything is written", async () => {
  const recipe = join(root, "recipe.toml");
  await Bun.write(recipe, recipeText);
  const { code, err } = await koala(["train", recipe, "--device", "tpu"]);
  expect([code, err]).toEqual([1, expect.stringContaining("device: must be cpu, cuda")]);
});
