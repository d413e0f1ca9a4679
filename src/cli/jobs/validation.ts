/** What reads the files of new jobs before they may wait in the queue: one job at a time, beside the requests.
 *  Always: a job leaves "validating_files" by a verdict only; one whose server ended on the way is read again by the next. */
import { readRecords } from "../../data/reader.ts";
import type { StoredJob } from "../../store/jobs.ts";
import { claimValidation, endValidation, type JobError, loseLease, renewLease } from "../../store/jobs.ts";
import type { Store } from "../../store/store.ts";
import { UsageError } from "../../util/errors.ts";
import type { FileKind } from "../../server/fine_tuning.ts";
import { blaming, inputError, InputError } from "./input_error.ts";
import { formatOf, type JobLoss, lossOf, neededFile, settingsOf } from "./job_recipe.ts";

export interface ValidatorOptions {
  store: Store;
  dataDirectory: string;
  leaseMs: number;
  log: (line: string) => void;
  /** A job has been let into the queue, or failed. */
  onVerdict: () => void;
}

export class Validator {
  readonly #options: ValidatorOptions;
  readonly #stop = new AbortController();
  #working: Promise<void> | null = null;

  constructor(options: ValidatorOptions) {
    this.#options = options;
  }

  /** Reads what waits to be read. */
  look(): void {
    if (this.#stop.signal.aborted || this.#working !== null) return;
    this.#working = this.#work()
      .catch((error: Error) => this.#options.log(`Training files cannot be validated: ${error.message}`))
      .finally(() => {
        this.#working = null;
      });
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#working;
  }

  async #work(): Promise<void> {
    const { store, leaseMs, onVerdict } = this.#options;
    while (!this.#stop.signal.aborted) {
      const owner = crypto.randomUUID();
      const job = await claimValidation(store, owner, leaseMs);
      if (job === null) return;
      await this.#validate(job, owner);
      onVerdict();
    }
  }

  async #validate(job: StoredJob, owner: string): Promise<void> {
    const { store, leaseMs, dataDirectory } = this.#options;
    const lease = { jobId: job.id, owner, ms: leaseMs };
    const renewing = setInterval(() => void renewLease(store, lease).catch(() => {}), leaseMs / 4);
    try {
      await checkFiles(job, dataDirectory, this.#stop.signal);
      await endValidation(store, lease, null);
    } catch (error) {
      if (this.#stop.signal.aborted) await loseLease(store, lease, 0);
      else await endValidation(store, lease, this.#faultOf(job, error as Error));
    } finally {
      clearInterval(renewing);
    }
  }

  #faultOf(job: StoredJob, error: Error): JobError {
    if (error instanceof InputError) return inputError(error);
    this.#options.log(`The files of ${job.id} could not be validated: ${error.stack ?? error.message}`);
    const message = "The files could not be read. The server's log has the details.";
    return { code: "internal_error", message, param: null };
  }
}

/** Every record of both files: a job that waited for hours should not fail at its first line. */
async function checkFiles(job: StoredJob, dataDirectory: string, stop: AbortSignal): Promise<void> {
  const kinds: FileKind[] = ["training_file"];
  if (job.validationFile !== null) kinds.push("validation_file");
  const loss = lossOf(job.method, settingsOf(job));
  const format = formatOf(job.method, settingsOf(job));
  for (const kind of kinds)
    await blaming(kind, async () =>
      checkFile(await neededFile(dataDirectory, job.id, kind), { format, loss, stop }),
    );
}

async function checkFile(
  path: string,
  of: { format: string; loss: JobLoss; stop: AbortSignal },
): Promise<void> {
  for await (const read of readRecords(path, { format: of.format })) {
    of.stop.throwIfAborted();
    const place = `${read.file} line ${read.line}`;
    if (read.verdict === "dropped") throw new UsageError(`${place}: ${read.reason}.`);
    const { kind } = read.record;
    if (of.loss === "dpo" && kind !== "preference")
      throw new UsageError(`${place}: the record is no pair of answers, which dpo needs.`);
    if (of.loss === "kto" && kind !== "preference" && kind !== "labelled")
      throw new UsageError(
        `${place}: the record is neither an answer with a label nor a pair, which kto needs.`,
      );
  }
}
