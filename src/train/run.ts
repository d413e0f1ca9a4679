/** A run from its recipe: data prepared, model opened, trained, exported. What the command line, the server's jobs and the
 *  ranks of a larger world share.
 *  Always: the data exists on disk before memory is taken; the exported model appears after the last step only. */
import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { prepareDataset } from "../data/prepare.ts";
import { type Dataset, openDataset } from "../data/shard.ts";
import { openCheckpoint } from "../model/checkpoint.ts";
import { readConfig } from "../model/config.ts";
import { type Communicator, SoloCommunicator } from "../tensor/communicator.ts";
import type { Device, DevicePeaks } from "../tensor/device.ts";
import { openDevice } from "../tensor/open_device.ts";
import { UsageError } from "../util/errors.ts";
import { Checkpoints } from "./checkpoint/checkpoints.ts";
import { checkpointSteps } from "./checkpoint/manifest.ts";
import type { TrainEvent } from "./events.ts";
import { exportModel } from "./export.ts";
import type { Prompt } from "./generate.ts";
import { Metrics } from "./metrics.ts";
import { TrainOps } from "./ops.ts";
import { initializeAdapters, initializeParameters, loadParameters } from "./parameters.ts";
import type { ReportPhase } from "./ranks/heartbeat.ts";
import type { Recipe } from "./recipe.ts";
import { setupOf } from "./run_options.ts";
import { type Outcome, Trainer } from "./trainer.ts";

export type StageProgress = (stage: string, done: number, total: number) => void;

export interface RunOptions {
  recipe: Recipe;
  /** The base model's folder. */
  model: string;
  /** The prepared data's folder. */
  dataset: string;
  /** Go on from the newest checkpoint; without one, start. */
  resume: boolean;
  /** Measure the machine first (about a second), so that steps have a utilisation. */
  measure: boolean;
  onEvent: (event: TrainEvent) => void;
  onProgress?: StageProgress;
  stop?: AbortSignal;
  prompts?: Prompt[];
  /** Folder that gets a whole model step-N at the end of each epoch but the last; none by default. */
  epochModels?: string;
  /** What is to be said before the first step: a warning in the run's record. */
  notice?: string;
  /** Other ranks; one rank by default. */
  device?: Device;
  communicator?: Communicator;
  report?: ReportPhase;
}

/** Where a finished run's model lies. */
export const modelDirectory = (recipe: Recipe): string => join(recipe.output, "model");
/** Where the model of an epoch's end lies. */
export const epochModelDirectory = (folder: string, step: number): string => join(folder, `step-${step}`);
export const checkpointDirectory = (recipe: Recipe): string => join(recipe.output, "checkpoints");

/** The folder of the recipe's data, prepared where it names files. Throws UsageError where the data is refused. */
export async function prepareData(
  recipe: Recipe,
  model: string,
  onProgress: StageProgress = () => {},
): Promise<string> {
  const { data, method, sequence_length: sequenceLength, output } = recipe;
  if (data.dataset) return data.dataset;
  const { directory } = await prepareDataset(
    {
      files: data.files ?? [],
      model,
      directory: join(output, "data"),
      format: data.format,
      method: method.type,
      sequenceLength,
      preference: data.preference,
      truncation: data.truncation,
      allow: data.allow,
      ...(data.template === undefined ? {} : { template: data.template }),
      ...(data.fields === undefined ? {} : { fields: data.fields }),
      ...(data.conditioning === undefined ? {} : { conditioning: data.conditioning }),
      ...(data.marker === undefined ? {} : { marker: data.marker }),
      ...(data.negative_marker === undefined ? {} : { negativeMarker: data.negative_marker }),
      ...(data.bos === undefined ? {} : { bos: data.bos }),
      ...(data.packing === undefined ? {} : { packing: data.packing }),
    },
    onProgress,
  );
  return directory;
}

