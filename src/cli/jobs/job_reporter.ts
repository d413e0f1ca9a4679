/** What a training process says about its job, written to the store: events, progress, and that it still lives.
 *  Always: writes come in the order of what happened; after the job was paused, cancelled or given to another process,
 *  `stop` is aborted with the reason, and nothing more is written in its name. */
import { beat, type JobProgress, type JobStatus, type Lease } from "../../store/jobs.ts";
import { forgetMetricsAfter, type NewEvent } from "../../store/job_events.ts";
import type { Store } from "../../store/store.ts";
import type { StepEvent, TrainEvent } from "../../train/events.ts";

/** Steps may take milliseconds; the database need not know of each at once. */
const flushMs = 250;
/** How often the status is looked at where there is nothing to tell. */
const beatMs = 1000;

interface Validation {
  step: number;
  loss: number;
  accuracy: number;
}

export class JobReporter {
  readonly stop = new AbortController();
  /** The lease is lost: whatever this process does is of no use any more. */
  isLost = false;
  lastStep: StepEvent | null = null;
  lastValidation: Validation | null = null;
  /** By step. */
  readonly validations = new Map<number, Validation>();
  #events: NewEvent[] = [];
  #progress: JobProgress = {};
  /** Steps after this one are done again. They are forgotten before anything is written that was noted since. */
  #forgetAfter = Infinity;
  #writing: Promise<void> = Promise.resolve();
  #wroteAt = 0;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(
    private readonly store: Store,
    private readonly lease: Lease,
    private readonly decode: (ids: number[], index: number) => { prompt: string; answer: string },
    private readonly onLost: () => void,
  ) {
    this.#timer = setInterval(() => this.#tick(), flushMs);
    this.#timer.unref();
  }

  note(event: NewEvent, progress: JobProgress = {}): void {
    this.#events.push(event);
    Object.assign(this.#progress, progress);
  }

  train(event: TrainEvent): void {
    switch (event.type) {
      case "start":
        return this.#started(event);
      case "step":
        return this.#stepped(event);
      case "warning":
        return this.note({ level: "warn", message: event.message });
      case "evaluation":
        this.validated(event);
        return this.note({ message: `Step ${event.step}: validation loss=${event.loss.toFixed(4)}` });
      case "epoch":
        return this.note({ message: `Epoch ${event.epoch} is done at step ${event.step}` });
      case "sample": {
        const samples = event.ids.map((ids, i) => this.decode(ids, i));
        return this.note({ message: `Samples at step ${event.step}`, data: { step: event.step, samples } });
      }
      default:
        return; // checkpoint, finish, stop: told by whoever runs the job, when what follows from it is done
    }
  }

  /** Kept to be told with what it belongs to. */
  validated(validation: Validation): void {
    this.lastValidation = validation;
    this.validations.set(validation.step, validation);
  }

  /** Everything noted so far is in the store, or the lease is lost. */
  flush(): Promise<void> {
    this.#writing = this.#writing.catch(() => {}).then(() => this.#write());
    return this.#writing;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#writing.catch(() => {});
  }

  #tick(): void {
    if (this.#events.length > 0 || performance.now() - this.#wroteAt > beatMs)
      void this.flush().catch(() => {});
  }

  #started({ step, steps, documents, trainedParameters }: Extract<TrainEvent, { type: "start" }>): void {
    const what =
      step > 0 ? `Training goes on at step ${step} of ${steps}` : `Training begins: ${steps} steps`;
    const message = `${what} over ${documents} documents, ${trainedParameters} parameters`;
    this.#events = this.#events.filter((event) => (event.step ?? 0) <= step);
    this.#forgetAfter = Math.min(step, this.#forgetAfter);
    this.note({ message }, { step, steps });
  }

  #stepped(event: StepEvent): void {
    this.lastStep = event;
    const valid = this.lastValidation;
    const data = {
      step: event.step,
      total_steps: event.steps,
      epoch: event.epoch,
      train_loss: event.loss,
      ...(event.accuracy === null ? {} : { train_mean_token_accuracy: event.accuracy }),
      learning_rate: event.learningRate,
      gradient_norm: event.gradientNorm,
      tokens_per_second: event.tokensPerSecond,
      utilisation: event.utilisation,
      seconds_left: event.secondsLeft,
      ...(valid === null
        ? {}
        : { valid_loss: valid.loss, valid_mean_token_accuracy: valid.accuracy, valid_step: valid.step }),
      ...(event.preference === null
        ? {}
        : { preference_accuracy: event.preference.accuracy, preference_margin: event.preference.margin }),
    };
    const message = `Step ${event.step}/${event.steps}: training loss=${event.loss.toFixed(4)}`;
    const estimatedFinish = new Date(Date.now() + event.secondsLeft * 1000);
    this.note({ type: "metrics", message, data, step: event.step }, { step: event.step, estimatedFinish });
  }

  async #write(): Promise<void> {
    if (this.isLost) return;
    const events = this.#events.splice(0);
    const progress = this.#progress;
    this.#progress = {};
    const forgetAfter = this.#forgetAfter;
    this.#forgetAfter = Infinity;
    let status: JobStatus | null;
    try {
      if (forgetAfter < Infinity) await forgetMetricsAfter(this.store, this.lease.jobId, forgetAfter);
      status = await beat(this.store, this.lease, progress, events);
    } catch (error) {
      // A database that is away for a moment: said later.
      this.#events.unshift(...events);
      this.#forgetAfter = Math.min(forgetAfter, this.#forgetAfter);
      this.#progress = { ...progress, ...this.#progress };
      throw error;
    }
    this.#wroteAt = performance.now();
    if (status === null) {
      this.isLost = true;
      this.onLost();
    }
    if (status !== "running") this.stop.abort(status ?? "the job was given to another process");
  }
}
