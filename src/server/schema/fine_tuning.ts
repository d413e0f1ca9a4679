/** Fine-tuning jobs, as OpenAI's API has them, and what Koala adds to them under `metadata.koala_*`. */
import { z } from "zod";
import { FIELD } from "../limits.ts";
import { optional } from "./common.ts";

const auto = z.literal("auto");
/** Not the literal: with that a wrong number would be told that it must be "auto". */
const autoText = z
  .string()
  .refine((value) => value === "auto", { error: 'must be a number or "auto"' })
  .meta({ const: "auto" })
  .transform(() => "auto" as const);

const hyperparameterFields = {
  batch_size: optional(
    z.union([autoText, z.int().min(1).max(256)]),
    "Examples of a step. auto: one in five hundred, at least 1 and at most 256.",
  ),
  learning_rate_multiplier: optional(
    z.union([autoText, z.number().gt(0).max(1000)]),
    "Times 2e-5 (all weights) or 2e-4 (LoRA). auto: 1.",
  ),
  n_epochs: optional(z.union([autoText, z.int().min(1).max(50)]), "Times that the data is seen. auto: 3."),
};

const supervisedSchema = z.strictObject(hyperparameterFields);
const dpoSchema = z.strictObject({
  ...hyperparameterFields,
  beta: optional(
    z.union([autoText, z.number().gt(0).max(2)]),
    "How closely the model stays to its base. auto: 0.1.",
  ),
});

const chosen = "Everything that is left out is chosen by the data.";

const methodSchema = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("supervised"),
    supervised: optional(z.strictObject({ hyperparameters: optional(supervisedSchema, chosen) }), chosen),
  }),
  z.strictObject({
    type: z.literal("dpo"),
    dpo: optional(z.strictObject({ hyperparameters: optional(dpoSchema, chosen) }), chosen),
  }),
  z.strictObject({
    type: z.literal("reinforcement").describe("Refused: this server does not train with graders."),
    reinforcement: z.unknown(),
  }),
]);

const text = (check: (value: string) => boolean, error: string) => z.string().refine(check, { error });
const whole = (min: number, max: number) =>
  text(
    (value) => /^\d+$/.test(value) && Number(value) >= min && Number(value) <= max,
    `must be a whole number from ${min} to ${max}, written as a string`,
  );
const positive = (max: number) =>
  text(
    (value) => value.trim() !== "" && Number(value) > 0 && Number(value) <= max,
    `must be a number above 0 and at most ${max}, written as a string`,
  );
const isFormat = z.enum([
  "messages",
  "openai-dpo",
  "preference",
  "sharegpt",
  "alpaca",
  "fields",
  "text",
  "auto",
]);

const koalaFields = {
  koala_method: optional(z.enum(["full", "lora"]), "Train all weights (default) or a low-rank adapter."),
  koala_loss: optional(
    z.enum(["dpo", "kto"]),
    "Of method dpo. kto: learn from answers with a label (good or not), or from pairs, by the loss of KTO. Default dpo.",
  ),
  koala_lora_rank: optional(whole(1, 4096), "Default 16."),
  koala_lora_alpha: optional(positive(1e6), "Default twice the rank."),
  koala_sequence_length: optional(
    whole(16, 2 ** 20),
    "Tokens of a packed row. Default: as long as the longest example, at most 2048 and the model's positions.",
  ),
  koala_precision: optional(
    z.enum(["float32", "mixed", "bf16"]),
    "bf16: bfloat16 weights with an exact float32 master. Default bf16.",
  ),
  koala_recompute: optional(
    z.enum(["none", "norm+swiglu", "ffn", "block"]),
    "What is computed twice instead of kept: less memory, more time. Default none.",
  ),
  koala_learning_rate: optional(positive(1), "The peak itself, instead of a multiplier."),
  koala_schedule: optional(
    z.enum(["constant", "linear", "cosine", "wsd"]),
    "Of the learning rate. Default cosine.",
  ),
  koala_warmup_share: optional(
    text(
      (value) => value.trim() !== "" && Number(value) >= 0 && Number(value) <= 1,
      "must be from 0 to 1, written as a string",
    ),
    "Share of the steps in which the learning rate rises. Default 0.03.",
  ),
  koala_ranks: optional(
    whole(1, 8),
    "Processes that train together, at most as many as the server allows and a step has rows. Default: as many as that.",
  ),
  koala_template: optional(
    z.enum(["koala", "chatml"]),
    "Chat template to train and serve with, instead of the model's own.",
  ),
  koala_markers: optional(
    z.enum(["true", "false"]),
    "Preference conditioning: pairs become two examples, the worse answer behind its marker. Needs koala_template koala.",
  ),
  koala_format: optional(isFormat, "Format of the training file. Default: OpenAI's for the method."),
  koala_allow: optional(
    z.string().max(FIELD.nameLength),
    "Lints of the data that shall not fail the job, separated by commas.",
  ),
};

export const metadataSchema = z
  .object(koalaFields)
  .catchall(z.string().max(512))
  .superRefine((metadata, issues) => {
    const keys = Object.keys(metadata);
    const unknown = keys.find((key) => key.startsWith("koala_") && !Object.hasOwn(koalaFields, key));
    const complain = (message: string, path: string[]) => issues.addIssue({ code: "custom", message, path });
    if (unknown !== undefined)
      complain(`is not known; known are ${Object.keys(koalaFields).join(", ")}`, [unknown]);
    if (keys.length > 16) complain(`must have at most 16 pairs, but has ${keys.length}`, []);
    const long = keys.find((key) => key.length > 64);
    if (long !== undefined) complain("must have keys of at most 64 characters", []);
  })
  .meta({
    id: "FineTuningMetadata",
    description: "Sixteen pairs of your own; those that begin with koala_ say what OpenAI's contract cannot.",
  });

