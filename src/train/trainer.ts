/** The loop of a training run: rows of each step, step, events, checkpoints, the finished model.
 *  Always: everything a resumed run needs is in a checkpoint, and the data's cursor is the step; a run that was stopped at a
 *  checkpoint and resumed ends with the bits of one that was not. Knows nothing of HTTP, texts or engines. */
import type { Dataset } from "../data/shard.ts";
import type { LlamaConfig } from "../model/config.ts";
import { aligned, Arena } from "../tensor/arena.ts";
import { type Communicator, SoloCommunicator } from "../tensor/communicator.ts";
import { bytesOf, type Tensor } from "../tensor/tensor.ts";
import type { Device, DevicePeaks } from "../tensor/device.ts";
import type { TrainOps } from "./ops.ts";
import { UsageError } from "../util/errors.ts";
import { openMemory, type TrainMemory, type TrainSetup } from "./allocation.ts";
import { type Checkpoints, type CheckpointState, SaveError } from "./checkpoint/checkpoints.ts";
import { DataOrder, readRow } from "./data_order.ts";
import type { StepEvent, TrainEvent } from "./events.ts";
import { stateSlices } from "./flat_state.ts";
import { stepFlops, workOf } from "./flops.ts";
import { generateGreedily } from "./generate.ts";
import { type StepRow, totalWeight, trainedCount } from "./loss.ts";
import { TrainModel } from "./model.ts";
import { Optimizer } from "./optimizer.ts";
import type { ReportPhase } from "./ranks/heartbeat.ts";
import { ZeroHooks } from "./ranks/zero.ts";
import type { Recipe } from "./recipe.ts";
import { ReferenceCache } from "./reference_cache.ts";
import { methodOf, scheduleOf } from "./run_options.ts";
import { learningRate, type ScheduleConfig } from "./schedule.ts";
import { Stepper, type StepResult } from "./step.ts";

export interface TrainerParts {
  ops: TrainOps;
  recipe: Recipe;
  config: LlamaConfig;
  setup: TrainSetup;
  dataset: Dataset;
  validation: Dataset | null;
  checkpoints: Checkpoints | null;
  /** Other ranks; none by default. */
  communicator?: Communicator;
  /** Tells the supervisor what this rank does. */
  report?: ReportPhase;
  /** Prompts to continue at sample intervals, and the tokens that end an answer. */
  prompts?: { ids: number[]; tokensMax: number; stopIds: number[] }[];
  /** Measured peaks; null leaves utilisation out. */
  peaks: DevicePeaks | null;
  onEvent: (event: TrainEvent) => void;
  /** Awaited after the checkpoint at the end of each epoch but the last. */
  afterEpoch?: (step: number) => Promise<void>;
}

/** Why run() returned. */
export type Outcome = "finished" | "stopped";

export class Trainer {
  readonly memory: TrainMemory;
  readonly order: DataOrder;
  readonly model: TrainModel;
  /** Steps done. */
  step = 0;
  trainedTokens = 0;
  /** That run() took. */
  seconds = 0;
  readonly ops: TrainOps;
  readonly config: LlamaConfig;
  private readonly optimizer: Optimizer;
  private readonly stepper: Stepper;
  private readonly schedule: ScheduleConfig;
  private readonly communicator: Communicator;
  private readonly hooks: ZeroHooks;
  private references: Float64Array | null = null;
  /** By block, while weights are gathered from ranks that each have a share. */
  lowHalves: (Tensor | null)[] | undefined;
  private readonly device: Device;

