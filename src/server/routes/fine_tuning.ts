/** /v1/fine_tuning/jobs: rows that say what should run. Nothing trains here; whoever keeps the queue is told to look. */
import { randomInt } from "node:crypto";
import type { Context } from "hono";
import { listCheckpoints, listEvents, listMetrics } from "../../store/job_events.ts";
import {
  addJob,
  changeJob,
  findJob,
  type JobChange,
  type JobMethod,
  listJobs,
  newJobId,
  type StoredJob,
} from "../../store/jobs.ts";
import { findFile, type StoredFile } from "../../store/files.ts";
import { RequestError } from "../../util/errors.ts";
import type { ServerContext } from "../context.ts";
import { withoutSpace } from "../file_area.ts";
import { type FileKind, fineTuningOf, type FineTuning } from "../fine_tuning.ts";
import { describeCheckpoint, describeEvent, describeJob } from "../job_objects.ts";
import { cursorFault, readQuery } from "../query.ts";
import { defineRoute, type Route } from "../route.ts";
import {
  checkpointListSchema,
  checkpointQuerySchema,
  eventListSchema,
  eventQuerySchema,
  type JobRequest,
  jobListSchema,
  jobQuerySchema,
  jobRequestSchema,
  jobSchema,
  type KoalaSettings,
  metricsListSchema,
  metricsQuerySchema,
} from "../schema/fine_tuning.ts";

const tag = "Fine-tuning";

export const createJobRoute = defineRoute({
  method: "post",
  path: "/v1/fine_tuning/jobs",
  operationId: "createFineTuningJob",
  tag,
  summary: "Queue a fine-tuning job",
  description:
    "The job begins as validating_files: a file that is not what the method needs fails it, with the line and the reason as its error. When the job has succeeded, its model is served beside the others.",
  work: true,
  request: jobRequestSchema,
  response: jobSchema,
  handle: async (c, call) => {
    const tuning = fineTuningOf(call.context);
    checkTemplate(call.context, call.body);
    return c.json(describeJob(await createJob(tuning, call.body)));
  },
});

export const jobsRoute = defineRoute({
  method: "get",
  path: "/v1/fine_tuning/jobs",
  operationId: "listFineTuningJobs",
  tag,
  summary: "The jobs, newest first",
  query: jobQuerySchema,
  response: jobListSchema,
  handle: async (c, call) => {
    const { limit, after, ...rest } = readQuery(c, jobQuerySchema);
    const metadata = metadataFilter(rest);
    const page = await listJobs(fineTuningOf(call.context).store, { limit, after, metadata });
    if (page === "no such cursor") throw cursorFault();
    return c.json({ object: "list", data: page.rows.map(describeJob), has_more: page.hasMore });
  },
});

export const jobRoute = defineRoute({
  method: "get",
  path: "/v1/fine_tuning/jobs/:id",
  operationId: "retrieveFineTuningJob",
  tag,
  summary: "One job",
  response: jobSchema,
  handle: async (c, call) => {
    const job = await jobOf(fineTuningOf(call.context), c);
    await beServed(call.context, [job.fineTunedModel]);
    return c.json(describeJob(job));
  },
});

export const cancelJobRoute = changeRoute("cancel", "Stop a job for good");
export const pauseJobRoute = changeRoute(
  "pause",
  "Stop a job at its next step, with a checkpoint to go on from",
);
export const resumeJobRoute = changeRoute("resume", "Put a paused job back into the queue");

export const jobEventsRoute = defineRoute({
  method: "get",
  path: "/v1/fine_tuning/jobs/:id/events",
  operationId: "listFineTuningEvents",
  tag,
  summary: "What happened in a job, newest first",
  query: eventQuerySchema,
  response: eventListSchema,
  handle: async (c, call) => {
    const tuning = fineTuningOf(call.context);
    const { id } = await jobOf(tuning, c);
    const page = await listEvents(tuning.store, id, readQuery(c, eventQuerySchema));
    if (page === "no such cursor") throw cursorFault();
    return c.json({ object: "list", data: page.rows.map(describeEvent), has_more: page.hasMore });
  },
});

