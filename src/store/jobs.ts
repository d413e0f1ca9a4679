/** Fine-tuning jobs: what should run, runs, ended. The row is the only authority; processes come and go.
 *
 *    validating_files -> queued -> running -> succeeded | failed          validating_files -> failed
 *    validating_files, queued, running -> cancelled          queued, running -> paused -> queued
 *
 *  Always: a job that ended never changes again. Who runs a job holds a lease on it: it writes through that lease only, and
 *  a job whose lease ran out is given to the next who asks. A pause or a cancel takes effect here at once; the process
 *  that trains learns of it with its next heartbeat and lets go of the lease when it is done. */
import { and, asc, desc, eq, inArray, isNull, lt, lte, or, type SQL } from "drizzle-orm";
import type { Writer } from "./backend.ts";
import { newId } from "./ids.ts";
import { appendEvents, type NewEvent } from "./job_events.ts";
import { type Page, pageOf, type PageRequest } from "./paging.ts";
import type { Store } from "./store.ts";

export type JobStatus =
  "validating_files" | "queued" | "running" | "paused" | "succeeded" | "failed" | "cancelled";

/** As the API has it; "auto" is kept as such. */
export interface JobMethod {
  type: "supervised" | "dpo";
  hyperparameters: {
    batch_size?: number | "auto";
    learning_rate_multiplier?: number | "auto";
    n_epochs?: number | "auto";
    beta?: number | "auto";
  };
}

/** What "auto" became. */
export interface ResolvedHyperparameters {
  batch_size: number;
  learning_rate_multiplier: number;
  n_epochs: number;
  beta?: number;
}

/** Where the weights come from. */
export interface JobSource {
  /** Folder in Hugging Face layout. */
  path: string;
  /** A template's name where it is not the folder's own. */
  template: string | null;
  /** The name that goes into "ft:base:…": of the model that all tuning began with. */
  base: string;
}

export interface JobError {
  code: string;
  message: string;
  param: string | null;
}

export interface StoredJob {
  id: string;
  createdAt: Date;
  finishedAt: Date | null;
  status: JobStatus;
  model: string;
  source: JobSource;
  trainingFile: string;
  validationFile: string | null;
  suffix: string | null;
  seed: number;
  method: JobMethod;
  resolved: ResolvedHyperparameters | null;
  metadata: Record<string, string> | null;
  error: JobError | null;
  fineTunedModel: string | null;
  resultFile: string | null;
  trainedTokens: number | null;
  step: number;
  steps: number | null;
  estimatedFinish: Date | null;
  leaseOwner: string | null;
  leaseUntil: Date | null;
  deaths: number;
}

export type NewJob = Pick<
  StoredJob,
  "model" | "source" | "trainingFile" | "validationFile" | "suffix" | "seed" | "method" | "metadata"
>;

export const newJobId = (): string => newId("ftjob-");

export async function addJob(
  store: Store,
  id: string,
  given: NewJob,
  events: readonly NewEvent[],
): Promise<StoredJob> {
  const { jobs } = store.tables;
  return store.transaction(async (tx) => {
    const counts = { step: 0, eventCount: 0, deaths: 0, deathStep: 0 };
    await tx
      .insert(jobs)
      .values({ id, createdAt: new Date(), status: "validating_files", ...counts, ...given });
    await appendEvents(store, tx, id, events);
    return one(await tx.select().from(jobs).where(eq(jobs.id, id)));
  });
}

export async function findJob(store: Store, id: string): Promise<StoredJob | null> {
  const { jobs } = store.tables;
  const [row] = await store.read.select().from(jobs).where(eq(jobs.id, id));
  return row ? jobOf(row) : null;
}

/** The newest first. `metadata`: only jobs that have these pairs; null: only those that have none. */
export async function listJobs(
  store: Store,
  page: PageRequest & { metadata?: Record<string, string> | null | undefined },
): Promise<Page<StoredJob> | "no such cursor"> {
  const { jobs } = store.tables;
  let cursor: StoredJob | null = null;
  if (page.after !== undefined && !(cursor = await findJob(store, page.after))) return "no such cursor";
  const found: StoredJob[] = [];
  // Metadata lies in the row as JSON, which the two databases search in different ways: here it is read instead.
  for (;;) {
    const rows = await store.read
      .select()
      .from(jobs)
      .where(cursor ? before(store, cursor) : undefined)
      .orderBy(desc(jobs.createdAt), desc(jobs.id))
      .limit(page.limit + 1);
    found.push(...rows.map(jobOf).filter((job) => hasMetadata(job, page.metadata)));
    if (rows.length <= page.limit || found.length > page.limit) return pageOf(found, page.limit);
    cursor = jobOf(rows.at(-1)!);
  }
}

/** What a person asked for, and from which states it can be had. */
const changes = {
  cancel: {
    from: ["validating_files", "queued", "running", "paused"],
    to: "cancelled",
    message: "The job was cancelled",
  },
  pause: { from: ["queued", "running"], to: "paused", message: "The job was paused" },
  resume: { from: ["paused"], to: "queued", message: "The job was resumed and waits in the queue" },
} as const;
export type JobChange = keyof typeof changes;

