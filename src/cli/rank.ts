/** The hidden verb that `koala train --ranks N` starts as each of its ranks: `koala rank JSON`, with its place in the
 *  environment; and to ask whether a device still works. */
import type { Command } from "commander";
import { isProbe, type ProbeRequest, tryDevice } from "../train/ranks/probe.ts";
import { type RankRun, runRankProcess } from "../train/ranks/rank_process.ts";

export function register(program: Command): void {
  program
    .command("rank", { hidden: true })
    .argument("<run>", "what to train, or which device to check, as JSON")
    .action((json: string) => {
      const run = JSON.parse(json) as RankRun | ProbeRequest;
      if (isProbe(run)) return tryDevice(run.probe);
      return runRankProcess({ recipe: run.recipe, prepare: async () => run });
    });
}
