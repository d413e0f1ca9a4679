/** From a job's row to what `koala train` takes: the data prepared, every "auto" decided, a complete recipe. */
import { join } from "node:path";
import { prepareDataset } from "../../data/prepare.ts";
import { readRecords } from "../../data/reader.ts";
import { contentText, type TrainingRecord } from "../../data/record.ts";
import type { DatasetReport } from "../../data/report.ts";
import { type LlamaConfig, readConfig } from "../../model/config.ts";
import { flatLayout } from "../../model/flat_layout.ts";
import type { FileKind } from "../../server/fine_tuning.ts";
import type { KoalaSettings } from "../../server/schema/fine_tuning.ts";
import type { JobMethod, ResolvedHyperparameters, StoredJob } from "../../store/jobs.ts";
import { checkRecipe, type Recipe } from "../../train/recipe.ts";
import type { StageProgress } from "../../train/run.ts";
import { UsageError } from "../../util/errors.ts";
import { inputFile, runFolder } from "./folders.ts";
import { InputError } from "./input_error.ts";

export interface JobPlan {
  recipe: Recipe;
  /** The base model's folder. */
  model: string;
  /** The prepared data's folder. */
  dataset: string;
  resolved: ResolvedHyperparameters;
  report: DatasetReport;
  /** Of the finished model's weights. */
  modelBytes: number;
  /** The first questions of the data, to watch what the model makes of them. */
  samplePrompts: string[];
}

export const settingsOf = (job: StoredJob): KoalaSettings => (job.metadata ?? {}) as KoalaSettings;

export type JobLoss = "sft" | "dpo" | "kto";

/** What is learned from the data. */
export const lossOf = ({ type }: JobMethod, settings: KoalaSettings): JobLoss =>
  type === "dpo" ? ((settings.koala_loss ?? "dpo") as JobLoss) : "sft";

/** OpenAI's format of the method, unless the job names another; OpenAI has none for labels. */
export function formatOf(method: JobMethod, settings: KoalaSettings): string {
  if (settings.koala_format) return settings.koala_format;
  const loss = lossOf(method, settings);
  if (settings.koala_markers === "true" || loss === "kto") return "auto";
  return loss === "dpo" ? "openai-dpo" : "messages";
}

/** Longest row that is chosen without being asked for. */
const autoLengthMax = 2048;
/** Tokens that go through the model at a time. */
const microTokens = 2048;

/** Throws UsageError where the data cannot be trained on. */
export async function planJob(
  job: StoredJob,
  of: { dataDirectory: string; threads: number; ranksMax: number },
  onProgress: StageProgress,
): Promise<JobPlan> {
  const settings = settingsOf(job);
  const { path: model, template } = job.source;
  const config = await readConfig(model);
  const asked = settings.koala_sequence_length ? Number(settings.koala_sequence_length) : null;
  const output = join(of.dataDirectory, runFolder(job.id));
  const data = {
    model,
    directory: join(output, "data"),
    format: formatOf(job.method, settings),
    method: lossOf(job.method, settings),
    sequenceLength: asked ?? Math.min(autoLengthMax, config.maxPositions),
    preference: settings.koala_markers === "true" ? ("condition" as const) : ("chosen" as const),
    allow: (settings.koala_allow ?? "").split(",").filter((name) => name.trim() !== ""),
    ...(settings.koala_template || template ? { template: settings.koala_template ?? template! } : {}),
  };
  const prepare = async (kind: FileKind) => {
    const file = await neededFile(of.dataDirectory, job.id, kind);
    return { file, ...(await refusing(kind, () => prepareDataset({ ...data, files: [file] }, onProgress))) };
  };
  const { file, directory, report } = await prepare("training_file");
  const validated = job.validationFile === null ? null : await prepare("validation_file");
  const resolved = resolve(job, report, parameterCount(config));
  const sequenceLength = asked ?? roundUp(Math.min(report.longest, data.sequenceLength), 16);
  const examples = examplesOf(report, data.method);
  const rows = rowsOf(report.tokens / examples, resolved.batch_size, sequenceLength);
  // A rank without a row would only wait.
  const ranks = Math.min(Number(settings.koala_ranks ?? of.ranksMax), of.ranksMax, rows);
  const recipe = checkRecipe(
    {
      model: { path: model },
      data: {
        dataset: directory,
        ...(validated ? { validation: validated.directory } : {}),
        ...(data.template ? { template: data.template } : {}),
      },
      method: data.method === "sft" ? { type: "sft" } : { type: data.method, beta: resolved.beta },
      ...loraOf(settings),
      schedule: scheduleOf(settings, resolved),
      ...(settings.koala_precision ? { precision: settings.koala_precision } : {}),
      ...(settings.koala_recompute ? { recompute: settings.koala_recompute } : {}),
      sequence_length: Math.min(sequenceLength, config.maxPositions),
      rows_per_step: rows,
      micro_rows: microRowsOf(rows, sequenceLength, ranks),
      epochs: resolved.n_epochs,
      seed: job.seed,
      ...intervalsOf(examples, resolved),
      output,
      ranks,
      // The stage whose sums are the same on any number of ranks.
      zero: 2,
      threads: of.threads === 0 ? 0 : Math.max(1, Math.floor(of.threads / ranks)),
      export_dtype: await dtypeOf(model),
    },
    `The recipe of ${job.id}`,
  );
  return {
    recipe,
    model,
    dataset: directory,
    resolved,
    report,
    modelBytes: parameterCount(config) * (recipe.export_dtype === "float32" ? 4 : 2),
    samplePrompts: await questionsOf(file, data.format),
  };
}

