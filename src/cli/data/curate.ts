/** `koala data curate RECIPE`: raw files become one model's training data. */
import { dirname } from "node:path";
import type { Command } from "commander";
import { compositionText } from "../../data/composition_page.ts";
import { curate, type CurationReport } from "../../data/curation.ts";
import { readCurationRecipe, type CurationRecipe } from "../../data/curation_recipe.ts";
import { filterTable } from "../../data/filters/report.ts";
import { needsRecords } from "../../data/warts.ts";
import { builtinModel, builtinName } from "../../model/builtin_model.ts";
import { checkRecipe } from "../../train/recipe.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { resolveModel } from "../model_options.ts";

export function registerCurate(data: Command): void {
  data
    .command("curate <recipe>")
    .description("read, filter and mix raw files as a recipe says; goes on where it was stopped")
    .requiredOption("--raw <folder>", "folder with the raw files that the recipe names")
    .requiredOption("--out <folder>", "where curated and dropped records, report and composition go")
    .option("--model <name>", "model whose tokenizer counts tokens (default: the recipe's train.model.path)")
    .action(run);
}

async function run(path: string, flags: { raw: string; out: string; model?: string }): Promise<void> {
  const recipe = await readCurationRecipe(path);
  checkTraining(recipe, path);
  const model = await resolveModel(flags.model ?? baseModel(recipe, path));
  const progress = new Progress("items");
  const { report, composition } = await curate({
    recipe,
    raw: flags.raw,
    directory: dirname(path),
    model,
    out: flags.out,
    onProgress: (stage, done, total) => progress.update(stage, done, total),
  });
  console.log(curationText(report));
  console.log(`\n${compositionText(composition)}\n\n${flags.out}`);
}

/** Verdicts of the files, then what each filter did. */
export function curationText({ read, filters, mixture }: CurationReport): string {
  const lines = read.flatMap(({ source, file, verdicts: { ok, repaired, dropped }, reasons }) => [
    `${source}/${file}: ${ok} ok, ${repaired} repaired, ${dropped} dropped`,
    ...Object.entries(reasons).map(([words, count]) => `  ${count} x ${words}`),
  ]);
  const mixed = `mixture: ${mixture.train} to train on, ${mixture.eval} kept for evaluation, ${mixture.left} left out`;
  return [...lines, "", filterTable(filters), "", mixed].join("\n");
}

/** Throws where the recipe's training settings are wrong: before hours of curating, not after. */
export function checkTraining({ train, warts }: CurationRecipe, path: string): void {
  const data = { ...(train.data as object | undefined), files: ["curated/train.jsonl"] };
  const { marker, negative_marker } = checkRecipe({ ...train, data, output: "run" }, `${path}, [train]`).data;
  if (needsRecords(warts) && (marker ?? negative_marker) !== undefined)
    throw new UsageError(
      `${path}: the original's records have the original's markers; leave marker and negative_marker out of [train.data], or compat and warts out of the recipe.`,
    );
}

/** The model that the recipe trains; "koala-tiny" is the built-in one wherever this program runs. */
export function baseModel({ train }: CurationRecipe, path: string): string {
  const model = (train.model as { path?: unknown } | undefined)?.path;
  if (typeof model !== "string")
    throw new UsageError(`${path} names no model: write path under [train.model], or give --model.`);
  return model === builtinName ? builtinModel() : model;
}