/** null where the job is in no state for it. */
export async function changeJob(store: Store, id: string, change: JobChange): Promise<StoredJob | null> {
  const { jobs } = store.tables;
  const { from, to, message } = changes[change];
  const finishedAt = to === "cancelled" ? new Date() : null;
  return store.transaction(async (tx) => {
    const [row] = await tx
      .update(jobs)
      .set({ status: to, finishedAt, estimatedFinish: null, deaths: 0 })
      .where(and(eq(jobs.id, id), inArray(jobs.status, [...from])))
      .returning();
    if (!row) return null;
    await appendEvents(store, tx, id, [{ message }]);
    return jobOf(row);
  });
}

/** How long a lease holds without a heartbeat. */
export const leaseMs = 15_000;
/** Processes in a row that may die without a step of progress between them. */
export const deathsMax = 3;

/** The oldest job that wants a process: queued, or running with nobody behind it. Each caller gets another one.
 *  A job whose processes keep dying without getting further is failed here instead. */
export async function claimJob(store: Store, owner: string, ms = leaseMs): Promise<StoredJob | null> {
  for (;;) {
    const now = new Date();
    const candidate = await nextJob(store, now);
    if (!candidate) return null;
    if (candidate.status === "running" && candidate.deaths >= deathsMax) {
      await failDying(store, candidate, now);
      continue;
    }
    const { jobs } = store.tables;
    const [row] = await store.transaction(async (tx) =>
      tx
        .update(jobs)
        .set({
          status: "running",
          leaseOwner: owner,
          leaseUntil: new Date(now.getTime() + ms),
          ...deathCount(candidate),
        })
        .where(and(eq(jobs.id, candidate.id), claimable(store, now)))
        .returning(),
    );
    if (row) return jobOf(row);
  }
}

/** The oldest job whose files nobody reads yet. One that took so many servers with it is failed here instead. */
export async function claimValidation(store: Store, owner: string, ms = leaseMs): Promise<StoredJob | null> {
  const { jobs } = store.tables;
  for (;;) {
    const now = new Date();
    const [found] = await store.read
      .select()
      .from(jobs)
      .where(validatable(store, now))
      .orderBy(asc(jobs.createdAt), asc(jobs.id))
      .limit(1);
    if (!found) return null;
    const lease = { leaseOwner: owner, leaseUntil: new Date(now.getTime() + ms) };
    const [row] = await store.transaction(async (tx) =>
      tx
        .update(jobs)
        .set({ ...lease, deaths: found.deaths + 1 })
        .where(and(eq(jobs.id, found.id), validatable(store, now)))
        .returning(),
    );
    if (!row) continue;
    if (found.deaths < deathsMax) return jobOf(row);
    const message = `The server ended ${deathsMax} times while it read the files of this job.`;
    await endValidation(
      store,
      { jobId: row.id, owner },
      {
        code: "validation_died",
        message,
        param: null,
      },
    );
  }
}

/** null: the files are sound, and the job waits in the queue. Nothing happens where it was cancelled meanwhile. */
export async function endValidation(store: Store, held: Lease, error: JobError | null): Promise<void> {
  const { jobs } = store.tables;
  const queued = { status: "queued", leaseOwner: null, leaseUntil: null, deaths: 0 };
  const event: NewEvent =
    error === null
      ? { message: "The files were validated; the job waits in the queue" }
      : { level: "error", message: error.message };
  await store.transaction(async (tx) => {
    const rows = await tx
      .update(jobs)
      .set(error === null ? queued : ended("failed", { error }))
      .where(and(holds(store, held), eq(jobs.status, "validating_files")))
      .returning();
    if (rows.length > 0) await appendEvents(store, tx, held.jobId, [event]);
  });
}

function validatable(store: Store, now: Date): SQL | undefined {
  const { jobs } = store.tables;
  const free = or(isNull(jobs.leaseUntil), lte(jobs.leaseUntil, now));
  return and(eq(jobs.status, "validating_files"), free);
}

/** A claimed job that comes again without a word has lost a process. */
function deathCount(job: StoredJob & { deathStep: number }): { deaths: number; deathStep: number } {
  const further = job.step > job.deathStep;
  return { deaths: job.status === "running" && !further ? job.deaths + 1 : 1, deathStep: job.step };
}

async function nextJob(store: Store, now: Date): Promise<(StoredJob & { deathStep: number }) | null> {
  const { jobs } = store.tables;
  const [row] = await store.read
    .select()
    .from(jobs)
    .where(claimable(store, now))
    .orderBy(asc(jobs.createdAt), asc(jobs.id))
    .limit(1);
  return row ? { ...jobOf(row), deathStep: row.deathStep } : null;
}

function claimable(store: Store, now: Date): SQL | undefined {
  const { jobs } = store.tables;
  const free = or(isNull(jobs.leaseUntil), lte(jobs.leaseUntil, now));
  return and(inArray(jobs.status, ["queued", "running"]), free);
}

