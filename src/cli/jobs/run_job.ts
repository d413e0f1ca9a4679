/** One fine-tuning job in a process of its own: from the row to a trained model that is offered under its name.
 *  Always: whatever happens is in the row as a sentence; a process that was told to stop leaves a checkpoint and lets go of
 *  the job; one that dies leaves everything that its successor needs to go on. */
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { changeJob, endLease, findJob, type JobError, type Lease, type StoredJob } from "../../store/jobs.ts";
import { putModel } from "../../store/models.ts";
import { usedBytes } from "../../server/storage_quota.ts";
import type { Store } from "../../store/store.ts";
import { idsOf } from "../../text/segments.ts";
import { loadTemplate, namedTemplate } from "../../text/template.ts";
import { loadTokenizer, type Tokenizer } from "../../text/tokenizer.ts";
import type { TrainEvent } from "../../train/events.ts";
import type { Prompt } from "../../train/generate.ts";
import { UsageError } from "../../util/errors.ts";
import { EpochModels, modelName, modelRow } from "./epoch_models.ts";
import { modelFolder } from "./folders.ts";
import { inputError, InputError } from "./input_error.ts";
import { type JobPlan, planJob } from "./job_recipe.ts";
import { JobReporter } from "./job_reporter.ts";
import { tellLostMetrics } from "./lost_metrics.ts";
import { writeResultFile } from "./results.ts";

/** Trains as planned, going on from the newest checkpoint. Returns the finished model's folder; null when it was stopped. */
export type Train = (run: TrainRun) => Promise<string | null>;

export interface TrainRun {
  plan: JobPlan;
  prompts: Prompt[];
  onEvent: (event: TrainEvent) => void;
  stop: AbortSignal;
  /** Folder for the whole models of epochs' ends, each told of by an event "model". */
  epochModels: string;
  /** A rank failed, and all begin again from the newest checkpoint; one sentence. */
  onRestart: (report: string) => void;
}

export interface JobContext {
  store: Store;
  lease: Lease;
  dataDirectory: string;
  threads: number;
  /** Processes that may train it together. */
  ranksMax: number;
  /** Bytes that the data directory may hold; null: as many as the disk. */
  storageMax: number | null;
  train: Train;
  log: (line: string) => void;
  /** The job was given to another process, which reads and writes the same files: this one must not go on. */
  onLost: () => void;
}

/** `onStop` hands out what stops the work from outside. */
export async function runJob(context: JobContext, onStop: (stop: AbortController) => void): Promise<void> {
  const { store, lease } = context;
  const job = await findJob(store, lease.jobId);
  if (job === null) throw new UsageError(`There is no job ${lease.jobId}.`);
  let samples: Samples | null = null;
  const reporter = new JobReporter(store, lease, (ids, i) => samples!.read(ids, i), context.onLost);
  onStop(reporter.stop);
  try {
    reporter.note({ message: job.step > 0 ? "Fine-tuning job goes on" : "Fine-tuning job started" });
    const plan = await planJob(job, context, () => {});
    notePlan(reporter, plan);
    await checkStorage(context, plan);
    await reporter.flush();
    samples = await Samples.open(plan);
    const models = new EpochModels(context, job, reporter);
    const watch = new StorageWatch(context, plan, reporter);
    await tellLostMetrics(reporter, { store, jobId: job.id, output: plan.recipe.output });
    await models.settle();
    const directory = await context.train({
      plan,
      prompts: samples.prompts,
      onEvent: (event) => {
        if (event.type === "model") models.add(event.step);
        else reporter.train(event);
        if (event.type === "model" || event.type === "checkpoint") watch.look();
      },
      stop: reporter.stop.signal,
      epochModels: models.directory,
      onRestart: (message) => reporter.note({ level: "warn", message }),
    });
    await models.settle();
    await watch.settle();
    await reporter.flush();
    if (directory === null) await endLease(store, lease, { status: "released" });
    else await succeed(context, { job, plan, directory });
  } catch (error) {
    await fail(context, reporter, error);
  } finally {
    await reporter.close();
  }
}

/** Hours of training shall not end without room for what comes of them. */
async function checkStorage(context: JobContext, plan: JobPlan): Promise<void> {
  const lack = await storageLack(context, plan);
  if (lack !== null) throw new StorageError(`${lack}.`);
}

/** What is missing for the finished model, and the way out; null: nothing. */
async function storageLack({ dataDirectory, storageMax }: JobContext, plan: JobPlan): Promise<string | null> {
  if (storageMax === null) return null;
  const used = await usedBytes(dataDirectory);
  if (used + plan.modelBytes <= storageMax) return null;
  return `The finished model has ${plan.modelBytes} bytes, and ${used} of the ${storageMax} bytes that this server may keep are used. Delete files or tuned models, or raise --max-storage`;
}

/** Checkpoints and the models of epochs take room as well: where too little is left, the job is paused with what it has. */
class StorageWatch {
  #looking: Promise<void> = Promise.resolve();

