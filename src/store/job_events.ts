/** What a job says while it runs: numbered events, and the checkpoints it has made.
 *  Always: an event's number is its place in the order things happened, without gaps; a step's metrics are there once. */
import { and, asc, desc, eq, gt, gte, lt, type SQL, sql } from "drizzle-orm";
import type { Writer } from "./backend.ts";
import { newId } from "./ids.ts";
import { type Page, pageOf, type PageRequest } from "./paging.ts";
import type { Store } from "./store.ts";

export interface NewEvent {
  message: string;
  level?: "info" | "warn" | "error";
  /** metrics: `data` is a step's figures. */
  type?: "message" | "metrics";
  data?: Record<string, unknown>;
  step?: number;
}

export interface StoredEvent {
  id: string;
  jobId: string;
  number: number;
  createdAt: Date;
  level: string;
  type: string;
  message: string;
  data: unknown;
  step: number | null;
}

export interface StoredCheckpoint {
  id: string;
  jobId: string;
  step: number;
  createdAt: Date;
  /** The model that it can be served as. */
  model: string;
  metrics: unknown;
}

/** Inside the transaction of what the events tell. */
export async function appendEvents(
  store: Store,
  tx: Writer,
  jobId: string,
  events: readonly NewEvent[],
): Promise<void> {
  if (events.length === 0) return;
  const { jobs, jobEvents } = store.tables;
  // One statement: of two writers each gets numbers of its own.
  const [row] = await tx
    .update(jobs)
    .set({ eventCount: sql`${jobs.eventCount} + ${events.length}` })
    .where(eq(jobs.id, jobId))
    .returning({ count: jobs.eventCount });
  if (!row) return;
  const createdAt = new Date();
  const rows = events.map(({ message, level = "info", type = "message", data = {}, step }, i) => ({
    id: newId("ftevent-"),
    jobId,
    number: row.count - events.length + i,
    createdAt,
    level,
    type,
    message,
    data,
    step: step ?? null,
  }));
  await tx.insert(jobEvents).values(rows);
}

/** The newest first. */
export async function listEvents(
  store: Store,
  jobId: string,
  page: PageRequest,
): Promise<Page<StoredEvent> | "no such cursor"> {
  const { jobEvents } = store.tables;
  const conditions = [eq(jobEvents.jobId, jobId)];
  if (page.after !== undefined) {
    const [cursor] = await store.read.select().from(jobEvents).where(eq(jobEvents.id, page.after));
    if (cursor?.jobId !== jobId) return "no such cursor";
    conditions.push(lt(jobEvents.number, cursor.number));
  }
  const rows = await store.read
    .select()
    .from(jobEvents)
    .where(and(...conditions))
    .orderBy(desc(jobEvents.number))
    .limit(page.limit + 1);
  return pageOf(rows, page.limit);
}

/** The metrics of a job in the order of steps; of a long run one step in so many, and the last. */
export async function listMetrics(
  store: Store,
  jobId: string,
  range: { afterStep: number; pointsMax: number },
): Promise<StoredEvent[]> {
  const { jobEvents } = store.tables;
  const wanted = and(
    eq(jobEvents.jobId, jobId),
    eq(jobEvents.type, "metrics"),
    gt(jobEvents.step, range.afterStep),
  );
  const count = await store.read.$count(jobEvents, wanted);
  const stride = Math.max(1, Math.ceil(count / range.pointsMax));
  const sampled: SQL | undefined =
    stride === 1 ? wanted : and(wanted, sql`${jobEvents.step} % ${sql.raw(String(stride))} = 0`);
  const rows = await store.read.select().from(jobEvents).where(sampled).orderBy(asc(jobEvents.step));
  if (stride === 1) return rows;
  const [last] = await store.read
    .select()
    .from(jobEvents)
    .where(wanted)
    .orderBy(desc(jobEvents.step))
    .limit(1);
  return last && last.id !== rows.at(-1)?.id ? [...rows, last] : rows;
}

/** A run that goes on from an earlier step makes the steps after it again: their first metrics are forgotten. */
export async function forgetMetricsAfter(store: Store, jobId: string, step: number): Promise<void> {
  const { jobEvents } = store.tables;
  await store.transaction(async (tx) => {
    await tx
      .delete(jobEvents)
      .where(and(eq(jobEvents.jobId, jobId), eq(jobEvents.type, "metrics"), gt(jobEvents.step, step)));
  });
}

/** Once a step: made again after a restart, it stays what it was. */
export async function addCheckpoint(
  store: Store,
  tx: Writer,
  given: Pick<StoredCheckpoint, "jobId" | "step" | "model" | "metrics">,
): Promise<void> {
  const { jobCheckpoints } = store.tables;
  await tx
    .delete(jobCheckpoints)
    .where(and(eq(jobCheckpoints.jobId, given.jobId), gte(jobCheckpoints.step, given.step)));
  await tx.insert(jobCheckpoints).values({ id: newId("ftckpt_"), createdAt: new Date(), ...given });
}

/** All but the newest so many are forgotten, and the models with them; their names. */
export async function dropOldCheckpoints(
  store: Store,
  tx: Writer,
  jobId: string,
  keep: number,
): Promise<StoredCheckpoint[]> {
  const { jobCheckpoints, models } = store.tables;
  const all = await tx
    .select()
    .from(jobCheckpoints)
    .where(eq(jobCheckpoints.jobId, jobId))
    .orderBy(desc(jobCheckpoints.step));
  const old = all.slice(keep);
  for (const { id, model } of old) {
    await tx.delete(jobCheckpoints).where(eq(jobCheckpoints.id, id));
    await tx.delete(models).where(eq(models.id, model));
  }
  return old;
}

/** The newest first. */
export async function listCheckpoints(
  store: Store,
  jobId: string,
  page: PageRequest,
): Promise<Page<StoredCheckpoint> | "no such cursor"> {
  const { jobCheckpoints } = store.tables;
  const conditions = [eq(jobCheckpoints.jobId, jobId)];
  if (page.after !== undefined) {
    const [cursor] = await store.read.select().from(jobCheckpoints).where(eq(jobCheckpoints.id, page.after));
    if (cursor?.jobId !== jobId) return "no such cursor";
    conditions.push(lt(jobCheckpoints.step, cursor.step));
  }
  const rows = await store.read
    .select()
    .from(jobCheckpoints)
    .where(and(...conditions))
    .orderBy(desc(jobCheckpoints.step))
    .limit(page.limit + 1);
  return pageOf(rows, page.limit);
}
