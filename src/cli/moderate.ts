/** `koala moderate train FILE | eval FILE`: fits the built-in linear classifier, and measures it. */
import { mkdirSync } from "node:fs";
import type { Command } from "commander";
import { LinearModel } from "../eval/moderation/linear_model.ts";
import { type CategoryFigures, crossValidate } from "../eval/moderation/measure.ts";
import { readSamples } from "../eval/moderation/samples.ts";
import { prepare, trainModel } from "../eval/moderation/train.ts";
import { Progress } from "../util/progress.ts";
import { integer } from "./model_options.ts";

interface Flags {
  seed: number;
  folds: number;
}

const shape =
  'JSON lines as OpenAI\'s moderation-api-release has them: {"prompt", "S", "H", "V", "HR", "SH", "S3", "H2", "V2"}';

export function register(program: Command): void {
  const verb = program
    .command("moderate")
    .description("train and measure the built-in moderation classifier");
  const shared = (command: Command): Command =>
    command
      .argument("<file>", shape)
      .option("--seed <n>", "decides the folds and the order of samples", integer(0, 2 ** 32 - 1), 0)
      .option("--folds <n>", "parts of the cross validation", integer(2, 20), 5);
  shared(verb.command("train").description("fit the classifier and write it, with the figures on stdout"))
    .requiredOption("--out <folder>", "folder for model.json and weights.bin")
    .action(train);
  shared(verb.command("eval").description("how well it tells texts apart, by cross validation")).action(
    evaluate,
  );
}

async function train(file: string, flags: Flags & { out: string }): Promise<void> {
  const set = prepare(await readSamples(file));
  const { figures, points } = validate(set.samples, flags);
  const progress = new Progress("items");
  const model = trainModel(set, points, {
    seed: flags.seed,
    onCategory: (done) => progress.update("training", done, points.length),
  });
  mkdirSync(flags.out, { recursive: true });
  model.write(flags.out);
  LinearModel.read(flags.out);
  console.log(table(figures));
}

async function evaluate(file: string, flags: Flags): Promise<void> {
  console.log(table(validate(prepare(await readSamples(file)).samples, flags).figures));
}

function validate(samples: Parameters<typeof crossValidate>[0], { seed, folds }: Flags) {
  const progress = new Progress("items");
  const onFit = (done: number, total: number) => progress.update("cross validation", done, total);
  return crossValidate(samples, { seed, folds, onFit });
}

/** A Markdown table, so that it can go into a model card as it is. */
function table(figures: readonly CategoryFigures[]): string {
  const head =
    "| category | positive | judged | chance | AUPRC | AUC | recall at 5 % FPR | recall at 0.5 | precision at 0.5 |";
  const rows = figures.map(({ category, positive, judged, ...rest }) => {
    const shares = [positive / judged, rest.auprc, rest.auc, rest.recallAt5, rest.recall, rest.precision];
    return `| ${[category, positive, judged, ...shares.map((share) => share.toFixed(3))].join(" | ")} |`;
  });
  return [head, `|---|${"--:|".repeat(8)}`, ...rows].join("\n");
}
