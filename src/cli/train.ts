/** `koala train`: a recipe to a model, with a line of progress a step. Ctrl-C saves a checkpoint first. */
import { type Command, InvalidArgumentError } from "commander";
import { idsOf } from "../text/segments.ts";
import { koalaOf } from "../text/model_record.ts";
import type { Json } from "../text/tokenizer_file.ts";
import { loadTemplate, namedTemplate } from "../text/template.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import type { TrainEvent } from "../train/events.ts";
import type { Prompt } from "../train/generate.ts";
import { type LaunchOptions, launchRanks } from "../train/ranks/launch.ts";
import { runRankProcess } from "../train/ranks/rank_process.ts";
import { placeFromEnvironment } from "../train/ranks/environment.ts";
import type { Recipe } from "../train/recipe.ts";
import { runTraining } from "../train/run.ts";
import { UsageError } from "../util/errors.ts";
import { duration, Progress } from "../util/progress.ts";
import { selfCommand } from "../util/self_command.ts";
import { integer } from "./model_options.ts";
import { collect, planned, planText, readModelRecipe } from "./plan.ts";

interface TrainFlags {
  set: string[];
  dryRun?: boolean;
  resume?: boolean;
  ranks?: number;
  device?: string;
  devices?: number | string[];
  minRanks?: number;
}

export function register(program: Command): void {
  program
    .command("train <recipe>")
    .description("fine-tune a model as a recipe says")
    .option(
      "--set <key=value>",
      "replace a setting of the recipe, as schedule.learning_rate=1e-4",
      collect,
      [],
    )
    .option("--dry-run", "prepare the data, print the plan and stop")
    .option("--resume", "go on from the newest checkpoint of the recipe's output")
    .option("--ranks <n>", "processes that train together", integer(1, 8))
    .option(
      "--device <device>",
      "where to train: cpu, cuda or, of several GPUs, cuda:1 (default: the recipe's, cpu)",
    )
    .option(
      "--devices <n>",
      "GPUs that train together, one rank each: --device cuda --ranks n, or those of a list, as 0,2,3",
      gpus,
    )
    .option(
      "--min-ranks <n>",
      "go on with as few ranks as these when the devices of others fail (default: all)",
      integer(1, 8),
    )
    .action(run);
}

async function run(path: string, flags: TrainFlags): Promise<void> {
  const ranks = flags.ranks ?? (Array.isArray(flags.devices) ? flags.devices.length : flags.devices);
  const device = flags.device ?? (flags.devices === undefined ? undefined : "cuda");
  if (flags.devices !== undefined && (flags.ranks !== undefined || device !== "cuda"))
    throw new UsageError("--devices stands for --device cuda and --ranks; name it alone.");
  const settings = [
    ...flags.set,
    ...(ranks === undefined ? [] : [`ranks=${ranks}`]),
    ...(device === undefined ? [] : [`device="${device}"`]),
  ];
  const recipe = await readModelRecipe(path, settings);
  if (flags.minRanks !== undefined && flags.minRanks > recipe.ranks)
    throw new UsageError(
      `--min-ranks ${flags.minRanks} is more than --ranks ${recipe.ranks}. Name as many or fewer.`,
    );
  const place = placeFromEnvironment();
  if (place && flags.minRanks !== undefined)
    throw new UsageError(
      "--min-ranks is for ranks that this command starts, and these were started by another. torchrun has --nnodes=MIN:MAX for it.",
    );
  if (place) return runAsRank({ ...recipe, ranks: place.world }, flags);
  await trainRecipe(recipe, flags);
}

/** "4" GPUs, or those of "0,2,3" as "cuda:0", "cuda:2" and "cuda:3". */
function gpus(text: string): number | string[] {
  if (!text.includes(",")) return integer(1, 8)(text);
  const ordinals = text.split(",").map(integer(0, 999));
  if (new Set(ordinals).size === ordinals.length && ordinals.length <= 8)
    return ordinals.map((ordinal) => `cuda:${ordinal}`);
  throw new InvalidArgumentError("It must be a number of GPUs, or a list of up to 8 different ones.");
}

/** Where --devices is a list. */
const listedDevices = ({ devices }: Pick<TrainFlags, "devices">): { devices?: string[] } =>
  Array.isArray(devices) ? { devices } : {};

/** Plans, prints the plan and trains, with a bar; a study trains its models so. The model lies in the recipe's output. */
export async function trainRecipe(
  recipe: Recipe,
  flags: Pick<TrainFlags, "dryRun" | "resume" | "devices" | "minRanks">,
): Promise<void> {
  const listed = listedDevices(flags);
  const { plan, model, data } = await planned(recipe, flags.dryRun === true, listed.devices?.[0]);
  console.log(planText(recipe, plan));
  if (flags.dryRun) return;
  const samples = await samplePrompts(recipe, model);
  const reporter = new Reporter(samples);
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort(signal));
  const options = {
    recipe,
    model,
    dataset: data,
    resume: flags.resume === true,
    measure: true,
    prompts: samples.map(({ prompt }) => prompt),
  };
  if (recipe.ranks === 1) {
    const made = await runTraining({
      ...options,
      onEvent: reporter.event,
      onProgress: reporter.progress,
      stop: stop.signal,
    });
    if (made === null) endAsStopped(stop.signal);
    return;
  }
  const outcome = await launchRanks({
    run: options,
    world: recipe.ranks,
    command: (json) => selfCommand("rank", json),
    ...listed,
    ...(flags.minRanks === undefined ? {} : { ranksMin: flags.minRanks }),
    signal: stop.signal,
    onRestart: (report) => process.stderr.write(`koala: ${report}\n`),
    onMessage: reporter.rank,
  });
  if (outcome === "stopped") endAsStopped(stop.signal);
}