/** A tuned model has the precision of its base. */
async function dtypeOf(model: string): Promise<Recipe["export_dtype"]> {
  const config = (await Bun.file(join(model, "config.json")).json()) as Record<string, unknown>;
  return (config["dtype"] ?? config["torch_dtype"]) === "float32" ? "float32" : "bfloat16";
}

export async function neededFile(dataDirectory: string, jobId: string, kind: FileKind): Promise<string> {
  const path = await inputFile(dataDirectory, jobId, kind);
  if (path !== null) return path;
  throw new UsageError(
    `The ${kind} of ${jobId} is not under ${dataDirectory}. Servers that share a database must share the data directory, too.`,
  );
}

/** Where the data is refused, the file is to blame; of what else may fail it is innocent. */
async function refusing<T>(kind: FileKind, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const refused = error instanceof UsageError && error.message.startsWith("The data is refused");
    throw refused ? new InputError(asMetadata(error.message), kind) : error;
  }
}

/** Lints are allowed in the request here, not in a recipe. */
const asMetadata = (refusal: string): string =>
  refusal.replace(
    /\(allow = \[(.*)\]\)/,
    (_, names: string) => `(metadata.koala_allow = "${names.replaceAll(/[" ]/g, "")}")`,
  );

/** OpenAI decides by the data as well and does not say how; these are Koala's own rules. */
function resolve(job: StoredJob, report: DatasetReport, parameters: number): ResolvedHyperparameters {
  const { hyperparameters, type } = job.method;
  const decided = (value: number | "auto" | undefined, auto: number): number =>
    typeof value === "number" ? value : auto;
  const settings = settingsOf(job);
  const examples = examplesOf(report, lossOf(job.method, settings));
  const multiplier = settings.koala_learning_rate
    ? Number(settings.koala_learning_rate) / baseRate(settings)
    : decided(hyperparameters.learning_rate_multiplier, autoMultiplier(parameters));
  return {
    n_epochs: decided(hyperparameters.n_epochs, 3),
    batch_size: decided(hyperparameters.batch_size, Math.min(256, Math.max(1, Math.ceil(examples / 500)))),
    learning_rate_multiplier: multiplier,
    ...(type === "dpo" ? { beta: decided(hyperparameters.beta, 0.1) } : {}),
  };
}

/** The base rates suit 7 billion parameters; smaller models take larger steps, as the roots of their sizes differ. */
function autoMultiplier(parameters: number): number {
  const multiplier = Math.min(Math.max(Math.sqrt(7e9 / parameters), 1), 40);
  return Number(multiplier.toPrecision(2));
}

const parameterCount = (config: LlamaConfig): number => flatLayout(config).parameterCount;

/** Of preferences two documents each: the sides of a pair, or an answer and what its reference point is taken from. */
const examplesOf = ({ documents }: DatasetReport, loss: JobLoss): number =>
  loss === "sft" ? documents : documents / 2;

const baseRate = (settings: KoalaSettings): number => (settings.koala_method === "lora" ? 2e-4 : 2e-5);

function loraOf(settings: KoalaSettings): object {
  if (settings.koala_method !== "lora") return {};
  const rank = Number(settings.koala_lora_rank ?? 16);
  return { lora: { rank, alpha: Number(settings.koala_lora_alpha ?? 2 * rank) } };
}

const scheduleOf = (settings: KoalaSettings, resolved: ResolvedHyperparameters): object => ({
  type: settings.koala_schedule ?? "cosine",
  learning_rate: Number(
    settings.koala_learning_rate ?? (resolved.learning_rate_multiplier * baseRate(settings)).toPrecision(12),
  ),
  warmup_share: Number(settings.koala_warmup_share ?? 0.03),
});

/** A batch counts examples, a step rows of several examples: as many rows as that many examples fill on average. */
function rowsOf(tokensPerExample: number, batchSize: number, sequenceLength: number): number {
  const perRow = Math.max(1, sequenceLength / tokensPerExample);
  return Math.max(1, Math.round(batchSize / perRow));
}

/** Every rank has a micro-batch of each step. */
const microRowsOf = (rows: number, sequenceLength: number, ranks: number): number =>
  Math.max(1, Math.min(Math.floor(rows / ranks), Math.floor(microTokens / sequenceLength)));

/** About ten checkpoints to go on from, and five looks at samples, over the whole run. */
function intervalsOf(examples: number, resolved: ResolvedHyperparameters): object {
  const steps = Math.ceil((examples / resolved.batch_size) * resolved.n_epochs);
  return {
    checkpoint: { interval: Math.min(500, Math.max(10, Math.ceil(steps / 10))), keep: 2 },
    sample_interval: Math.max(5, Math.ceil(steps / 5)),
    sample_tokens: 32,
  };
}

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/** At most two, short enough to be read in a list of events. */
async function questionsOf(file: string, format: string): Promise<string[]> {
  const found = new Set<string>();
  let read = 0;
  for await (const record of readRecords(file, { format })) {
    if (record.verdict !== "dropped") {
      const question = firstQuestion(record.record);
      if (question !== null && question.length <= 300) found.add(question);
    }
    if (found.size >= 2 || ++read >= 50) break;
  }
  return [...found];
}

function firstQuestion(record: TrainingRecord): string | null {
  if (record.kind === "text" || record.kind === "fields") return null;
  const [first] = record.messages;
  const text = first?.role === "user" ? contentText(first).trim() : "";
  return text === "" ? null : text;
}