export const jobCheckpointsRoute = defineRoute({
  method: "get",
  path: "/v1/fine_tuning/jobs/:id/checkpoints",
  operationId: "listFineTuningCheckpoints",
  tag,
  summary: "The models that a job has made on its way, newest first",
  query: checkpointQuerySchema,
  response: checkpointListSchema,
  handle: async (c, call) => {
    const tuning = fineTuningOf(call.context);
    const { id } = await jobOf(tuning, c);
    const page = await listCheckpoints(tuning.store, id, readQuery(c, checkpointQuerySchema));
    if (page === "no such cursor") throw cursorFault();
    await beServed(
      call.context,
      page.rows.map((row) => row.model),
    );
    const data = page.rows.map(describeCheckpoint);
    const ends = { first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null };
    return c.json({ object: "list", data, ...ends, has_more: page.hasMore });
  },
});

export const jobMetricsRoute = defineRoute({
  method: "get",
  path: "/v1/fine_tuning/jobs/:id/metrics",
  operationId: "listFineTuningMetrics",
  tag,
  summary:
    "The figures of a job's steps in their order, thinned where there are many (an extension, for charts)",
  query: metricsQuerySchema,
  response: metricsListSchema,
  handle: async (c, call) => {
    const tuning = fineTuningOf(call.context);
    const { id } = await jobOf(tuning, c);
    const { after_step: afterStep, points: pointsMax } = readQuery(c, metricsQuerySchema);
    const rows = await listMetrics(tuning.store, id, { afterStep, pointsMax });
    return c.json({ object: "list", data: rows.map((row) => row.data as Record<string, unknown>) });
  },
});

/** Who is told the name of a model may ask it in the next moment. */
async function beServed(context: ServerContext, names: readonly (string | null)[]): Promise<void> {
  const served = new Set(context.models.list().map((model) => model.id));
  if (names.some((name) => name !== null && !served.has(name))) await context.fineTuning?.serveNewModels();
}

function changeRoute(change: JobChange, summary: string): Route {
  return defineRoute({
    method: "post",
    path: `/v1/fine_tuning/jobs/:id/${change}`,
    operationId: `${change}FineTuningJob`,
    tag,
    summary,
    response: jobSchema,
    handle: async (c, call) => {
      const tuning = fineTuningOf(call.context);
      const job = await jobOf(tuning, c);
      const changed = await changeJob(tuning.store, job.id, change);
      if (changed === null) {
        const { status } = (await findJob(tuning.store, job.id)) ?? job;
        throw new RequestError(`The job ${job.id} is ${status}, so it cannot be ${past[change]}.`, {
          param: "fine_tune_id",
          code: `cannot_${change}`,
        });
      }
      tuning.wake();
      return c.json(describeJob(changed));
    },
  });
}

const past = { cancel: "cancelled", pause: "paused", resume: "resumed" } as const;

async function createJob(tuning: FineTuning, body: JobRequest): Promise<StoredJob> {
  const method = methodOf(body);
  const settings = settingsOf(body.metadata);
  checkSettings(settings, method);
  checkRanks(settings, tuning.ranksMax);
  if (body.integrations?.length)
    throw new RequestError("integrations must be empty: this server reports to nobody else.", {
      param: "integrations",
      code: "unsupported_value",
    });
  const source = await tuning.sourceOf(body.model);
  if (source === null)
    throw new RequestError(
      `The model ${JSON.stringify(body.model)} does not exist here, so it cannot be tuned. /v1/models lists those that do.`,
      { param: "model", code: "model_not_found" },
    );
  const files = new Map([
    ["training_file" as FileKind, await trainingFile(tuning, body.training_file, "training_file")],
  ]);
  const validation = body.validation_file ?? null;
  if (validation !== null)
    files.set("validation_file", await trainingFile(tuning, validation, "validation_file"));
  await tuning.area.quota.check();
  const id = newJobId();
  try {
    for (const [kind, file] of files) await tuning.keepFile(id, kind, file);
  } catch (error) {
    await tuning.dropFiles(id);
    throw withoutSpace(error);
  }
  const job = await addJob(
    tuning.store,
    id,
    {
      model: body.model,
      source,
      trainingFile: body.training_file,
      validationFile: validation,
      suffix: body.suffix ?? null,
      seed: body.seed ?? randomInt(2 ** 31),
      method,
      metadata: (body.metadata as Record<string, string> | null | undefined) ?? null,
    },
    [
      { message: `Created fine-tuning job: ${id}` },
      { message: `Validating training file: ${body.training_file}` },
    ],
  );
  tuning.wake();
  return job;
}

