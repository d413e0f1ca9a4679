/** One fine-tuning job in a process of its own: from the row to a trained model that is offered under its name.
 *  Always: whatever happens is in the row as a sentence; a process that was told to stop leaves a checkpoint and lets go of
 *  the job; one that dies leaves everything that its successor needs to go on. */
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { organization } from "../../server/job_objects.ts";
import { addCheckpoint, dropOldCheckpoints } from "../../store/job_events.ts";
import { endLease, findJob, type JobError, type Lease, type StoredJob } from "../../store/jobs.ts";
import { putModel } from "../../store/models.ts";
import type { Store } from "../../store/store.ts";
import { idsOf } from "../../text/segments.ts";
import { loadTemplate, namedTemplate } from "../../text/template.ts";
import { loadTokenizer, type Tokenizer } from "../../text/tokenizer.ts";
import type { TrainEvent } from "../../train/events.ts";
import type { Prompt } from "../../train/generate.ts";
import { UsageError } from "../../util/errors.ts";
import { modelFolder } from "./folders.ts";
import { type JobPlan, planJob, settingsOf } from "./job_recipe.ts";
import { JobReporter } from "./job_reporter.ts";
import { writeResultFile } from "./results.ts";

/** Trains as planned, going on from the newest checkpoint. Returns the finished model's folder; null when it was stopped. */
export type Train = (run: TrainRun) => Promise<string | null>;

export interface TrainRun {
  plan: JobPlan;
  prompts: Prompt[];
  onEvent: (event: TrainEvent) => void;
  stop: AbortSignal;
  /** At the end of each epoch but the last: a whole model in the folder `directory`, then `made`. */
  epochModel: { directory: (step: number) => string; made: (step: number) => Promise<void> };
}

export interface JobContext {
  store: Store;
  lease: Lease;
  dataDirectory: string;
  threads: number;
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
    reporter.note(
      {
        message: `The data has ${plan.report.documents} documents with ${plan.report.trainedTokens} trained tokens`,
        data: { hyperparameters: plan.resolved, sequence_length: plan.recipe.sequence_length },
      },
      { resolved: plan.resolved },
    );
    await reporter.flush();
    samples = await Samples.open(plan);
    const directory = await context.train({
      plan,
      prompts: samples.prompts,
      onEvent: (event) => reporter.train(event),
      stop: reporter.stop.signal,
      epochModel: epochModels(context, job, reporter),
    });
    await reporter.flush();
    if (directory === null) await endLease(store, lease, { status: "released" });
    else await succeed(context, { job, plan, directory });
  } catch (error) {
    await fail(context, reporter, error);
  } finally {
    await reporter.close();
  }
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
  const known = error instanceof Error && ["UsageError", "RequestError", "NativeError"].includes(error.name);
  if (known) {
    const data = error.message.startsWith("The data is refused");
    return {
      code: data ? "invalid_training_file" : "training_failed",
      message: error.message,
      param: data ? "training_file" : null,
    };
  }
  if (error instanceof Error && "syscall" in error)
    return { code: "training_failed", message: `The system refused: ${error.message}.`, param: null };
  const message = "The trainer made a mistake. The server's log has the details.";
  return { code: "internal_error", message, param: null };
}

/** Whole models; OpenAI keeps as many. */
const checkpointsMax = 3;

function epochModels(context: JobContext, job: StoredJob, reporter: JobReporter): TrainRun["epochModel"] {
  const { store, lease, dataDirectory } = context;
  const folder = (step: number) => modelFolder(job.id, `step-${step}`);
  return {
    directory: (step) => `${join(dataDirectory, folder(step))}.tmp`,
    made: async (step) => {
      const place = join(dataDirectory, folder(step));
      await moveInto(`${place}.tmp`, place);
      await reporter.flush();
      if (reporter.isLost) return;
      const model = `${modelName(job)}:ckpt-step-${step}`;
      const metrics = {
        step,
        ...figuresOf(reporter),
      };
      const old = await store.transaction(async (tx) => {
        await addCheckpoint(store, tx, { jobId: lease.jobId, step, model, metrics });
        await putModel(store, tx, { ...modelRow(job, folder(step)), id: model });
        return dropOldCheckpoints(store, tx, job.id, checkpointsMax);
      });
      for (const checkpoint of old)
        await rm(join(dataDirectory, folder(checkpoint.step)), { recursive: true, force: true });
      reporter.note({ message: `Checkpoint created at step ${step}: ${model}` });
    },
  };
}

/** By the names that OpenAI gives them. */
function figuresOf({ lastStep, lastValidation }: JobReporter): Record<string, number> {
  return {
    ...(lastStep === null ? {} : { train_loss: lastStep.loss }),
    ...(lastStep?.accuracy == null ? {} : { train_mean_token_accuracy: lastStep.accuracy }),
    ...(lastValidation === null
      ? {}
      : {
          full_valid_loss: lastValidation.loss,
          full_valid_mean_token_accuracy: lastValidation.accuracy,
        }),
  };
}

/** "ft:<base>:<organisation>:<suffix>:<id>" */
export const modelName = (job: Pick<StoredJob, "id" | "source" | "suffix">): string =>
  `ft:${job.source.base}:${organization}:${job.suffix ?? ""}:${job.id.replace(/^ftjob-/, "").slice(0, 8)}`;

const modelRow = (job: StoredJob, folder: string) => ({
  jobId: job.id,
  parent: job.model,
  folder,
  template: servedTemplate(settingsOf(job).koala_template ?? job.source.template),
});

/** A Jinja file was copied into the model's folder; what is built in goes by its name. */
const servedTemplate = (template: string | null): string | null =>
  template?.endsWith(".jinja") ? null : template;

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
