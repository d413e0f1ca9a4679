/** `koala eval report`: a study's folder becomes one HTML page, a JSON file and a CSV file. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { computeResults, defaultResultsOptions } from "../../eval/report/results.ts";
import { writeReport } from "../../eval/report/write.ts";
import { readStudy } from "../../eval/study_files.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { integer } from "../model_options.ts";

export function registerReport(verb: Command): void {
  verb
    .command("report <folder>")
    .description(
      "analyse a study: study.json, answers.jsonl and votes.jsonl become a page, results.json and results.csv",
    )
    .option("--out <folder>", "where the report goes (default: report in the study's folder)")
    .option(
      "--bootstrap <n>",
      "resamples of the prompts for each interval",
      integer(100, 1_000_000),
      defaultResultsOptions.draws,
    )
    .option("--criterion <name>", "criterion of the headline", defaultResultsOptions.criterion)
    .action(report);
}

async function report(
  folder: string,
  flags: { out?: string; bootstrap: number; criterion: string },
): Promise<void> {
  if (!existsSync(folder)) throw new UsageError(`There is no folder ${folder}.`);
  const data = await readStudy(folder);
  const criteria = [...new Set(data.votes.map(({ criterion }) => criterion))];
  if (criteria.length > 0 && !criteria.includes(flags.criterion)) {
    throw new UsageError(
      `No vote has the criterion ${flags.criterion}; --criterion may be ${criteria.join(", ")}.`,
    );
  }
  const progress = new Progress("items");
  const results = computeResults(data, {
    draws: flags.bootstrap,
    criterion: flags.criterion,
    onProgress: (done, total) => progress.update("resampling", done, total),
  });
  const written = await writeReport(results, data, flags.out ?? join(folder, "report"));
  for (const path of written) console.log(path);
}