  /** Allocates everything. Weights are zero until they are loaded. */
  constructor(private readonly parts: TrainerParts) {
    const { ops, recipe, config, setup, dataset, report } = parts;
    this.device = ops.device;
    this.communicator = parts.communicator ?? new SoloCommunicator(ops.device);
    this.ops = ops;
    this.config = config;
    const held = dataset.labels ? "kto" : dataset.pairs ? "dpo" : "sft";
    if (held !== recipe.method.type)
      throw new UsageError(
        `The data holds ${contents[held]}, which method ${recipe.method.type} cannot train on. Prepare the data for it, or change method.type.`,
      );
    this.order = new DataOrder(dataset, {
      sequenceLength: recipe.sequence_length,
      seed: recipe.seed,
      rowsPerStep: recipe.rows_per_step,
      epochs: recipe.epochs ?? null,
      steps: recipe.steps ?? null,
    });
    this.schedule = scheduleOf(recipe, this.order.steps);
    this.memory = openMemory(this.device, config, setup);
    const { base, trained, working } = this.memory;
    const zero = { base, trained, zeros: working.zeros, ...(report ? { report } : {}) };
    const hooks = new ZeroHooks(this.device, this.communicator, zero);
    this.hooks = hooks;
    this.model = new TrainModel(ops, config, this.memory, setup, hooks);
    const { beta1, beta2, epsilon, weight_decay: weightDecay, clip_norm: clipNorm } = recipe.optimizer;
    const adamw = { beta1, beta2, epsilon, weightDecay, clipNorm };
    this.optimizer = new Optimizer(ops, this.memory.trained, adamw, recipe.seed, setup.share);
    const options = {
      method: methodOf(recipe),
      microRows: recipe.micro_rows,
      seed: recipe.seed,
      forget: recipe.fcm,
      share: setup.share,
    };
    this.stepper = new Stepper(this.device, this.memory, this.model, this.optimizer, options, hooks);
  }

  /** Scores the reference model of DPO and KTO: the weights as they are before training, so runs call it before they resume. Scores
   *  of an earlier start are taken from disk. */
  prepare(): void {
    const { recipe, dataset } = this.parts;
    if (recipe.method.type === "sft") return;
    const cache = new ReferenceCache(recipe, dataset);
    const known = cache.read();
    const found = this.communicator.exchange(Float64Array.of(known ? 1 : 0), { of: "reference scores" });
    if (known && !found.includes(0)) {
      this.references = known;
      return;
    }
    this.references = this.scoreReferences();
    if (this.communicator.rank === 0) cache.write(this.references);
  }

  /** Takes up the checkpoint of `step`. Every rank calls it. */
  async resume(step: number): Promise<void> {
    const { checkpoints, dataset } = this.parts;
    if (!checkpoints) throw new Error("this run has no checkpoints");
    const state = await checkpoints.load(step, stateSlices(this.memory.trained));
    if (state.dataset !== dataset.hash)
      throw new UsageError(
        `Checkpoint ${step} was trained on other data (${String(state.dataset).slice(0, 16)}, now ${dataset.hash.slice(0, 16)}). Start anew, or restore the data.`,
      );
    refuseChanges(state.recipe as Recipe, this.parts.recipe, step);
    this.memory.trained.blocks.forEach((_, block) => this.hooks.gather(block));
    this.hooks.gathered();
    this.step = state.step;
    this.optimizer.updates = Number(state.updates);
    this.trainedTokens = Number(state.trainedTokens);
  }

  /** Trains to the end, or until `stop` is aborted: then a checkpoint is made first. */
  async run(stop?: AbortSignal): Promise<Outcome> {
    const { dataset, onEvent } = this.parts;
    const started = performance.now();
    onEvent({
      type: "start",
      step: this.step,
      steps: this.order.steps,
      documents: dataset.documents,
      parameters: this.memory.base.layout.parameterCount,
      trainedParameters: this.memory.trained.layout.parameterCount,
      memoryBytes: Object.values(this.memory.bytes).reduce((a, b) => a + b, 0),
      device: this.ops.device.description,
    });
    const clock = new Clock();
    while (this.step < this.order.steps) {
      if (this.anyStops(stop)) {
        await this.save();
        onEvent({
          type: "stop",
          step: this.step,
          reason: String(stop?.reason ?? "another rank was told to stop"),
        });
        return "stopped";
      }
      onEvent(this.trainStep(clock));
      await this.afterStep();
      // Lets messages, signals and heartbeats through between steps.
      await Bun.sleep(0);
    }
    this.seconds = (performance.now() - started) / 1000;
    return "finished";
  }

  /** Signals reach ranks at different times: all stop after the same step. */
  private anyStops(stop: AbortSignal | undefined): boolean {
    const own = Float64Array.of(stop?.aborted ? 1 : 0);
    return this.communicator.exchange(own, { of: `whether to stop at step ${this.step}` }).includes(1);
  }