async function failDying(store: Store, job: StoredJob, now: Date): Promise<void> {
  const message = `The training process died ${job.deaths} times in a row at step ${job.step}; the usual reason is too little memory. The server's log has its last words.`;
  const { jobs } = store.tables;
  await store.transaction(async (tx) => {
    const rows = await tx
      .update(jobs)
      .set(ended("failed", { error: { code: "training_process_died", message, param: null } }))
      .where(and(eq(jobs.id, job.id), claimable(store, now)))
      .returning();
    if (rows.length > 0) await appendEvents(store, tx, job.id, [{ level: "error", message }]);
  });
}

/** What the holder of a lease may change. */
export type JobProgress = Partial<
  Pick<StoredJob, "resolved" | "step" | "steps" | "trainedTokens" | "estimatedFinish">
>;

/** The holder lives: the lease is renewed, progress and events are noted. The status tells whether to go on;
 *  null: the lease is lost, and with it the right to write anything. */
export async function beat(
  store: Store,
  held: Lease,
  progress: JobProgress = {},
  events: readonly NewEvent[] = [],
): Promise<JobStatus | null> {
  const { jobs } = store.tables;
  return store.transaction(async (tx) => {
    const leaseUntil = new Date(Date.now() + (held.ms ?? leaseMs));
    const [row] = await tx
      .update(jobs)
      .set({ ...progress, leaseUntil })
      .where(holds(store, held))
      .returning();
    if (!row) return null;
    await appendEvents(store, tx, held.jobId, events);
    return row.status as JobStatus;
  });
}

export interface Lease {
  jobId: string;
  owner: string;
  ms?: number;
}

/** How the holder's work ended, with the last events. `also` writes in the same transaction.
 *  "released": it let go, as asked or because it was told to stop; a job that is still running is taken up again.
 *  False: the lease was lost, or the job was paused or cancelled in the meantime, and the outcome does not count. */
export async function endLease(
  store: Store,
  held: Lease,
  outcome:
    | { status: "released" }
    | { status: "succeeded"; fineTunedModel: string; resultFile: string | null; trainedTokens: number | null }
    | { status: "failed"; error: JobError },
  events: readonly NewEvent[] = [],
  also: (tx: Writer) => Promise<void> = async () => {},
): Promise<boolean> {
  const { jobs } = store.tables;
  return store.transaction(async (tx) => {
    const released = outcome.status === "released";
    const { status, ...rest } = outcome;
    const change = released
      ? { leaseOwner: null, leaseUntil: null, deaths: 0 }
      : ended(status as JobStatus, rest);
    const state = released ? undefined : eq(jobs.status, "running");
    const rows = await tx
      .update(jobs)
      .set(change)
      .where(and(holds(store, held), state))
      .returning();
    if (rows.length === 0) return false;
    await appendEvents(store, tx, held.jobId, events);
    await also(tx);
    return true;
  });
}

/** The holder lives, although it has nothing to tell. */
export async function renewLease(store: Store, held: Lease): Promise<void> {
  const leaseUntil = new Date(Date.now() + (held.ms ?? leaseMs));
  await store.transaction(async (tx) => {
    await tx.update(store.tables.jobs).set({ leaseUntil }).where(holds(store, held));
  });
}

/** The holder is dead: the job may be taken up again after a pause, and nothing that still comes from it is written. */
export async function loseLease(store: Store, held: Lease, pauseMs: number): Promise<void> {
  const change = { leaseOwner: null, leaseUntil: new Date(Date.now() + pauseMs) };
  await store.transaction(async (tx) => {
    await tx.update(store.tables.jobs).set(change).where(holds(store, held));
  });
}

const holds = (store: Store, held: Lease): SQL | undefined =>
  and(eq(store.tables.jobs.id, held.jobId), eq(store.tables.jobs.leaseOwner, held.owner));

function ended<T extends object>(status: JobStatus, rest: T) {
  const free = { leaseOwner: null, leaseUntil: null, estimatedFinish: null };
  return { status, finishedAt: new Date(), ...free, ...rest };
}

function before(store: Store, cursor: StoredJob): SQL | undefined {
  const { jobs } = store.tables;
  const same = and(eq(jobs.createdAt, cursor.createdAt), lt(jobs.id, cursor.id));
  return or(lt(jobs.createdAt, cursor.createdAt), same);
}

function hasMetadata(job: StoredJob, wanted: Record<string, string> | null | undefined): boolean {
  if (wanted === undefined) return true;
  if (wanted === null) return job.metadata === null;
  return Object.entries(wanted).every(([key, value]) => job.metadata?.[key] === value);
}

const one = (rows: readonly Row[]): StoredJob => jobOf(rows[0]!);

type Row = Store["tables"]["jobs"]["$inferSelect"];

/** The JSON columns hold what this file's functions put there. */
const jobOf = (row: Row): StoredJob => row as Row & StoredJob;