function methodOf(body: JobRequest): JobMethod {
  const method = body.method ?? { type: "supervised" as const, supervised: null };
  if (method.type === "reinforcement")
    throw new RequestError(
      "The method reinforcement is not supported: this server has no graders. Use supervised or dpo.",
      { param: "method.type", code: "unsupported_value" },
    );
  const given =
    (method.type === "dpo" ? method.dpo?.hyperparameters : method.supervised?.hyperparameters) ??
    body.hyperparameters ??
    {};
  // null is "not set", as everywhere.
  const set = Object.entries(given).filter(([, value]) => value !== null && value !== undefined);
  return { type: method.type, hyperparameters: Object.fromEntries(set) };
}

function settingsOf(metadata: JobRequest["metadata"]): KoalaSettings {
  const own = Object.entries(metadata ?? {}).filter(([key, value]) => key.startsWith("koala_") && value);
  return Object.fromEntries(own);
}

/** Dialogues become tokens through a template; without one the job would fail at its first record. */
function checkTemplate({ models }: ServerContext, { model, metadata }: JobRequest): void {
  const { koala_template: template, koala_format: format } = settingsOf(metadata);
  const base = models.list().find(({ id, aliases }) => id === model || aliases.includes(model));
  if (base?.template !== null || template || format === "text" || format === "fields") return;
  throw new RequestError(
    `The model ${base.id} has no chat template, which dialogues need. Name one: metadata.koala_template koala or chatml.`,
    { param: "metadata.koala_template", code: "no_chat_template" },
  );
}

/** What only makes sense together. */
function checkSettings(settings: KoalaSettings, method: JobMethod): void {
  const refuse = (key: keyof KoalaSettings, message: string): never => {
    throw new RequestError(`metadata.${key} ${message}`, { param: `metadata.${key}`, code: "invalid_value" });
  };
  const lora = settings.koala_method === "lora";
  if (settings.koala_lora_rank && !lora) refuse("koala_lora_rank", "needs koala_method lora.");
  if (settings.koala_lora_alpha && !lora) refuse("koala_lora_alpha", "needs koala_method lora.");
  if (settings.koala_learning_rate && typeof method.hyperparameters.learning_rate_multiplier === "number")
    refuse("koala_learning_rate", "and learning_rate_multiplier say the same thing; name one of them.");
  if (settings.koala_loss && method.type !== "dpo")
    refuse("koala_loss", "belongs to method dpo, whose beta it takes.");
  if (settings.koala_markers === "true" && settings.koala_template !== "koala")
    refuse("koala_markers", "needs koala_template koala.");
  if (settings.koala_markers === "true" && method.type === "dpo")
    refuse("koala_markers", "belongs to method supervised: it is another way to learn from pairs than dpo.");
}

function checkRanks({ koala_ranks: asked }: KoalaSettings, ranksMax: number): void {
  if (!asked || Number(asked) <= ranksMax) return;
  throw new RequestError(
    `metadata.koala_ranks is ${asked}, but this server trains a job on at most ${ranksMax}: its operator decides with --training-ranks.`,
    { param: "metadata.koala_ranks", code: "invalid_value" },
  );
}

async function trainingFile(tuning: FineTuning, id: string, param: string): Promise<StoredFile> {
  const file = await findFile(tuning.store, id);
  const fault = { param, code: "invalid_training_file" };
  if (file === null) throw new RequestError(`${param} ${id} does not exist.`, fault);
  if (file.purpose === "fine-tune") return file;
  throw new RequestError(
    `${param} ${id} has the purpose ${file.purpose}; training data is uploaded with the purpose fine-tune.`,
    fault,
  );
}

async function jobOf(tuning: FineTuning, c: Context): Promise<StoredJob> {
  const id = c.req.param("id") ?? "";
  const job = await findJob(tuning.store, id);
  if (job !== null) return job;
  throw new RequestError(`Could not find fine tune: ${id.slice(0, 100)}`, {
    status: 404,
    param: "fine_tune_id",
    code: "fine_tune_not_found",
  });
}

/** `metadata[key]=value`, or `metadata=null` for jobs without any. */
function metadataFilter(query: Record<string, unknown>): Record<string, string> | null | undefined {
  const { metadata, ...rest } = query;
  const pairs = Object.entries(rest).map(([name, value]): [string, string] => {
    const key = /^metadata\[(.{1,64})\]$/.exec(name)?.[1];
    if (key !== undefined) return [key, String(value)];
    const param = name.slice(0, 100);
    throw new RequestError(`Unknown parameter: ${param}.`, { param, code: "unknown_parameter" });
  });
  if (pairs.length > 0) return Object.fromEntries(pairs);
  return metadata === "null" ? null : undefined;
}
