/** Fine-tuning in a server that runs: the database, the data directory, the queue and the models that come of it, tied
 *  together and taken apart again. */
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { ModelRegistry } from "../../server/context.ts";
import { FileArea } from "../../server/file_area.ts";
import type { FineTuning } from "../../server/fine_tuning.ts";
import { findFile, removeExpiredFiles } from "../../store/files.ts";
import { findJob, type JobSource, leaseMs as defaultLeaseMs } from "../../store/jobs.ts";
import { findModel } from "../../store/models.ts";
import { openStore, type Store } from "../../store/store.ts";
import { removeFinishedParts } from "../../store/uploads.ts";
import { trainedTemplate } from "../../text/model_record.ts";
import type { TrainJobOptions } from "../train_job.ts";
import { inputFolder, jobFolder, linkFile, removeWorkingFiles } from "./folders.ts";
import { Supervisor, type SupervisorOptions } from "./supervisor.ts";
import { TunedModels, type TunedModelsOptions } from "./tuned_models.ts";
import { Validator } from "./validation.ts";

export interface FineTuningOptions
  extends
    Pick<SupervisorOptions, "jobsMax" | "pollMs" | "leaseMs" | "stopGraceMs" | "log">,
    Pick<TunedModelsOptions, "open"> {
  database: string;
  dataDirectory: string;
  registry: ModelRegistry;
  /** Name of the template that the base models are served with, where it is not their own. */
  template: string | null;
  /** Compute threads of a training process; 0: one a core. */
  threads: number;
  /** Processes that may train one job together. */
  ranksMax: number;
  /** Of files, uploads and what jobs make; null: as much as the disk holds. */
  storageMax: number | null;
  /** The command line of a training process. */
  command: (options: TrainJobOptions) => string[];
}

export interface RunningFineTuning {
  fineTuning: FineTuning;
  store: Store;
  close(): Promise<void>;
}

const sweepMs = 60_000;

/** The models of earlier jobs are in the registry when this returns. */
export async function startFineTuning(options: FineTuningOptions): Promise<RunningFineTuning> {
  const { registry, log, command, threads, ranksMax, jobsMax, pollMs, leaseMs, stopGraceMs } = options;
  const dataDirectory = resolve(options.dataDirectory);
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 });
  const store = await openStore(options.database);
  try {
    const area = new FileArea(dataDirectory, options.storageMax);
    const models = new TunedModels({ store, registry, dataDirectory, open: options.open, log });
    await models.sync();
    const sweeper = new Sweeper(store, area, log);
    const validator = new Validator({
      store,
      dataDirectory,
      leaseMs: leaseMs ?? defaultLeaseMs,
      log,
      onVerdict: () => supervisor.wake(),
    });
    const supervisor: Supervisor = new Supervisor({
      store,
      command: (job) => command({ ...job, dataDirectory, threads, ranksMax, storageMax: options.storageMax }),
      environment: { KOALA_DATABASE: options.database },
      log,
      onChange: async () => {
        validator.look();
        await models.sync();
        await sweeper.sweepNowAndThen();
      },
      ...given({ jobsMax, pollMs, leaseMs, stopGraceMs }),
    });
    const fineTuning: FineTuning = {
      store,
      area,
      ...jobFiles(dataDirectory, area),
      ranksMax,
      sourceOf: (model) => sourceOf(model, { store, registry, dataDirectory, template: options.template }),
      wake: () => supervisor.wake(),
      serveNewModels: () => models.sync(),
      deleteModel: (id) => models.delete(id),
    };
    const close = async () => {
      await supervisor.close();
      await validator.close();
      await store.close();
    };
    return { fineTuning, store, close };
  } catch (error) {
    await store.close();
    throw error;
  }
}

function jobFiles(dataDirectory: string, area: FileArea): Pick<FineTuning, "keepFile" | "dropFiles"> {
  return {
    keepFile: async (jobId, kind, file) => {
      const path = join(dataDirectory, inputFolder(jobId, kind), file.filename);
      await linkFile(area.path(file.id), path);
      return path;
    },
    dropFiles: (jobId) => rm(join(dataDirectory, jobFolder(jobId)), { recursive: true, force: true }),
  };
}

async function sourceOf(
  model: string,
  of: { store: Store; registry: ModelRegistry; dataDirectory: string; template: string | null },
): Promise<JobSource | null> {
  const stored = await findModel(of.store, model);
  if (stored !== null) {
    const job = await findJob(of.store, stored.jobId);
    const path = join(of.dataDirectory, stored.folder);
    return { path, template: stored.template, base: job?.source.base ?? stored.parent };
  }
  const served = of.registry.list().find(({ id, aliases }) => id === model || aliases.includes(model));
  if (served === undefined) return null;
  const template = of.template ?? (await trainedTemplate(served.path)) ?? null;
  return { path: resolve(served.path), template, base: served.id };
}

/** Removes what expired, and what a crash left behind. */
class Sweeper {
  #sweptAt = -Infinity;

  constructor(
    private readonly store: Store,
    private readonly area: FileArea,
    private readonly log: (line: string) => void,
  ) {}

  async sweepNowAndThen(): Promise<void> {
    if (performance.now() - this.#sweptAt < sweepMs) return;
    this.#sweptAt = performance.now();
    try {
      await this.sweep(new Date());
    } catch (error) {
      this.log(`The data directory could not be tidied: ${(error as Error).message}`);
    }
  }

  private async sweep(now: Date): Promise<void> {
    const { store, area } = this;
    for (const id of await removeExpiredFiles(store, now)) await area.remove(id);
    for (const id of await removeFinishedParts(store, now)) await area.remove(id);
    for (const name of await area.oldNames(now.getTime()))
      if (name.startsWith("part_") || name.endsWith(".tmp") || (await findFile(store, name)) === null)
        await area.remove(name);
    for (const jobId of await readdir(join(area.directory, "jobs")).catch(() => [])) {
      if (!/^ftjob-[0-9A-Za-z]{24}$/.test(jobId)) continue;
      const job = await findJob(store, jobId);
      if (job?.finishedAt && job.leaseOwner === null) await removeWorkingFiles(area.directory, jobId);
      // A server died between putting the files by and making the job.
      if (job === null && (await isOld(join(area.directory, jobFolder(jobId)), now)))
        await rm(join(area.directory, jobFolder(jobId)), { recursive: true, force: true });
    }
  }
}

async function isOld(path: string, now: Date): Promise<boolean> {
  const info = await stat(path).catch(() => null);
  return info !== null && now.getTime() - info.mtimeMs > 86_400_000;
}

/** Without the undefined ones, which would hide defaults. */
function given<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}
