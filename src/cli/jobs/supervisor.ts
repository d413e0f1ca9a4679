/** The keeper of the queue in a server: gives waiting jobs a process each, so many at a time, and takes it from those that
 *  nobody wants any more.
 *  Always: a failure here or in a job is a line in the log and never ends the server; a process that dies is followed by
 *  another, until it is plain that it will always die; at `close` every process has saved and let go, or is killed. */
import {
  claimJob,
  deathsMax,
  findJob,
  leaseMs as defaultLeaseMs,
  loseLease,
  renewLease,
  type StoredJob,
} from "../../store/jobs.ts";
import type { Store } from "../../store/store.ts";

export interface SupervisorOptions {
  store: Store;
  /** The command line that runs a job, and its environment on top of this process's. */
  command: (job: { jobId: string; owner: string; leaseMs: number }) => string[];
  environment?: Record<string, string>;
  jobsMax?: number;
  log: (line: string) => void;
  /** After a process has ended, and now and then. */
  onChange: () => Promise<void>;
  pollMs?: number;
  leaseMs?: number;
  /** Between asking a process to end and killing it: saving a large model takes a while. */
  stopGraceMs?: number;
}

interface Child {
  job: StoredJob;
  owner: string;
  process: Bun.Subprocess;
  killTimer: ReturnType<typeof setTimeout> | null;
  ended: Promise<void>;
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  /** By the owner's token: a job's last process may still be ending when the next one begins. */
  readonly #children = new Map<string, Child>();
  readonly #timer: ReturnType<typeof setInterval>;
  #ticking: Promise<void> | null = null;
  #again = false;
  #closed = false;
  #failing = false;
  #renewedAt = 0;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.wake(), options.pollMs ?? 1000);
    this.wake();
  }

  /** Looks at the queue now. */
  wake(): void {
    if (this.#closed) return;
    if (this.#ticking !== null) {
      this.#again = true;
      return;
    }
    this.#ticking = this.#tick().finally(() => {
      this.#ticking = null;
      if (!this.#again) return;
      this.#again = false;
      this.wake();
    });
  }

  /** Ids of the jobs that have a process here. */
  get running(): string[] {
    return [...this.#children.values()].map(({ job }) => job.id);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#ticking;
    for (const child of this.#children.values()) this.#interrupt(child);
    await Promise.all([...this.#children.values()].map((child) => child.ended));
  }

  async #tick(): Promise<void> {
    try {
      await this.#interruptUnwanted();
      await this.#renew();
      const most = this.#options.jobsMax ?? 1;
      while (this.#children.size < most && !this.#closed) {
        const owner = crypto.randomUUID();
        const job = await claimJob(this.#options.store, owner, this.#leaseMs);
        if (job === null) break;
        this.#start(job, owner);
      }
      await this.#options.onChange();
      if (this.#failing) this.#options.log("The queue of fine-tuning jobs can be read again.");
      this.#failing = false;
    } catch (error) {
      if (!this.#failing)
        this.#options.log(`The queue of fine-tuning jobs cannot be worked on: ${(error as Error).message}`);
      this.#failing = true;
    }
  }

  get #leaseMs(): number {
    return this.#options.leaseMs ?? defaultLeaseMs;
  }

  /** The row is the authority: paused, cancelled, or taken over by another server. */
  async #interruptUnwanted(): Promise<void> {
    for (const child of this.#children.values()) {
      const job = await findJob(this.#options.store, child.job.id);
      if (job?.status !== "running" || job.leaseOwner !== child.owner) this.#interrupt(child);
    }
  }

  /** For the children: a long step keeps them from doing it, and as long as they live their jobs are in good hands. */
  async #renew(): Promise<void> {
    if (performance.now() - this.#renewedAt < this.#leaseMs / 4) return;
    this.#renewedAt = performance.now();
    for (const { job, owner } of this.#children.values())
      await renewLease(this.#options.store, { jobId: job.id, owner, ms: this.#leaseMs });
  }

  #start(job: StoredJob, owner: string): void {
    const { command, environment, log } = this.#options;
    if (job.deaths > 1)
      log(`Fine-tuning job ${job.id} is started once more: its process died at step ${job.step}.`);
    const ended = Promise.withResolvers<void>();
    const child = Bun.spawn(command({ jobId: job.id, owner, leaseMs: this.#leaseMs }), {
      env: { ...process.env, ...environment },
      stdio: ["ignore", process.stderr.fd, "inherit"],
      // Nothing is sent: its end tells the child that the server is gone.
      ipc: () => {},
      onExit: (_, exitCode, signal) => {
        const death = exitCode === 0 ? null : signal === null ? `exit code ${exitCode}` : `signal ${signal}`;
        void this.#ended(job.id, owner, death).finally(ended.resolve);
      },
    });
    this.#children.set(owner, { job, owner, process: child, killTimer: null, ended: ended.promise });
  }

  async #ended(jobId: string, owner: string, death: string | null): Promise<void> {
    const { store, log } = this.#options;
    const child = this.#children.get(owner);
    if (child?.killTimer) clearTimeout(child.killTimer);
    this.#children.delete(owner);
    try {
      if (death !== null) log(`The process of fine-tuning job ${jobId} ended by ${death}.`);
      // One that ended as it should has let go by itself, and this changes nothing.
      const pauseMs = Math.min(this.#leaseMs, 250 * 2 ** Math.min(child?.job.deaths ?? 0, deathsMax));
      await loseLease(store, { jobId, owner }, pauseMs);
      await this.#options.onChange();
    } catch (error) {
      log(`The end of fine-tuning job ${jobId} could not be noted: ${(error as Error).message}`);
    }
    this.wake();
  }

  #interrupt(child: Child): void {
    if (child.killTimer !== null) return;
    child.process.kill("SIGTERM");
    child.killTimer = setTimeout(() => child.process.kill("SIGKILL"), this.#options.stopGraceMs ?? 60_000);
    child.killTimer.unref();
  }
}