  async save(): Promise<void> {
    const { checkpoints, dataset, recipe, onEvent } = this.parts;
    if (!checkpoints) return;
    const state: CheckpointState = {
      step: this.step,
      updates: this.optimizer.updates,
      trainedTokens: this.trainedTokens,
      seed: recipe.seed,
      dataset: dataset.hash,
      // Hashes of tokenizer and template among them.
      inputs: dataset.info.inputs,
      recipe,
    };
    this.parts.report?.(this.step, "save");
    const { trained } = this.memory;
    // In stage 0 every rank has all.
    const isMine = trained.stage > 0 || this.communicator.rank === 0;
    const directory = await checkpoints.save(state, isMine ? stateSlices(trained) : []);
    onEvent({ type: "checkpoint", step: this.step, directory });
  }

  /** Mean loss over the weighted tokens of a data set (DPO: of its chosen documents, KTO: of the answers labelled good). */
  evaluate(dataset: Dataset): { loss: number; tokens: number; accuracy: number } {
    let [sum, weight, tokens, trained, correct] = [0, 0, 0, 0, 0];
    for (let i = 0; i < dataset.documents; i += dataset.pairs ? 2 : 1) {
      if (dataset.labels && !dataset.labels[i >> 1]) continue;
      const document = dataset.read(i);
      sum -= this.stepper.score([document])[0] ?? 0;
      weight += totalWeight(document);
      tokens += document.ids.length;
      trained += trainedCount(document);
      correct += this.model.correct ?? 0;
    }
    return { loss: weight > 0 ? sum / weight : 0, tokens, accuracy: trained > 0 ? correct / trained : 0 };
  }

  /** Lets rank 0 read the base's weights as a whole until the result is closed, with the low halves of their masters where
   *  float32 is exported. Every rank calls it. */
  gatherWeights(): { close(): void } {
    const weights = this.hooks.gatherAll();
    const masters = this.gatherLowHalves();
    return {
      close: () => {
        masters?.close();
        this.lowHalves = undefined;
        weights.close();
      },
    };
  }

  /** Ranks other than 0 have room for one block, which every block passes through. */
  private gatherLowHalves(): Arena | null {
    const { communicator, device, memory } = this;
    const { blocks, stage, types } = memory.base;
    const isSharded = communicator.world > 1 && stage > 0;
    if (!types.split || !isSharded || this.parts.recipe.export_dtype !== "float32" || !blocks[0]?.low)
      return null;
    const sizes = blocks.map(({ layout }) => layout.size);
    const isFirst = communicator.rank === 0;
    const bytes = sizes.map((size) => aligned(size * bytesOf.bf16));
    const room = isFirst ? bytes.reduce((a, b) => a + b, 0) : Math.max(...bytes);
    const arena = new Arena(device, "low halves of the masters", room);
    const shared = isFirst ? null : arena.tensor([Math.max(...sizes)], "bf16");
    this.lowHalves = blocks.map(({ low, layout }) => {
      const whole = shared?.rows(layout.size) ?? arena.tensor([layout.size], "bf16");
      const of = `low halves of ${layout.name}`;
      if (low) communicator.allGather(whole, low, { of, after: device.workSoFar() }).wait();
      return whole;
    });
    return arena;
  }

  close(): void {
    this.hooks.close();
    this.memory.close();
  }

  private trainStep(clock: Clock): StepEvent {
    const rows = this.rows(this.step);
    const rate = learningRate(this.schedule, this.step, this.order.steps);
    const before = this.communicator.statistics();
    const begin = performance.now();
    const result = this.stepper.run(this.step, rows, rate);
    const seconds = (performance.now() - begin) / 1000;
    const after = this.communicator.statistics();
    this.step++;
    this.trainedTokens += result.trainedTokens;
    clock.add(seconds);
    if (result.skipped)
      this.parts.onEvent({
        type: "warning",
        step: this.step,
        message: `Step ${this.step} was skipped: its gradient is not finite (loss ${result.loss}).`,
      });
    return {
      type: "step",
      step: this.step,
      steps: this.order.steps,
      epoch: this.order.epochsDone(this.step),
      learningRate: rate,
      ...result,
      seconds,
      tokensPerSecond: result.tokens / seconds,
      utilisation: this.utilisation(rows, result, seconds),
      secondsLeft: (this.order.steps - this.step) * clock.perStep,
      residentBytes: process.memoryUsage.rss(),
      commMs: after.busyMs - before.busyMs,
      commWaitMs: after.waitedMs - before.waitedMs,
    };
  }

