/** What a run will take, before it starts: bytes by kind, operations, hours and cost.
 *  Always: bytes come from the code that allocates; time comes from running one layer of this model, with the recipe's
 *  shapes, on this machine, so that it contains whatever makes the machine slow. */
import type { Dataset } from "../data/shard.ts";
import type { LlamaConfig } from "../model/config.ts";
import type { Device } from "../tensor/device.ts";
import { bytesText } from "../util/progress.ts";
import { type ActivationType, rungs } from "./activations.ts";
import { type MemoryKind, memoryKinds, openMemory, planMemory } from "./allocation.ts";
import { flatLayout } from "../model/flat_layout.ts";
import { adapterLayout } from "./adapters.ts";
import { DataOrder, readRow } from "./data_order.ts";
import { stepFlops, workOf } from "./flops.ts";
import { TrainModel } from "./model.ts";
import { TrainOps } from "./ops.ts";
import { defaultAdamW, Optimizer } from "./optimizer.ts";
import type { Recipe } from "./recipe.ts";
import { methodOf, setupOf } from "./run_options.ts";
import { alone } from "./flat_state.ts";
import { type StepRow } from "./loss.ts";
import { Stepper } from "./step.ts";

export interface Plan {
  parameters: number;
  trainedParameters: number;
  /** Of one rank. */
  bytes: Record<MemoryKind, number>;
  activations: {
    type: ActivationType;
    /** What bfloat16 would save of all kinds together; null where it is chosen, or precision = "float32" rules it out. */
    savedBytes: number | null;
  };
  totalBytes: number;
  steps: number;
  /** Of the whole run. */
  tokens: number;
  /** Tokens of the rows' room that documents fill. */
  fill: number;
  flops: number;
  /** null: not measured. */
  time: { tokensPerSecond: number; hours: number; cost: number | null } | null;
}

export interface PlanOptions {
  recipe: Recipe;
  config: LlamaConfig;
  dataset: Dataset;
  device: Device;
  /** Run a layer for the time; takes a few micro-batches. */
  measure: boolean;
}

export function planRun({ recipe, config, dataset, device, measure }: PlanOptions): Plan {
  const share = { rank: 0, world: recipe.ranks };
  const setup = setupOf(recipe, config, share);
  const bytes = planMemory(device, config, setup);
  const half = planMemory(device, config, { ...setup, activations: "bfloat16" });
  const canHalve = setup.activations === "float32" && setup.precision !== "float32" && sum(half) < sum(bytes);
  const order = new DataOrder(dataset, {
    sequenceLength: recipe.sequence_length,
    seed: recipe.seed,
    rowsPerStep: recipe.rows_per_step,
    epochs: recipe.epochs ?? null,
    steps: recipe.steps ?? null,
  });
  const layout = flatLayout(config);
  const { tokens, rows, flops } = totalWork(recipe, config, dataset, order);
  const room = recipe.sequence_length * (dataset.pairs ? 2 : 1);
  const seconds =
    measure && order.steps > 0 ? secondsOfStep({ recipe, config, dataset, device }, order) : null;
  const hours = seconds === null ? 0 : (seconds * order.steps) / 3600;
  return {
    parameters: layout.parameterCount,
    trainedParameters: setup.lora ? adapterLayout(config, setup.lora).parameterCount : layout.parameterCount,
    bytes,
    activations: { type: setup.activations, savedBytes: canHalve ? sum(bytes) - sum(half) : null },
    totalBytes: sum(bytes),
    steps: order.steps,
    tokens,
    fill: rows === 0 ? 1 : tokens / (rows * room),
    flops,
    time:
      seconds === null
        ? null
        : {
            tokensPerSecond: tokens / order.steps / seconds,
            hours,
            cost: recipe.cost_per_hour === undefined ? null : hours * recipe.cost_per_hour,
          },
  };
}

const sum = (bytes: Record<MemoryKind, number>): number =>
  memoryKinds.reduce((total, kind) => total + bytes[kind], 0);

/** Says which setting would make the run fit into `available` bytes; null where none alone does. */
export function fittingChange(
  { recipe, config, device }: Pick<PlanOptions, "recipe" | "config" | "device">,
  available: number,
): string | null {
  const later = rungs.slice(rungs.indexOf(recipe.recompute) + 1);
  const changes: [string, Recipe][] = [
    ...later.map((recompute): [string, Recipe] => [`recompute = "${recompute}"`, { ...recipe, recompute }]),
    ...(recipe.micro_rows > 1 ? [["micro_rows = 1", { ...recipe, micro_rows: 1 }] as [string, Recipe]] : []),
    ...(recipe.precision === "float32"
      ? []
      : [['activations = "bfloat16"', { ...recipe, activations: "bfloat16" }] as [string, Recipe]]),
    ['micro_rows = 1 and recompute = "block"', { ...recipe, micro_rows: 1, recompute: "block" }],
    ['precision = "bf16"', { ...recipe, precision: "bf16" }],
    [
      'precision = "bf16", micro_rows = 1 and recompute = "block"',
      { ...recipe, precision: "bf16", micro_rows: 1, recompute: "block" },
    ],
    [
      "a [lora] table with rank = 16",
      {
        ...recipe,
        lora: recipe.lora ?? {
          rank: 16,
          alpha: 32,
          dropout: 0,
          targets: ["q_proj", "k_proj", "v_proj", "o_proj"],
          rslora: false,
        },
      },
    ],
  ];
  for (const [name, changed] of changes) {
    const setup = setupOf(changed, config, { rank: 0, world: recipe.ranks });
    const bytes = sum(planMemory(device, config, setup)) * recipe.ranks;
    if (bytes <= available) return `${name}, which needs ${bytesText(bytes)}`;
  }
  return null;
}

