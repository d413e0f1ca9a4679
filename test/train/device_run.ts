/** A few steps of training of a tiny model on a device, and what they end with. As a program it prints that as JSON, for a
 *  library whose environment is to be its own. */
import { join } from "node:path";
import { DatasetWriter } from "../../src/data/shard.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { parseRecipe } from "../../src/train/recipe.ts";
import { runTraining } from "../../src/train/run.ts";

export interface Trained {
  losses: number[];
  weights: number[];
}

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
  max_position_embeddings: 160,
  tie_word_embeddings: false,
  eos_token_id: 2,
};

export const recipeText = `
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

/** Trains in a folder of its own below `root`. */
export async function trained(root: string, device: string, settings: string[]): Promise<Trained> {
  const folder = join(root, `${device}-${settings.join("-").replace(/\W/g, "")}`);
  await Bun.write(join(folder, "base", "config.json"), JSON.stringify(config));
  const writer = await DatasetWriter.create(join(folder, "data"));
  for (let i = 0; i < 60; i++)
    writer.add([
      { ids: [1, 3 + (i % 30), 4 + ((7 * i) % 30)], loss: 0, source: "user", turn: 0 },
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
  return { losses, weights: parts.flatMap((part) => [...part]) };
}

if (import.meta.main) {
  const [root, device, ...settings] = process.argv.slice(2);
  console.log(JSON.stringify(await trained(root!, device!, settings)));
}
