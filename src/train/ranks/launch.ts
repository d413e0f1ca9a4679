/** A training run on several ranks of this machine: checks what all of them would trip over, then supervises them. */
import { UsageError } from "../../util/errors.ts";
import { latestStep } from "../checkpoint/checkpoints.ts";
import { deviceOfRank } from "../../tensor/open_device.ts";
import type { Recipe } from "../recipe.ts";
import { checkpointDirectory } from "../run.ts";
import { placeProbe } from "./probe.ts";
import type { RankRun } from "./rank_process.ts";
import { superviseRanks, type SupervisorOptions } from "./supervisor.ts";

export interface LaunchOptions extends Omit<
  SupervisorOptions,
  "command" | "checkpointStep" | "microBatches"
> {
  run: RankRun;
  /** The command line that runs `runRankProcess` with the JSON of a RankRun. */
  command: (run: string) => string[];
}

/** Throws UsageError where a rank would have nothing to do. */
export function checkRows({ rows_per_step: rows }: Recipe, world: number): void {
  if (rows >= world) return;
  throw new UsageError(
    `A step has ${rows} rows, fewer than the ${world} ranks. Raise rows_per_step or use fewer ranks.`,
  );
}

/** Trains to the end or to a checkpoint where `signal` asks for it; failed ranks are started again from the newest
 *  checkpoint, at least `ranksMin` of them. Throws UsageError. */
export function launchRanks({ run, command, ...options }: LaunchOptions): Promise<"finished" | "stopped"> {
  const { recipe, resume } = run;
  const directory = checkpointDirectory(recipe);
  if (!resume && latestStep(directory) !== null)
    throw new UsageError(
      `${recipe.output} holds checkpoints of an earlier run. Go on with --resume, or name another output.`,
    );
  checkRows(recipe, options.world);
  const { world, devices } = options;
  return superviseRanks({
    probe: placeProbe(command, options.env),
    ...options,
    devices: devices ?? Array.from({ length: world }, (_, rank) => deviceOfRank(recipe.device, rank)),
    microBatches: Math.ceil(recipe.rows_per_step / recipe.micro_rows),
    command: command(JSON.stringify({ ...run, resume: true })),
    checkpointStep: () => latestStep(directory),
  });
}