  constructor(
    private readonly context: JobContext,
    private readonly plan: JobPlan,
    private readonly reporter: JobReporter,
  ) {}

  look(): void {
    this.#looking = this.#looking
      .then(() => this.#check())
      .catch((error: Error) => this.context.log(`The storage could not be counted: ${error.message}`));
  }

  settle(): Promise<void> {
    return this.#looking;
  }

  async #check(): Promise<void> {
    const lack = this.reporter.stop.signal.aborted ? null : await storageLack(this.context, this.plan);
    if (lack === null) return;
    this.reporter.note({ level: "warn", message: `${lack}, and resume this job.` });
    await this.reporter.flush();
    await changeJob(this.context.store, this.context.lease.jobId, "pause");
  }
}

class StorageError extends UsageError {}

function notePlan(reporter: JobReporter, { report, resolved, recipe }: JobPlan): void {
  const ranks = recipe.ranks > 1 ? `; ${recipe.ranks} ranks train on them` : "";
  const message = `The data has ${report.documents} documents with ${report.trainedTokens} trained tokens${ranks}`;
  const data = {
    hyperparameters: resolved,
    sequence_length: recipe.sequence_length,
    ranks: recipe.ranks,
  };
  reporter.note({ message, data }, { resolved });
}

async function succeed(
  context: JobContext,
  done: { job: StoredJob; plan: JobPlan; directory: string },
): Promise<void> {
  const { store, lease, dataDirectory } = context;
  const { job, plan, directory } = done;
  const folder = modelFolder(job.id, "final");
  await moveInto(directory, join(dataDirectory, folder));
  const resultFile = await writeResultFile(store, dataDirectory, job.id);
  const name = modelName(job);
  const trainedTokens = plan.report.trainedTokens * plan.resolved.n_epochs;
  const counted = await endLease(
    store,
    lease,
    { status: "succeeded", fineTunedModel: name, resultFile, trainedTokens },
    [{ message: `New fine-tuned model created: ${name}` }, { message: "The job has successfully completed" }],
    (tx) => putModel(store, tx, { ...modelRow(job, folder), id: name }),
  );
  if (counted) return;
  // Paused or cancelled in the last moment: a resumed job goes on from its last checkpoint, and exports again.
  await rm(join(dataDirectory, folder), { recursive: true, force: true });
  await endLease(store, lease, { status: "released" });
}

async function fail(context: JobContext, reporter: JobReporter, error: unknown): Promise<void> {
  const { store, lease, log } = context;
  await reporter.flush().catch(() => {});
  const reason = jobError(error);
  if (reason.code === "internal_error")
    log(error instanceof Error ? (error.stack ?? error.message) : String(error));
  const ended = await endLease(store, lease, { status: "failed", error: reason }, [
    { level: "error", message: reason.message },
  ]);
  if (!ended) await endLease(store, lease, { status: "released" });
}

/** A sentence for what its author or the system did; of our own mistakes the client learns no details. */
function jobError(error: unknown): JobError {
  if (error instanceof InputError) return inputError(error);
  if (error instanceof StorageError)
    return { code: "storage_quota_exceeded", message: error.message, param: null };
  const known = error instanceof Error && ["UsageError", "RequestError", "NativeError"].includes(error.name);
  if (known) return { code: "training_failed", message: error.message, param: null };
  if (error instanceof Error && "syscall" in error)
    return { code: "training_failed", message: `The system refused: ${error.message}.`, param: null };
  const message = "The trainer made a mistake. The server's log has the details.";
  return { code: "internal_error", message, param: null };
}

/** A rename: the place is either as it was or whole. */
async function moveInto(from: string, to: string): Promise<void> {
  if (!existsSync(from)) throw new Error(`the trainer left no model in ${from}`);
  await mkdir(dirname(to), { recursive: true });
  await rm(to, { recursive: true, force: true });
  await rename(from, to);
}

/** Questions whose answers show how training goes; none for models that do not chat. */
class Samples {
  private constructor(
    readonly prompts: Prompt[],
    private readonly questions: string[],
    private readonly tokenizer: Tokenizer,
  ) {}

  static async open({ recipe, model, samplePrompts }: JobPlan): Promise<Samples> {
    const tokenizer = await loadTokenizer(model);
    const template = recipe.data.template
      ? await namedTemplate(recipe.data.template, tokenizer)
      : await loadTemplate(model, tokenizer);
    if (template === null) return new Samples([], [], tokenizer);
    const prompts = samplePrompts.map((content): Prompt => {
      const rendered = template.render([{ role: "user", content }], { addGenerationPrompt: true });
      return { ids: idsOf(rendered), tokensMax: recipe.sample_tokens, stopIds: [...template.stopIds] };
    });
    return new Samples(prompts, samplePrompts, tokenizer);
  }

  read(ids: number[], index: number): { prompt: string; answer: string } {
    const answer = this.tokenizer.decode(ids, { skipSpecialTokens: true });
    return { prompt: this.questions[index] ?? "", answer };
  }
}
