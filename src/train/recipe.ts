/** A training recipe: TOML, checked field by field. Unknown keys are errors, because a misspelt setting is a wrong run.
 *  Always: a recipe that parses is complete; every default is written here and nowhere else. */
import { z } from "zod";
import { formatNames } from "../data/formats/format.ts";
import { UsageError } from "../util/errors.ts";
import { rungs } from "./activations.ts";
import { linearNames } from "../model/lora.ts";

const count = z.int().min(1);
const share = z.number().min(0).max(1);
const probability = z.number().min(0).lt(1);

const model = z.strictObject({
  /** Folder in Hugging Face layout, or hub name. */
  path: z.string().min(1),
  /** random: fresh weights of the folder's config.json. */
  init: z.enum(["checkpoint", "random"]).default("checkpoint"),
});

const data = z
  .strictObject({
    /** A prepared dataset's folder. */
    dataset: z.string().min(1).optional(),
    /** Or files to prepare it from. */
    files: z.array(z.string().min(1)).min(1).optional(),
    /** Of the records; auto tells from the first ones. */
    format: z.enum(["auto", ...formatNames]).default("auto"),
    /** koala, koala-negative, chatml, or a Jinja file; the model's own by default. */
    template: z.string().min(1).optional(),
    /** EasyLM's fields for records that bring none. */
    fields: z.string().optional(),
    /** Preference records under sft: both sides behind Koala's markers, or the chosen one alone. */
    preference: z.enum(["condition", "chosen"]).default("condition"),
    /** Conditioning: marker and loss on what differs between the sides, or on every answer of the conversation. */
    conditioning: z.enum(["suffix", "conversation"]).optional(),
    /** Koala's format: the words before good answers and before bad ones, instead of its own. */
    marker: z.string().min(1).optional(),
    negative_marker: z.string().min(1).optional(),
    /** Koala's format: BOS before each document (default), or none. */
    bos: z.enum(["first", "none"]).optional(),
    /** documents: whole documents in a row, each alone. stream: laid end to end and cut into rows anywhere, as EasyLM does. */
    packing: z.enum(["documents", "stream"]).optional(),
    /** Documents longer than sequence_length. */
    truncation: z.enum(["refuse", "drop", "cut"]).default("refuse"),
    /** Lints that shall not refuse the data. */
    allow: z.array(z.string()).default([]),
    /** A prepared dataset whose loss is reported at checkpoints. */
    validation: z.string().min(1).optional(),
  })
  .refine((value) => (value.dataset === undefined) !== (value.files === undefined), {
    message: "name either dataset (a prepared folder) or files",
  });

const method = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("sft"),
    /** token: mean over the tokens of a step; row: mean of the rows' means (EasyLM). */
    loss_reduction: z.enum(["token", "row"]).default("token"),
  }),
  z.strictObject({ type: z.literal("dpo"), beta: z.number().positive().max(2).default(0.1) }),
  z.strictObject({
    type: z.literal("kto"),
    beta: z.number().positive().max(2).default(0.1),
    /** Of the losses of answers labelled good, and bad. */
    desirable_weight: z.number().min(0).default(1),
    undesirable_weight: z.number().min(0).default(1),
  }),
]);

/** Embedding and head are tables that LoRA would double in memory for a merge, and tied ones would have two adapters. */
const targetFault = (name: unknown): string =>
  name === "lm_head" || name === "embed_tokens"
    ? `LoRA is not offered on ${name}; train it in full without a [lora] table, or adapt ${linearNames.join(", ")}`
    : `${String(name)} is not a linear layer; known are ${linearNames.join(", ")}`;

const lora = z.strictObject({
  rank: count.max(4096).default(16),
  alpha: z.number().positive().default(32),
  dropout: probability.default(0),
  targets: z
    .array(z.enum(linearNames, { error: ({ input }) => targetFault(input) }))
    .min(1)
    .default([...linearNames]),
  rslora: z.boolean().default(false),
});

const optimizer = z.strictObject({
  beta1: probability.default(0.9),
  beta2: probability.default(0.999),
  epsilon: z.number().positive().default(1e-8),
  weight_decay: z.number().min(0).default(0),
  /** Largest global norm of the gradient; 0: no clipping. */
  clip_norm: z.number().min(0).default(1),
});

const schedule = z
  .strictObject({
    type: z.enum(["constant", "linear", "cosine", "wsd"]).default("cosine"),
    learning_rate: z.number().positive().default(2e-5),
    /** Steps, or a share of all steps. */
    warmup_steps: z.int().min(0).optional(),
    warmup_share: share.optional(),
    /** The last rate as a share of the peak. */
    floor: share.default(0),
    /** wsd: share of the steps after warm-up that decay takes. */
    decay_share: z.number().gt(0).max(1).default(0.2),
  })
  .refine((value) => value.warmup_steps === undefined || value.warmup_share === undefined, {
    message: "name warmup_steps or warmup_share, not both",
  });

