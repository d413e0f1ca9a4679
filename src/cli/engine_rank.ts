/** The hidden verb of the other ranks of an engine that holds its model with several: `koala engine-rank JSON`. */
import type { Command } from "commander";
import { type RankStart, runEngineRank } from "./tensor_parallel.ts";

export function register(program: Command): void {
  program
    .command("engine-rank", { hidden: true })
    .argument("<start>", "its place and the runner's options as JSON")
    .action((json: string) => runEngineRank(JSON.parse(json) as RankStart));
}
