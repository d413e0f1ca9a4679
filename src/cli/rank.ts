/** The hidden verb that `koala train --ranks N` starts as each of its ranks: `koala rank JSON`, with its place in the
 *  environment. */
import type { Command } from "commander";
import { type RankRun, runRankProcess } from "../train/ranks/rank_process.ts";

export function register(program: Command): void {
  program
    .command("rank", { hidden: true })
    .argument("<run>", "what to train, as JSON")
    .action((json: string) => {
      const run = JSON.parse(json) as RankRun;
      return runRankProcess({ recipe: run.recipe, prepare: async () => run });
    });
}