export type KoalaSettings = Partial<Record<keyof typeof koalaFields, string>>;

export const jobRequestSchema = z
  .strictObject({
    model: z
      .string()
      .min(1)
      .max(FIELD.nameLength)
      .describe("A name from /v1/models, also one that was tuned before."),
    training_file: z.string().min(1).max(64).describe("Id of a file with purpose fine-tune."),
    validation_file: optional(z.string().min(1).max(64), "Its loss is told at each checkpoint."),
    suffix: optional(
      text(
        (value) => /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/.test(value),
        "must begin with a letter or digit and hold only letters, digits, - and _, at most 64",
      ).meta({ pattern: "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" }),
      "Becomes a part of the model's name: letters, digits, - and _, at most 64.",
    ),
    seed: optional(z.int().min(0).max(FIELD.int32), "Same seed, same data, same machine: same model."),
    method: optional(methodSchema, "Default supervised."),
    hyperparameters: optional(supervisedSchema, "Deprecated by OpenAI: those of method supervised."),
    integrations: optional(z.array(z.unknown()).max(5), "Refused unless empty: this server calls nobody."),
    metadata: optional(metadataSchema, "Yours, and Koala's settings under koala_*."),
  })
  .meta({ id: "FineTuningJobRequest" });
export type JobRequest = z.output<typeof jobRequestSchema>;

const hyperparametersSchema = z.object({
  batch_size: z.union([auto, z.int()]),
  learning_rate_multiplier: z.union([auto, z.number()]),
  n_epochs: z.union([auto, z.int()]),
  beta: z.union([auto, z.number()]).optional(),
});

export const jobSchema = z
  .object({
    id: z.string(),
    object: z.literal("fine_tuning.job"),
    created_at: z.int(),
    finished_at: z.int().nullable(),
    estimated_finish: z.int().nullable().describe("From the speed of the steps so far."),
    status: z.enum(["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]),
    model: z.string(),
    fine_tuned_model: z.string().nullable(),
    organization_id: z.string(),
    training_file: z.string(),
    validation_file: z.string().nullable(),
    result_files: z.array(z.string()),
    trained_tokens: z.int().nullable(),
    hyperparameters: hyperparametersSchema.describe('"auto" until the data has been read.'),
    method: z.object({
      type: z.enum(["supervised", "dpo"]),
      supervised: z.object({ hyperparameters: hyperparametersSchema }).optional(),
      dpo: z.object({ hyperparameters: hyperparametersSchema }).optional(),
    }),
    seed: z.int(),
    user_provided_suffix: z.string().nullable(),
    metadata: z.record(z.string(), z.string()).nullable(),
    integrations: z.array(z.unknown()),
    error: z.object({ code: z.string(), message: z.string(), param: z.string().nullable() }).nullable(),
    step: z.int().describe("Steps done."),
    total_steps: z.int().nullable(),
  })
  .meta({ id: "FineTuningJob" });
export type Job = z.infer<typeof jobSchema>;

export const jobListSchema = z
  .object({ object: z.literal("list"), data: z.array(jobSchema), has_more: z.boolean() })
  .meta({ id: "FineTuningJobList" });

export const eventSchema = z
  .object({
    id: z.string(),
    object: z.literal("fine_tuning.job.event"),
    created_at: z.int(),
    level: z.enum(["info", "warn", "error"]),
    type: z.enum(["message", "metrics"]),
    message: z.string(),
    data: z.record(z.string(), z.unknown()).describe("Of metrics: the figures of a step."),
  })
  .meta({ id: "FineTuningJobEvent" });
export type JobEvent = z.infer<typeof eventSchema>;

export const eventListSchema = z
  .object({ object: z.literal("list"), data: z.array(eventSchema), has_more: z.boolean() })
  .meta({ id: "FineTuningJobEventList" });

export const checkpointSchema = z
  .object({
    id: z.string(),
    object: z.literal("fine_tuning.job.checkpoint"),
    created_at: z.int(),
    fine_tuned_model_checkpoint: z.string().describe("A model that can be asked; the newest three are kept."),
    fine_tuning_job_id: z.string(),
    step_number: z.int(),
    metrics: z.record(z.string(), z.number()),
  })
  .meta({ id: "FineTuningJobCheckpoint" });
export type JobCheckpoint = z.infer<typeof checkpointSchema>;

export const checkpointListSchema = z
  .object({
    object: z.literal("list"),
    data: z.array(checkpointSchema),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  })
  .meta({ id: "FineTuningJobCheckpointList" });

const page = (limit: number, max: number) => ({
  limit: z.coerce.number().int().min(1).max(max).default(limit),
  after: z.string().optional().describe("The last id of the page before."),
});

export const jobQuerySchema = z.looseObject({
  ...page(20, 100),
  metadata: z
    .literal("null")
    .optional()
    .describe("Only jobs without metadata; metadata[key]=value: only those with it."),
});
export const eventQuerySchema = z.strictObject(page(20, 1000));
export const checkpointQuerySchema = z.strictObject(page(10, 100));
export const metricsQuerySchema = z.strictObject({
  after_step: z.coerce.number().int().min(-1).default(-1),
  points: z.coerce
    .number()
    .int()
    .min(2)
    .max(5000)
    .default(1000)
    .describe("Of a longer run one step in so many."),
});
export const metricsListSchema = z.object({
  object: z.literal("list"),
  data: z.array(z.record(z.string(), z.unknown())),
});
