/** `koala plan`: what a recipe's run will take, before it starts. */
import { freemem } from "node:os";
import type { Command } from "commander";
import { openDataset } from "../data/shard.ts";
import { openDevice } from "../tensor/open_device.ts";
import { memoryKinds } from "../train/allocation.ts";
import { fittingChange, type Plan, planRun } from "../train/plan.ts";
import { trainedTemplate } from "../text/model_record.ts";
import { checkRows } from "../train/ranks/launch.ts";
import { type Recipe, readRecipe } from "../train/recipe.ts";
import { prepareData } from "../train/run.ts";
import { readConfig } from "../model/config.ts";
import { UsageError } from "../util/errors.ts";
import { bytesText, duration, Progress } from "../util/progress.ts";
import { resolveModel } from "./model_options.ts";

export interface PlanFlags {
  set: string[];
  json?: boolean;
  measure: boolean;
}

export const collect = (value: string, before: string[]): string[] => [...before, value];

export function register(program: Command): void {
  program
    .command("plan <recipe>")
    .description("print memory, operations, time and cost of a training run before it starts")
    .option(
      "--set <key=value>",
      "replace a setting of the recipe, as schedule.learning_rate=1e-4",
      collect,
      [],
    )
    .option("--no-measure", "leave out the time: do not run a layer on this machine")
    .option("--json", "print the plan as JSON")
    .action(run);
}

/** The recipe; where it names no template, the one that its model was trained with. */
export async function readModelRecipe(path: string, settings: string[]): Promise<Recipe> {
  const recipe = await readRecipe(path, settings);
  if (recipe.data.template !== undefined) return recipe;
  const template = await trainedTemplate(await resolveModel(recipe.model.path));
  return template === undefined ? recipe : { ...recipe, data: { ...recipe.data, template } };
}

async function run(path: string, flags: PlanFlags): Promise<void> {
  const recipe = await readModelRecipe(path, flags.set);
  const { plan } = await planned(recipe, flags.measure);
  if (flags.json) console.log(JSON.stringify(plan, null, 2));
  else console.log(planText(recipe, plan));
}

/** Data prepared, model found, plan made, on the device of the first rank. Throws UsageError where the run does not fit, naming what
 *  would. */
export async function planned(
  recipe: Recipe,
  measure: boolean,
  firstDevice = recipe.device,
): Promise<{ plan: Plan; model: string; data: string }> {
  checkRows(recipe, recipe.ranks);
  const model = await resolveModel(recipe.model.path);
  const progress = new Progress("bytes");
  const data = await prepareData(recipe, model, (stage, done, total) => progress.update(stage, done, total));
  const dataset = openDataset(data);
  const device = openDevice(firstDevice, { threads: recipe.threads });
  try {
    const config = await readConfig(model);
    const estimate = planRun({ recipe, config, dataset, device, measure: false });
    const onCpu = recipe.device === "cpu";
    const available = onCpu ? (process.availableMemory?.() ?? freemem()) : device.info.memory_bytes;
    const shared = recipe.device === "cuda" ? 1 : recipe.ranks;
    const wanted = estimate.totalBytes * shared;
    if (wanted > available) {
      const change = fittingChange({ recipe, config, device }, available);
      throw new UsageError(
        `The run needs ${bytesText(wanted)} and ${onCpu ? "this machine" : recipe.device} has ${bytesText(available)}${onCpu ? " available" : ""}. ${change ? `It would fit with ${change}.` : "No single setting makes it fit: take a smaller model, a shorter sequence_length, or LoRA with recomputation."}`,
      );
    }
    const plan = measure ? planRun({ recipe, config, dataset, device, measure }) : estimate;
    return { plan, model, data };
  } finally {
    device.close();
    dataset.close();
  }
}

export function planText(recipe: Recipe, plan: Plan): string {
  const line = (name: string, text: string) => `${name.padEnd(14)} ${text}`;
  const count = (value: number) => value.toLocaleString("en-US");
  const parameters =
    plan.parameters === plan.trainedParameters
      ? `${count(plan.parameters)}, all trained`
      : `${count(plan.parameters)}, ${count(plan.trainedParameters)} trained`;
  const { time } = plan;
  const ranks = recipe.ranks > 1 ? ` on each of ${recipe.ranks} ranks` : "";
  return [
    line("parameters", parameters),
    ...memoryKinds.map((kind) =>
      line(kind, bytesText(plan.bytes[kind]) + (kind === "activations" ? activationsNote(plan) : "")),
    ),
    line("memory", `${bytesText(plan.totalBytes)}${ranks}`),
    line(
      "steps",
      `${count(plan.steps)} of ${recipe.rows_per_step} rows of ${recipe.sequence_length} tokens, ${(plan.fill * 100).toFixed(1)} % filled`,
    ),
    line("tokens", count(plan.tokens)),
    line("operations", `${plan.flops.toExponential(2)} FLOP`),
    ...(time
      ? [
          line("speed", `${count(Math.round(time.tokensPerSecond))} tokens/s expected`),
          line("time", duration(time.hours * 3600)),
          ...(time.cost === null
            ? []
            : [line("cost", `${time.cost.toFixed(2)} at ${recipe.cost_per_hour} an hour`)]),
        ]
      : []),
  ].join("\n");
}

function activationsNote({ activations: { type, savedBytes } }: Plan): string {
  if (savedBytes === null) return ` (${type})`;
  return ` (${type}; activations = "bfloat16" would save ${bytesText(savedBytes)})`;
}