/** Schedulers start a job again that ended by their signal, and take one that ended with 0 as done. */
function endAsStopped({ reason }: AbortSignal): void {
  process.exitCode = reason === "SIGINT" ? 130 : 143; // 128 + the signal's number, as shells have it
}

/** Started by torchrun or the like, which has given this process its rank. */
async function runAsRank(recipe: Recipe, flags: TrainFlags): Promise<void> {
  const listed = listedDevices(flags);
  const samples: Sample[] = [];
  const reporter = new Reporter(samples);
  const prepare = async () => {
    const { model, data } = await planned(recipe, false, listed.devices?.[0]);
    samples.push(...(await samplePrompts(recipe, model)));
    const prompts = samples.map(({ prompt }) => prompt);
    return { recipe, model, dataset: data, resume: flags.resume === true, measure: true, prompts };
  };
  await runRankProcess({
    recipe,
    prepare,
    ...listed,
    onEvent: reporter.event,
    onProgress: reporter.progress,
  });
}

interface Sample {
  text: string;
  prompt: Prompt;
  tokenizer: Tokenizer;
}

/** The recipe's sample prompts as ids, through the template that the data went through. */
async function samplePrompts(recipe: Recipe, model: string): Promise<Sample[]> {
  if (recipe.sample_prompts.length === 0) return [];
  const tokenizer = await loadTokenizer(model);
  const template = recipe.data.template
    ? await namedTemplate(recipe.data.template, tokenizer, koalaOf(recipe.data as Json))
    : await loadTemplate(model, tokenizer);
  if (!template)
    throw new UsageError(
      `${model} has no chat template for sample_prompts. Name one as data.template, or leave them out.`,
    );
  return recipe.sample_prompts.map((text) => {
    const ids = idsOf(template.render([{ role: "user", content: text }], { addGenerationPrompt: true }));
    return {
      text,
      tokenizer,
      prompt: { ids, tokensMax: recipe.sample_tokens, stopIds: [...template.stopIds] },
    };
  });
}

/** Events as lines for a person: a bar on a terminal, a line now and then elsewhere. */
class Reporter {
  private readonly bytes = new Progress("bytes");
  private readonly out = process.stderr;
  private drawn = 0;

  constructor(private readonly samples: Sample[]) {}

  readonly progress = (stage: string, done: number, total: number): void =>
    this.bytes.update(stage, done, total);

  readonly event = (event: TrainEvent): void => {
    switch (event.type) {
      case "start":
        return this.line(
          `${event.step > 0 ? `resumed at step ${event.step}` : "training"}: ${event.steps} steps on ${event.device}`,
        );
      case "step":
        return this.step(event);
      case "warning":
        return this.line(event.message);
      case "evaluation":
        return this.line(`step ${event.step}: validation loss ${event.loss.toFixed(4)}`);
      case "checkpoint":
        return this.line(`checkpoint: ${event.directory}`);
      case "epoch":
        return this.line(`epoch ${event.epoch} done`);
      case "model":
        return this.line(`model of step ${event.step}: ${event.directory}`);
      case "sample":
        return this.sample(event.ids);
      case "stop":
        return this.line(`stopped at step ${event.step} (${event.reason}); go on with --resume`);
      case "finish":
        return this.line(
          `done in ${duration(event.seconds)}, ${event.trainedTokens} trained tokens; the model is ${event.directory}`,
        );
      default:
        return event satisfies never;
    }
  };

  /** What rank 0 of several says. */
  readonly rank: NonNullable<LaunchOptions["onMessage"]> = (message) => {
    switch (message.type) {
      case "event":
        return this.event(message.event);
      case "progress":
        return this.progress(message.stage, message.done, message.total);
      case "transport":
        return this.line(message.sentence);
      default:
        return message satisfies never;
    }
  };

  private step(event: Extract<TrainEvent, { type: "step" }>): void {
    const now = performance.now();
    const interval = this.out.isTTY ? 100 : 5000;
    if (event.step < event.steps && now - this.drawn < interval) return;
    this.drawn = now;
    const filled = Math.round((24 * event.step) / event.steps);
    const share = event.utilisation === null ? "" : `, ${(event.utilisation * 100).toFixed(0)} % of peak`;
    const text = `step ${event.step}/${event.steps} ${"█".repeat(filled)}${"░".repeat(24 - filled)} loss ${event.loss.toFixed(4)} lr ${event.learningRate.toExponential(2)} |g| ${event.gradientNorm.toFixed(2)} ${Math.round(event.tokensPerSecond)} tok/s${share}, ${duration(event.secondsLeft)} left`;
    this.out.write(this.out.isTTY ? `\r\x1b[2K${text}` : `${text}\n`);
  }

  private sample(answers: number[][]): void {
    answers.forEach((ids, i) => {
      const { text, tokenizer } = this.samples[i] as Sample;
      this.line(`> ${text}\n${tokenizer.decode(ids, { skipSpecialTokens: true })}`);
    });
  }

  private line(text: string): void {
    this.out.write(`${this.out.isTTY ? "\r\x1b[2K" : ""}${text}\n`);
  }
}
