/** The whole models that a job makes on its way, one at the end of each epoch: from folders to checkpoints with a name.
 *  Always: a row's folder is whole; the newest few are kept; a folder that a process left behind without a row gets one. */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { organization } from "../../server/job_objects.ts";
import { addCheckpoint, dropOldCheckpoints, listCheckpoints, listMetrics } from "../../store/job_events.ts";
import type { StoredJob } from "../../store/jobs.ts";
import { putModel } from "../../store/models.ts";
import type { Store } from "../../store/store.ts";
import { epochModelDirectory } from "../../train/run.ts";
import { modelFolder } from "./folders.ts";
import { settingsOf } from "./job_recipe.ts";
import type { JobReporter } from "./job_reporter.ts";

/** OpenAI keeps as many. */
const checkpointsMax = 3;

type Figures = Record<string, number>;

export class EpochModels {
  /** What the trainer puts them into. */
  readonly directory: string;
  #adding: Promise<void> = Promise.resolve();

  constructor(
    private readonly of: { store: Store; dataDirectory: string; log: (line: string) => void },
    private readonly job: StoredJob,
    private readonly reporter: JobReporter,
  ) {
    this.directory = join(of.dataDirectory, modelFolder(job.id, ""));
  }

  /** The trainer has made one, and trains on. */
  add(step: number): void {
    const figures = trainFigures(this.reporter, step);
    this.#adding = this.#adding
      .then(() => this.#add(step, figures))
      .catch((error: Error) =>
        this.of.log(`The model of step ${step} cannot be offered yet: ${error.message}`),
      );
  }

  /** Everything that lies in the folder has its row: also what an earlier process did not come to, or what failed. */
  async settle(): Promise<void> {
    await this.#adding;
    const { store } = this.of;
    const page = await listCheckpoints(store, this.job.id, { limit: 1 });
    if (page === "no such cursor") throw new Error("a page without a cursor has none to miss");
    const newest = page.rows[0]?.step ?? 0;
    const names = await readdir(this.directory).catch(() => []);
    const steps = names.flatMap((name) => /^step-(\d+)$/.exec(name)?.slice(1).map(Number) ?? []);
    for (const step of steps.filter((one) => one > newest).sort((a, b) => a - b)) await this.#add(step, null);
  }

  async #add(step: number, figures: Figures | null): Promise<void> {
    const { store } = this.of;
    await this.reporter.flush();
    if (this.reporter.isLost) return;
    const model = `${modelName(this.job)}:ckpt-step-${step}`;
    const trained = figures ?? (await this.#storedFigures(step));
    const metrics = { step, ...trained, ...validFigures(this.reporter, step) };
    const old = await store.transaction(async (tx) => {
      await addCheckpoint(store, tx, { jobId: this.job.id, step, model, metrics });
      await putModel(store, tx, {
        ...modelRow(this.job, modelFolder(this.job.id, `step-${step}`)),
        id: model,
      });
      return dropOldCheckpoints(store, tx, this.job.id, checkpointsMax);
    });
    for (const checkpoint of old)
      await rm(epochModelDirectory(this.directory, checkpoint.step), { recursive: true, force: true });
    this.reporter.note({ message: `Checkpoint created at step ${step}: ${model}` });
  }

  /** Where this process has not seen the step itself. */
  async #storedFigures(step: number): Promise<Figures> {
    const range = { afterStep: step - 1, pointsMax: Number.MAX_SAFE_INTEGER };
    const [row] = await listMetrics(this.of.store, this.job.id, range);
    if (row?.step !== step) return {};
    const data = row.data as Record<string, unknown>;
    const names = ["train_loss", "train_mean_token_accuracy"];
    return Object.fromEntries(
      names.flatMap((name) => (typeof data[name] === "number" ? [[name, data[name]]] : [])),
    );
  }
}

/** By the names that OpenAI gives them; null where the step was made before this process began. */
function trainFigures({ lastStep }: JobReporter, step: number): Figures | null {
  if (lastStep?.step !== step) return null;
  const { loss, accuracy } = lastStep;
  return { train_loss: loss, ...(accuracy === null ? {} : { train_mean_token_accuracy: accuracy }) };
}

function validFigures({ validations }: JobReporter, step: number): Figures {
  const found = validations.get(step);
  if (found === undefined) return {};
  return { full_valid_loss: found.loss, full_valid_mean_token_accuracy: found.accuracy };
}

/** "ft:<base>:<organisation>:<suffix>:<id>" */
export const modelName = (job: Pick<StoredJob, "id" | "source" | "suffix">): string =>
  `ft:${job.source.base}:${organization}:${job.suffix ?? ""}:${job.id.replace(/^ftjob-/, "").slice(0, 8)}`;

export const modelRow = (job: StoredJob, folder: string) => ({
  jobId: job.id,
  parent: job.model,
  folder,
  template: servedTemplate(settingsOf(job).koala_template ?? job.source.template),
});

/** A Jinja file was copied into the model's folder; what is built in goes by its name. */
const servedTemplate = (template: string | null): string | null =>
  template?.endsWith(".jinja") ? null : template;