function totalWork(recipe: Recipe, config: LlamaConfig, dataset: Dataset, order: DataOrder) {
  const setup = setupOf(recipe, config, alone);
  // The head runs on trained tokens; their share is known for the whole data set.
  const tokensOfData = dataset.lengths.reduce((a, b) => a + b, 0);
  const trainedShare = tokensOfData > 0 ? dataset.trainedTokens / tokensOfData : 0;
  let [tokens, rows, flops] = [0, 0, 0];
  for (let step = 0; step < order.steps; step++) {
    const packed = order.rows(step);
    const isTrained = (d: number) => !dataset.labels || d % 2 === 0;
    const workOfThose = (wanted: boolean) =>
      workOf(
        packed.flatMap((row) =>
          Array.from(row)
            .filter((d) => isTrained(d) === wanted)
            .map((d) => ({
              length: dataset.lengths[d] as number,
              trained: dataset.lengths[d]! * trainedShare,
            })),
        ),
      );
    const [work, scored] = [workOfThose(true), workOfThose(false)];
    const passes = recipe.method.type === "sft" ? 1 : 2;
    flops += stepFlops(config, work, { frozen: setup.lora !== null, rungs: setup.rungs, passes }).done;
    // KTO scores answers to other questions: forward alone, a third of a whole step.
    flops += stepFlops(config, scored, { frozen: false, rungs: [] }).useful / 3;
    tokens += work.tokens + scored.tokens;
    rows += packed.length;
  }
  return { tokens, rows, flops };
}

/** Seconds of the first step, from a model with one layer of the real one: the layer's time counts once for each layer,
 *  the optimizer's by parameters, and what is left (embedding, head) as it is. */
function secondsOfStep(
  { recipe, config, dataset, device }: Omit<PlanOptions, "measure">,
  order: DataOrder,
): number {
  const window = config.windows[0] ?? 0;
  const one: LlamaConfig = { ...config, layerCount: 1, windows: [window] };
  const full = setupOf(recipe, config, alone);
  const setup = { ...full, rungs: full.rungs.slice(0, 1) };
  const memory = openMemory(device, one, setup);
  const ops = new TrainOps(device);
  const clock = new LayerClock();
  const hooks = { need: clock.need, done: clock.done, point: clock.point };
  const optimizer = new Optimizer(ops, memory.trained, defaultAdamW, 0, alone);
  const model = new TrainModel(ops, one, memory, setup, hooks);
  const options = {
    method: methodOf(recipe),
    microRows: recipe.micro_rows,
    seed: 0,
    forget: recipe.fcm,
    share: alone,
  };
  const stepper = new Stepper(device, memory, model, optimizer, options, hooks);
  try {
    const whole = order.rows(0);
    const perRank = Math.ceil(whole.length / recipe.ranks);
    const rows: StepRow[] = whole
      .slice(0, Math.min(perRank, 2 * recipe.micro_rows))
      .map((row) => readRow(dataset, row));
    const micros = Math.ceil(perRank / recipe.micro_rows) / Math.ceil(rows.length / recipe.micro_rows);
    stepper.run(0, rows, 0);
    const samples = [1, 2, 3].map((step) => {
      clock.start();
      stepper.run(step, rows, 0);
      const { layer, rest, update } = clock.stop();
      const layers = setup.lora ? adapterLayout(config, setup.lora) : flatLayout(config);
      const growth = layers.parameterCount / memory.trained.layout.parameterCount;
      return micros * (layer * config.layerCount + rest) + update * growth;
    });
    return samples.sort((a, b) => a - b)[1] as number;
  } finally {
    memory.close();
  }
}

/** Splits a step into the layer's passes, the update, and the rest. */
class LayerClock {
  private begun = 0;
  private entered = 0;
  private layer = 0;
  private reduced = 0;
  /** When gradients were zeroed, which grows with the parameters as the update does. */
  private cleared = 0;

  start(): void {
    this.layer = 0;
    this.cleared = 0;
    this.begun = performance.now();
  }

  readonly need = (block: number): void => {
    if (block === 1) this.entered = performance.now();
    if (this.cleared === 0) this.cleared = performance.now();
  };
  readonly done = (block: number): void => {
    if (block === 1) this.layer += performance.now() - this.entered;
  };
  readonly point = (name: string): void => {
    if (name === "after_reduce") this.reduced = performance.now();
  };

  /** Seconds. */
  stop(): { layer: number; rest: number; update: number } {
    const end = performance.now();
    return {
      layer: this.layer / 1000,
      rest: (this.reduced - this.cleared - this.layer) / 1000,
      update: (end - this.reduced + this.cleared - this.begun) / 1000,
    };
  }
}
