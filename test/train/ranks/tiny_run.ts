/** A run small enough to be killed and started again a dozen times: three layers, twelve documents, six steps. */
import { setDefaultTimeout } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatasetWriter } from "../../../src/data/shard.ts";
import type { TrainEvent } from "../../../src/train/events.ts";
import { launchRanks, type LaunchOptions } from "../../../src/train/ranks/launch.ts";
import { parseRecipe } from "../../../src/train/recipe.ts";
import { uniform } from "../../../src/util/rng.ts";
import { selfCommand } from "../../../src/util/self_command.ts";
import { temporaryFolder } from "../../support/temporary.ts";

const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 32,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 64,
  num_hidden_layers: 3,
  vocab_size: 64,
  max_position_embeddings: 64,
  eos_token_id: 2,
};

export interface StartOptions extends Partial<LaunchOptions> {
  resume?: boolean;
  /** Of the ranks. */
  variables?: Record<string, string>;
}

/** Where runs of one test file live, with their model and data. */
export interface RunFolder {
  path: string;
  model: string;
  /** Single documents, pairs for DPO, and pairs with labels for KTO. */
  data: string;
  pairs: string;
  labelled: string;
}

export async function runFolder({ tied = false } = {}): Promise<RunFolder> {
  // Every test starts processes, which a busy machine takes its time for.
  setDefaultTimeout(60_000);
  const path = temporaryFolder("ranks");
  const model = join(path, "model");
  await Bun.write(join(model, "config.json"), JSON.stringify({ ...config, tie_word_embeddings: tied }));
  const [data, pairs, labelled] = [join(path, "data"), join(path, "pairs"), join(path, "labelled")];
  await writeDocuments(data, {});
  await writeDocuments(pairs, { pairs: true });
  await writeDocuments(labelled, { pairs: true, labels: true });
  return { path, model, data, pairs, labelled };
}

async function writeDocuments(
  directory: string,
  { pairs = false, labels = false }: { pairs?: boolean; labels?: boolean },
): Promise<void> {
  const writer = await DatasetWriter.create(directory);
  const random = (length: number, seed: number) =>
    Array.from({ length }, (_, i) => Math.floor(config.vocab_size * uniform(seed, i)));
  for (let d = 0; d < 12; d++)
    writer.add([
      { ids: random(5, Math.floor(d / 2)), loss: 0, source: "user", turn: 0 },
      { ids: random((pairs ? 6 : 15) + (d % 8), 100 + d), loss: 1, source: "assistant", turn: 1 },
    ]);
  if (labels) for (let i = 0; i < 6; i++) writer.addLabel(i % 3 !== 0);
  await writer.finish({ hash: "tiny", pairs, inputs: { template: "test" }, report: {} });
}

export const dataOf = ({ data, pairs, labelled }: RunFolder, method: "sft" | "dpo" | "kto"): string =>
  ({ sft: data, dpo: pairs, kto: labelled })[method];

export class TinyRun {
  private static runs = 0;
  readonly events: TrainEvent[] = [];
  /** Reports of failures that a restart followed. */
  readonly reports: string[] = [];

  /** `settings` change the recipe. `output` is a folder of its own. */
  constructor(
    private readonly folder: RunFolder,
    private readonly settings: string[] = [],
    readonly output = join(folder.path, `run-${TinyRun.runs++}`),
  ) {}

  /** Losses by step; a step that was done again replaces the one that was lost. */
  losses(): number[] {
    const byStep = new Map(
      this.events.flatMap((event) => (event.type === "step" ? [[event.step, event.loss]] : [])),
    );
    return [...byStep].sort(([a = 0], [b = 0]) => a - b).map(([, loss]) => loss as number);
  }

  /** What it said at the end and on the way: samples and validation. */
  seen(): TrainEvent[] {
    return this.events.filter(({ type }) => type === "sample" || type === "evaluation");
  }

  /** Of the exported model's bytes. */
  weights(): string {
    return Bun.hash(readFileSync(join(this.output, "model", "model.safetensors"))).toString(16);
  }

  checkpoints(): string[] {
    return readdirSync(join(this.output, "checkpoints")).sort();
  }

  /** Real processes of the program, as `koala train --ranks` starts them. */
  start({ world = 2, resume = false, variables = {}, ...options }: StartOptions = {}): Promise<
    "finished" | "stopped"
  > {
    const { model } = this.folder;
    const recipe = parseRecipe(this.recipe(), "recipe.toml", this.settings);
    const prompts = [{ ids: [1, 2, 3], tokensMax: 4, stopIds: [2] }];
    const dataset = dataOf(this.folder, recipe.method.type);
    return launchRanks({
      world,
      run: { recipe, model, dataset, resume, measure: false, prompts },
      command: (run) => selfCommand("rank", run),
      env: { ...process.env, ...variables },
      restartDelayMs: 10,
      onRestart: (report) => this.reports.push(report),
      onMessage: (message) => message.type === "event" && this.events.push(message.event),
      ...options,
    });
  }

  recipe(): string {
    return `
output = ${JSON.stringify(this.output)}
sequence_length = 32
rows_per_step = 4
micro_rows = 1
steps = 6
seed = 3
threads = 1
precision = "float32"
export_dtype = "float32"
[checkpoint]
epochs = false
interval = 2
keep = 2
[model]
path = "test"
init = "random"
[data]
dataset = "data"
[schedule]
type = "constant"
learning_rate = 1e-2
`;
  }
}