/** Trains to the end, or to a checkpoint when stopped. Returns the exported model's folder, or null. */
export async function runTraining(options: RunOptions): Promise<string | null> {
  const { recipe } = options;
  const isFirst = isFirstRank(options);
  const existing = checkpointSteps(checkpointDirectory(recipe));
  if (!options.resume && existing.length > 0)
    throw new UsageError(
      `${recipe.output} holds ${existing.length} checkpoints of an earlier run. Go on with --resume, or name another output.`,
    );
  const device = options.device ?? openDevice(recipe.device, { threads: recipe.threads });
  const last = existing.at(-1) ?? null;
  const metrics = isFirst ? new Metrics(recipe.output, last ?? -1) : null;
  const onEvent = (event: TrainEvent) => {
    metrics?.write(event);
    if (isFirst) options.onEvent(event);
  };
  const dataset = openDataset(options.dataset);
  const validation = recipe.data.validation ? openDataset(recipe.data.validation) : null;
  const afterEpoch = async (step: number) => {
    const directory = await exportEpoch(trainer, options, dataset, step);
    if (directory !== null && isFirst) onEvent({ type: "model", step, directory });
  };
  const trainer = await openTrainer({ ...options, onEvent, device, afterEpoch }, dataset, validation);
  try {
    trainer.prepare();
    if (last !== null) await trainer.resume(last);
    if (options.notice && isFirst) onEvent({ type: "warning", step: trainer.step, message: options.notice });
    // The process before may have died between the checkpoint and the export.
    const { order, step: at } = trainer;
    if (at > 0 && at < order.steps && order.endsEpoch(at)) await afterEpoch(at);
    const outcome: Outcome = await trainer.run(options.stop);
    if (outcome === "stopped") return null;
    await exportGathered(trainer, options, dataset, modelDirectory(recipe));
    if (!isFirst) return null;
    const directory = modelDirectory(recipe);
    const { step, seconds, trainedTokens } = trainer;
    onEvent({ type: "finish", step, directory, seconds, trainedTokens });
    return directory;
  } finally {
    metrics?.close();
    trainer.close();
    dataset.close();
    validation?.close();
    if (!options.device) device.close();
  }
}

async function exportEpoch(
  trainer: Trainer,
  options: RunOptions,
  dataset: Dataset,
  step: number,
): Promise<string | null> {
  if (!options.epochModels) return null;
  const directory = epochModelDirectory(options.epochModels, step);
  await exportGathered(trainer, options, dataset, directory);
  return directory;
}

/** Rank 0 writes the model, whole or not at all; every rank calls it. */
async function exportGathered(
  trainer: Trainer,
  options: RunOptions,
  dataset: Dataset,
  directory: string,
): Promise<void> {
  const { recipe, model } = options;
  const gathered = trainer.gatherWeights();
  try {
    if (!isFirstRank(options)) return;
    const temporary = `${directory}.tmp`;
    await rm(temporary, { recursive: true, force: true });
    await exportModel(trainer, { directory: model, dataset: dataset.info, recipe }, temporary);
    await rm(directory, { recursive: true, force: true });
    await rename(temporary, directory);
  } finally {
    gathered.close();
  }
}

const isFirstRank = ({ communicator }: RunOptions): boolean => (communicator?.rank ?? 0) === 0;

/** A trainer with its weights in place, at step 0. */
export async function openTrainer(
  options: RunOptions & { device: Device; afterEpoch?: (step: number) => Promise<void> },
  dataset: Dataset,
  validation: Dataset | null,
): Promise<Trainer> {
  const { recipe, device, report, prompts, afterEpoch } = options;
  const communicator = options.communicator ?? new SoloCommunicator(device);
  const config = await readConfig(options.model);
  const setup = setupOf(recipe, config, { rank: communicator.rank, world: communicator.world });
  const ops = new TrainOps(device);
  const peaks: DevicePeaks | null = options.measure && isFirstRank(options) ? device.measure() : null;
  const trainer = new Trainer({
    ops,
    recipe,
    config,
    setup,
    dataset,
    validation,
    checkpoints: new Checkpoints(checkpointDirectory(recipe), device, communicator, recipe.checkpoint.keep),
    peaks,
    onEvent: options.onEvent,
    communicator,
    ...(report ? { report } : {}),
    ...(prompts ? { prompts } : {}),
    ...(afterEpoch ? { afterEpoch } : {}),
  });
  await fillWeights(trainer, options);
  return trainer;
}

async function fillWeights(
  { ops, config, memory }: Trainer,
  { recipe, model, onProgress }: RunOptions,
): Promise<void> {
  const { base, adapters } = memory;
  if (recipe.model.init === "random") initializeParameters(ops, base, recipe.seed);
  else
    loadParameters(ops, base, await openCheckpoint(model), config, (done, total) =>
      onProgress?.("loading", done, total),
    );
  if (adapters) initializeAdapters(ops, adapters, recipe.seed);
}
