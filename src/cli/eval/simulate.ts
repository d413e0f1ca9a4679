/** `koala eval simulate`: raters with known preferences vote on a study, or on many studies to check the statistics themselves. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { coverage } from "../../eval/coverage.ts";
import { simulateVotes } from "../../eval/simulate.ts";
import { gapForScore } from "../../eval/statistics/rater_model.ts";
import { parsePlan } from "../../eval/study_files.ts";
import { writeVotes } from "../../eval/votes_file.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { integer, number } from "../model_options.ts";

interface SimulateFlags {
  score: number;
  ratings: number;
  raters: number;
  gold: number;
  repeat: number;
  seed: number;
  prompts: number;
  runs: number;
  bootstrap: number;
}

export function registerSimulate(verb: Command): void {
  verb
    .command("simulate [folder]")
    .description(
      "votes of simulated raters for a study's folder; without one, how often the intervals hold the truth",
    )
    .option("--score <share>", "true score of the first system of every pair", number(0.02, 0.98), 0.55)
    .option("--ratings <n>", "votes on each prompt and pair", integer(1, 1000), 3)
    .option("--raters <n>", "people", integer(1, 100_000), 100)
    .option("--gold <share>", "attention checks for each vote, in a folder", number(0, 1), 0.1)
    .option("--repeat <share>", "repeats with sides swapped for each vote, in a folder", number(0, 1), 0.05)
    .option("--seed <n>", "seed of the raters", integer(0, 2 ** 31 - 1), 1)
    .option("--prompts <n>", "prompts of a study without a folder", integer(2, 100_000), 180)
    .option("--runs <n>", "studies without a folder", integer(1, 100_000), 300)
    .option("--bootstrap <n>", "resamples for each interval without a folder", integer(50, 100_000), 300)
    .action(simulate);
}

async function simulate(folder: string | undefined, flags: SimulateFlags): Promise<void> {
  if (flags.ratings > flags.raters) {
    throw new UsageError(
      `--ratings ${flags.ratings} needs as many different people, but --raters is ${flags.raters}.`,
    );
  }
  if (folder === undefined) return checkStatistics(flags);
  const plan = join(folder, "study.json");
  const votesPath = join(folder, "votes.jsonl");
  if (!existsSync(plan)) throw new UsageError(`${folder} has no study.json, which says what to vote on.`);
  if (existsSync(votesPath)) {
    throw new UsageError(
      `${votesPath} is there already, and votes are never overwritten; move it away first.`,
    );
  }
  const study = parsePlan(await readFile(plan, "utf8"), plan);
  const gap = gapForScore(flags.score);
  const votes = simulateVotes({
    questions: study.questions,
    pairs: study.pairs.map((pair) => ({ pair, gap })),
    raters: flags.raters,
    ratings: flags.ratings,
    seed: flags.seed,
    goldShare: flags.gold,
    repeatShare: flags.repeat,
  });
  await writeVotes(votesPath, votes);
  console.log(`${votes.length} simulated votes: ${votesPath}`);
}

function checkStatistics(flags: SimulateFlags): void {
  const progress = new Progress("items");
  const found = coverage({
    ...flags,
    trueScore: flags.score,
    draws: flags.bootstrap,
    onProgress: (done, total) => progress.update("simulating studies", done, total),
  });
  const percent = (share: number) => (100 * share).toFixed(1);
  console.log(
    [
      `${flags.runs} studies of ${flags.prompts} prompts, ${flags.ratings} votes each, true score ${percent(flags.score)} %`,
      `95 % interval holds the true score   ${percent(found.covered)} %`,
      `interval excludes 50 %               ${percent(found.excludesHalf)} %`,
      `sign test p < 0.05                   ${percent(found.signTestBelow05)} %`,
      `mean score                           ${percent(found.meanScore)} %`,
      `mean half-width of the interval      ${percent(found.meanHalfWidth)} points`,
      `mean score of the left side          ${percent(found.meanLeftScore)} %`,
    ].join("\n"),
  );
}
