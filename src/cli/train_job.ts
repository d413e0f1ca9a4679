/** The hidden verb that a server starts for a fine-tuning job: `koala train-job JSON`, with the database in $KOALA_DATABASE.
 *  It goes when its server goes: SIGTERM, or the end of the channel to it, makes it save a checkpoint and let go of the job. */
import { setPriority } from "node:os";
import type { Command } from "commander";
import { openStore } from "../store/store.ts";
import { launchRanks } from "../train/ranks/launch.ts";
import type { RankRun } from "../train/ranks/rank_process.ts";
import { modelDirectory, runTraining } from "../train/run.ts";
import { UsageError } from "../util/errors.ts";
import { selfCommand } from "../util/self_command.ts";
import { runJob, type Train } from "./jobs/run_job.ts";
import { planned } from "./plan.ts";

/** What the argument holds. The database's address may hold a password, so it does not stand in the list of processes. */
export interface TrainJobOptions {
  jobId: string;
  owner: string;
  leaseMs: number;
  dataDirectory: string;
  threads: number;
  /** Processes that may train it together. */
  ranksMax: number;
  /** Bytes that the data directory may hold; null: as many as the disk. */
  storageMax: number | null;
}

export function register(program: Command): void {
  program
    .command("train-job", { hidden: true })
    .argument("<options>", "which job, as JSON")
    .action((json: string) => trainJob(JSON.parse(json) as TrainJobOptions, trainForReal));
}

/** Also what the tests' stand-in for the trainer runs. */
export async function trainJob(options: TrainJobOptions, train: Train): Promise<void> {
  const { jobId, owner, leaseMs, dataDirectory, threads, ranksMax, storageMax } = options;
  const database = process.env["KOALA_DATABASE"];
  if (!database) throw new UsageError("koala train-job is started by koala serve, which names the database.");
  yieldToServing();
  const store = await openStore(database);
  try {
    const log = (line: string) => process.stderr.write(`koala: ${jobId}: ${line}\n`);
    const onLost = () => process.exit(3);
    const context = {
      store,
      lease: { jobId, owner, ms: leaseMs },
      dataDirectory,
      threads,
      ranksMax,
      storageMax,
      train,
      log,
      onLost,
    };
    await runJob(context, (stop) => {
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => stop.abort(signal));
      process.on("disconnect", () => stop.abort("the server is gone"));
    });
  } finally {
    await store.close();
  }
  // The channel to the server would keep the process alive.
  process.exit(0);
}

/** Requests are answered first: the threads of training are started after this, and take it over. */
function yieldToServing(): void {
  try {
    setPriority(10);
  } catch {
    // Not allowed here: then training and serving share as equals.
  }
}

const trainForReal: Train = async ({ plan, prompts, onEvent, stop, epochModels, onRestart }) => {
  const { recipe, model, dataset } = plan;
  // Refuses here, in a sentence, what the system would kill later without one.
  await planned(recipe, false);
  const run: RankRun = { recipe, model, dataset, resume: true, measure: true, prompts, epochModels };
  if (recipe.ranks === 1) return runTraining({ ...run, onEvent, stop });
  const { KOALA_DATABASE: _, ...env } = process.env;
  const outcome = await launchRanks({
    run,
    world: recipe.ranks,
    command: (json) => selfCommand("rank", json),
    // Of the database they know nothing: whatever ranks have to tell, they tell this process.
    env,
    signal: stop,
    onRestart,
    onMessage: (message) => message.type === "event" && onEvent(message.event),
  });
  return outcome === "finished" ? modelDirectory(recipe) : null;
};