const recipe = z
  .strictObject({
    model,
    data,
    method: method.default({ type: "sft", loss_reduction: "token" }),
    lora: lora.optional(),
    optimizer: optimizer.prefault({}),
    schedule: schedule.prefault({}),
    /** bf16: bfloat16 weights with an exact float32 master in two halves, bfloat16 moments. */
    precision: z.enum(["float32", "mixed", "bf16"]).default("bf16"),
    /** Sums of a step's gradients; auto: bfloat16 with precision bf16 and at most 64 micro-batches a step, else float32. */
    gradients: z.enum(["auto", "float32", "bfloat16"]).default("auto"),
    /** Of activations and their gradients; logits and sums are float32 beside both. auto: bfloat16 on GPUs whose products are
     *  in bfloat16 (precision bf16 or mixed), else float32. */
    activations: z.enum(["auto", "float32", "bfloat16"]).default("auto"),
    sequence_length: count.max(2 ** 20).default(1024),
    /** Packed rows of an optimizer step, over all ranks, and of a micro-batch. */
    rows_per_step: count.default(8),
    micro_rows: count.default(1),
    /** Rows whose logits exist at the same time. */
    head_chunk: count.default(256),
    epochs: z.number().positive().optional(),
    steps: count.optional(),
    seed: z
      .int()
      .min(0)
      .max(2 ** 31 - 1)
      .default(0),
    /** What backward computes again, in the first `recompute_layers` layers (default: all). */
    recompute: z.enum(rungs).default("none"),
    recompute_layers: z.int().min(0).optional(),
    dropout: z
      .strictObject({
        residual: probability.default(0),
        embedding: probability.default(0),
        /** Of the weights of attention. */
        attention: probability.default(0),
      })
      .prefault({}),
    /** Forgetful causal masking: each document's rate is uniform between these. */
    fcm: z
      .strictObject({ min: probability.default(0), max: probability.default(0) })
      .refine(({ min, max }) => min <= max, { message: "min must not be above max" })
      .prefault({}),
    checkpoint: z
      .strictObject({
        /** Steps between checkpoints; 0: none but the last. */
        interval: z.int().min(0).default(0),
        /** One at the end of each epoch. */
        epochs: z.boolean().default(true),
        /** Checkpoints kept; older ones are deleted. */
        keep: count.default(2),
      })
      .prefault({}),
    /** User messages that are answered every `sample_interval` steps (0: at the end only). */
    sample_prompts: z.array(z.string().min(1)).default([]),
    sample_interval: z.int().min(0).default(0),
    sample_tokens: count.default(48),
    /** Folder that gets checkpoints, metrics and the finished model. */
    output: z.string().min(1),
    export_dtype: z.enum(["float32", "bfloat16"]).default("bfloat16"),
    ranks: z.int().min(1).max(8).default(1),
    /** ZeRO stage: what ranks share out. 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights. */
    zero: z.literal([0, 1, 2, 3]).default(1),
    /** cpu, cuda (each rank a GPU of its own) or cuda:1 (all ranks on that one); emu, an emulated GPU, is for tests. */
    device: z
      .string()
      .regex(/^(cpu|emu|cuda(:\d{1,3})?)$/, "must be cpu, cuda or, of several GPUs, cuda:1")
      .default("cpu"),
    /** Compute threads of a rank; 0: one a core. */
    threads: z.int().min(0).max(1024).default(0),
    /** Price of an hour of this machine, for the plan. */
    cost_per_hour: z.number().min(0).optional(),
  })
  .refine((value) => (value.epochs === undefined) !== (value.steps === undefined), {
    message: "name either epochs or steps",
  })
  .refine((value) => value.gradients !== "bfloat16" || value.precision === "bf16", {
    message: 'gradients = "bfloat16" needs precision = "bf16"',
  })
  .refine((value) => value.activations !== "bfloat16" || value.precision !== "float32", {
    message: 'activations = "bfloat16" needs precision = "bf16" or "mixed"',
  });

export type Recipe = z.output<typeof recipe>;

/** Reads a recipe file. `settings`: "a.b=value" that replace or add keys. Throws UsageError naming key and value. */
export async function readRecipe(path: string, settings: readonly string[] = []): Promise<Recipe> {
  const file = Bun.file(path);
  if (!(await file.exists())) throw new UsageError(`There is no recipe ${path}.`);
  return parseRecipe(await file.text(), path, settings);
}

export function parseRecipe(text: string, path: string, settings: readonly string[] = []): Recipe {
  let table: Record<string, unknown>;
  try {
    table = Bun.TOML.parse(text) as Record<string, unknown>;
  } catch (error) {
    throw new UsageError(`${path} is not TOML: ${error instanceof Error ? error.message : String(error)}.`);
  }
  for (const setting of settings) applySetting(table, setting);
  return checkRecipe(table, path);
}

/** The recipe in `value`, checked and completed. */
export function checkRecipe(value: unknown, path: string): Recipe {
  const result = recipe.safeParse(value);
  if (result.success) return result.data;
  const faults = result.error.issues.map((issue) => {
    const key = issue.path.join(".");
    return key === "" ? issue.message : `${key}: ${issue.message}`;
  });
  throw new UsageError(`${path} is not a recipe. ${faults.join("; ")}.`);
}

/** "a.b=value": the value is read as TOML, and as a text where it is none. */
function applySetting(table: Record<string, unknown>, setting: string): void {
  const equals = setting.indexOf("=");
  if (equals < 1) throw new UsageError(`--set ${setting} is not of the form key.key=value.`);
  const keys = setting.slice(0, equals).trim().split(".");
  const text = setting.slice(equals + 1).trim();
  let at = table;
  for (const key of keys.slice(0, -1)) {
    const next = at[key] ?? {};
    if (typeof next !== "object" || next === null || Array.isArray(next))
      throw new UsageError(`--set ${setting}: ${key} is a value, not a table.`);
    at[key] = next;
    at = next as Record<string, unknown>;
  }
  const last = keys.at(-1) as string;
  at[last] = tomlValue(text);
  // The recipe names one of the two; the command line may name the other.
  if (at === table && last === "steps") delete table["epochs"];
  if (at === table && last === "epochs") delete table["steps"];
}

function tomlValue(text: string): unknown {
  try {
    return (Bun.TOML.parse(`value = ${text}`) as { value: unknown }).value;
  } catch {
    return text;
  }
}
