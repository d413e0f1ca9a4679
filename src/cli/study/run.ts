/** `koala study RECIPE --out DIR`: the whole study in one command, and its stages one by one. */
import type { Command } from "commander";
import type { Results } from "../../eval/report/results.ts";
import { studyStages, runStudy, type StudyEnd, type StudyStage } from "./pipeline.ts";
import { withFolder } from "./folder_lock.ts";
import { initStudy, openStudy } from "./study_recipe.ts";
import { verifyStudy } from "./verify.ts";

interface RecipeFlags {
  out: string;
  raw?: string;
}

const about: Record<StudyStage, string> = {
  curate: "curate the data of every model of a study",
  train: "train the models of a study, after curating their data",
  answer: "let every system answer every question, and freeze the answers",
  plan: "fix what is compared, by which rules, before the first vote",
  votes: "write votes.jsonl: simulated votes, or what people gave so far",
  judge: "ask the recipe's judge about every pair of answers",
  report: "analyse the votes that are there: report/index.html and results.json",
};

export function registerRun(study: Command): void {
  const withRecipe = (command: Command): Command =>
    command
      .requiredOption("--out <folder>", "the study's folder; a run that was stopped goes on there")
      .option("--raw <folder>", "folder with the raw files that the models' recipes name");
  withRecipe(
    study
      .command("run <recipe>", { isDefault: true })
      .description("curate, train, answer, compare and report, as a recipe says"),
  ).action(run);
  withRecipe(
    study
      .command("init <recipe>")
      .description("check a recipe and keep it in the study's folder, for the stages below"),
  ).action(init);
  for (const stage of studyStages)
    study
      .command(`${stage} <folder>`)
      .description(about[stage])
      .action(async (folder: string) => {
        const study = await openStudy(folder);
        const options = { until: stage, partial: stage === "report" };
        print(folder, await withFolder(folder, () => runStudy(study, folder, options)));
      });
  study
    .command("verify <folder>")
    .description(
      "check every file of a finished study by its hash, and compute the report again from the votes",
    )
    .action(async (folder: string) => console.log(await verifyStudy(folder)));
}

async function run(path: string, { out, raw }: RecipeFlags): Promise<void> {
  print(out, await withFolder(out, async () => runStudy(await initStudy(path, out, raw), out)));
}

async function init(path: string, { out, raw }: RecipeFlags): Promise<void> {
  const { models, systems, pairs } = await withFolder(out, () => initStudy(path, out, raw));
  console.log(`${out}: ${models.length} models, ${systems.length} systems, ${pairs.length} pairs.`);
}

function print(folder: string, { missing, results }: StudyEnd): void {
  if (results) console.log(headline(results).join("\n"));
  if (missing > 0) {
    console.log(`${missing} votes are missing: koala study serve ${folder} lets people rate.`);
    console.log(
      results
        ? `The report is of the votes so far.`
        : `The same command goes on when they are there; koala study report ${folder} reports on those so far.`,
    );
  }
  if (results) console.log(`${folder}/report/index.html`);
}

/** One line a pair and set. */
function headline({ headline: rows }: Results): string[] {
  const percent = (share: number): string => (100 * share).toFixed(1);
  return rows.map(({ pair: [a, b], set, rate }) => {
    const range = rate.scoreInterval?.map(percent).join(" to ");
    const interval = range === undefined ? "" : ` (95 % interval ${range})`;
    return `${a} against ${b}, ${set}: score ${percent(rate.score)} %${interval}, sign test p = ${rate.signTestP.toPrecision(2)}`;
  });
}
