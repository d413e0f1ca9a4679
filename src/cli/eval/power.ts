/** `koala eval power`: what a blind comparison of a given size would see, before anybody is asked to rate. */
import type { Command } from "commander";
import { detectableScore, power } from "../../eval/statistics/power.ts";
import { integer, number } from "../model_options.ts";

interface PowerFlags {
  prompts: number;
  ratings: number;
  score: number[];
  json?: boolean;
}

export function registerPower(verb: Command): void {
  verb
    .command("power")
    .description("chance that a study finds a difference, by its size; score is wins plus half the ties")
    .option("--prompts <n>", "prompts that are compared", integer(2, 1_000_000), 180)
    .option("--ratings <n>", "votes on each prompt", integer(1, 1000), 3)
    .option(
      "--score <scores...>",
      "true scores to look at, 0.5 to 0.99",
      scores,
      [0.525, 0.55, 0.575, 0.6, 0.65],
    )
    .option("--json", "print the figures as JSON")
    .action(print);
}

/** The default is replaced by the first value given; later ones join it. */
let given: number[] = [];
const scores = (text: string): number[] => (given = [...given, number(0.5, 0.99)(text)]);

function print({ prompts, ratings, score, json }: PowerFlags): void {
  const rows = score.map((trueScore) => ({ trueScore, ...power({ prompts, ratings, trueScore }) }));
  const detectable = detectableScore({ prompts, ratings });
  if (json) return console.log(JSON.stringify({ prompts, ratings, detectable, rows }, null, 2));
  const percent = (share: number) => (100 * share).toFixed(1).padStart(6);
  console.log(`${prompts} prompts, ${ratings} votes each (${prompts * ratings} votes a pair)\n`);
  console.log("true score %   power %   95 % interval, points");
  for (const row of rows) {
    console.log(
      `${percent(row.trueScore).padStart(12)}  ${percent(row.power).padStart(8)}   ±${percent(row.halfWidth)}`,
    );
  }
  console.log(`\nSmallest score that is found with a chance of 80 %: ${percent(detectable).trim()} %`);
}
