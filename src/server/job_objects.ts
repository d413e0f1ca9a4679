/** Rows of jobs, events and checkpoints as the objects of OpenAI's API. */
import type { StoredCheckpoint, StoredEvent } from "../store/job_events.ts";
import type { StoredJob } from "../store/jobs.ts";
import { unixSeconds } from "./query.ts";
import type { Job, JobCheckpoint, JobEvent } from "./schema/fine_tuning.ts";

/** Who owns what jobs make; the part of a model's name between the base and the suffix. */
export const organization = "koala";

export function describeJob(job: StoredJob): Job {
  const { type } = job.method;
  const auto = { batch_size: "auto", learning_rate_multiplier: "auto", n_epochs: "auto" } as const;
  const beta = type === "dpo" ? { beta: "auto" as const } : {};
  const hyperparameters = { ...auto, ...beta, ...job.method.hyperparameters, ...job.resolved };
  return {
    id: job.id,
    object: "fine_tuning.job",
    created_at: unixSeconds(job.createdAt),
    finished_at: job.finishedAt && unixSeconds(job.finishedAt),
    estimated_finish: job.estimatedFinish && unixSeconds(job.estimatedFinish),
    status: job.status,
    model: job.model,
    fine_tuned_model: job.fineTunedModel,
    organization_id: organization,
    training_file: job.trainingFile,
    validation_file: job.validationFile,
    result_files: job.resultFile === null ? [] : [job.resultFile],
    trained_tokens: job.trainedTokens,
    hyperparameters,
    method: { type, [type]: { hyperparameters } },
    seed: job.seed,
    user_provided_suffix: job.suffix,
    metadata: job.metadata,
    integrations: [],
    error: job.error,
    step: job.step,
    total_steps: job.steps,
  };
}

export function describeEvent(event: StoredEvent): JobEvent {
  return {
    id: event.id,
    object: "fine_tuning.job.event",
    created_at: unixSeconds(event.createdAt),
    level: event.level as JobEvent["level"],
    type: event.type as JobEvent["type"],
    message: event.message,
    data: event.data as Record<string, unknown>,
  };
}

export function describeCheckpoint(checkpoint: StoredCheckpoint): JobCheckpoint {
  return {
    id: checkpoint.id,
    object: "fine_tuning.job.checkpoint",
    created_at: unixSeconds(checkpoint.createdAt),
    fine_tuned_model_checkpoint: checkpoint.model,
    fine_tuning_job_id: checkpoint.jobId,
    step_number: checkpoint.step,
    metrics: checkpoint.metrics as Record<string, number>,
  };
}