  private async afterStep(): Promise<void> {
    const { recipe, validation, prompts, onEvent } = this.parts;
    const { step } = this;
    const every = (interval: number) => interval > 0 && step % interval === 0;
    const last = step === this.order.steps;
    if (this.order.endsEpoch(step))
      onEvent({ type: "epoch", step, epoch: Math.round(this.order.epochsDone(step)) });
    if (prompts && prompts.length > 0 && (every(recipe.sample_interval) || last)) {
      const ids = prompts.map((prompt) => generateGreedily(this.device, this.memory, this.model, prompt));
      onEvent({ type: "sample", step, ids });
    }
    const epochEnd = recipe.checkpoint.epochs && this.order.endsEpoch(step);
    if (!every(recipe.checkpoint.interval) && !last && !epochEnd) return;
    if (validation) onEvent({ type: "evaluation", step, ...this.evaluate(validation) });
    await this.save().catch((error: unknown) => {
      // A later save may find room; without the last one the run would be lost.
      if (last || !(error instanceof SaveError)) throw error;
      onEvent({ type: "warning", step, message: `${error.message} The run goes on.` });
    });
    if (epochEnd && !last) await this.parts.afterEpoch?.(step);
  }

  private rows(step: number): StepRow[] {
    const { dataset } = this.parts;
    return this.order.rows(step).map((row) => readRow(dataset, row, this.references));
  }

  /** Every document's log-probability before training: the reference model of DPO, which then need not stay in memory. */
  private scoreReferences(): Float64Array {
    const { dataset } = this.parts;
    if (this.step > 0) throw new Error("the reference must be scored before training");
    const scores = new Float64Array(dataset.documents);
    for (let i = 0; i < dataset.documents; i++)
      scores[i] = this.stepper.score([dataset.read(i)])[0] as number;
    return scores;
  }

  private utilisation(rows: StepRow[], result: StepResult, seconds: number): number | null {
    const { peaks, config, setup } = this.parts;
    if (!peaks) return null;
    const lengths = rows.flatMap((row) => row.map(({ ids }) => ({ length: ids.length, trained: 0 })));
    const work = { ...workOf(lengths), trainedTokens: result.trainedTokens };
    const { useful } = stepFlops(config, work, { frozen: setup.lora !== null, rungs: setup.rungs });
    const peak = this.memory.base.types.compute === "bf16" ? peaks.bfloat16 : peaks.float32;
    return useful / seconds / (peak * 1e9) / setup.share.world;
  }
}

const contents = { sft: "single documents", dpo: "pairs", kto: "labelled answers" };

/** Settings that decide what step N means: with others, a resumed run would be no continuation. How it is computed (device,
 *  activations, micro-batches) may change: then later steps have other roundings, and nothing else. */
const lasting = ["seed", "method", "precision", "sequence_length", "rows_per_step", "lora"] as const;

function refuseChanges(before: Recipe, now: Recipe, step: number): void {
  const changed = lasting.find((key) => JSON.stringify(before[key]) !== JSON.stringify(now[key]));
  if (changed === undefined) return;
  const [was, is] = [before, now].map((recipe) => JSON.stringify(recipe[changed]) ?? "absent");
  throw new UsageError(
    `Checkpoint ${step} was made with ${changed} = ${was}, the recipe now says ${is}. Restore the setting, or name another output.`,
  );
}

/** Seconds a step, recent ones weighing more. */
class Clock {
  perStep = 0;
  add(seconds: number): void {
    this.perStep = this.perStep === 0 ? seconds : 0.9 * this.perStep + 0.1 * seconds;
  }
}
