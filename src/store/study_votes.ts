/** Who was given which item, and the votes on it.
 *  Always: votes are only added, and the last one of an assignment and criterion counts; an assignment without a vote
 *  whose rater has been away too long expires and counts for nothing; it comes back to life with a late vote. */
import { and, asc, eq, inArray, isNull, lt, or, sql } from "drizzle-orm";
import { newId } from "./ids.ts";
import type { Reader } from "./backend.ts";
import { studyItemsOf, type StoredItem } from "./studies.ts";
import type { Store } from "./store.ts";

export interface StoredAssignment {
  id: string;
  studyId: string;
  itemId: string;
  raterId: string;
  kind: string;
  left: string;
  number: number;
  shownAt: Date | null;
  votedAt: Date | null;
  expiredAt: Date | null;
}

export interface StoredVote {
  assignmentId: string;
  criterion: string;
  number: number;
  verdict: string;
  dwellMs: number | null;
  note: string | null;
  createdAt: Date;
}

/** One that has not been planned yet. */
export type NewAssignment = Pick<StoredAssignment, "itemId" | "kind" | "left" | "number">;

/** The rater's assignments in order, expired ones apart. */
export async function assignmentsOf(store: Store, raterId: string): Promise<StoredAssignment[]> {
  return openAssignments(store, store.read, { raterId });
}

/** `plan` decides on what the database holds; what it returns is the rater's. Expired assignments are freed first.
 *  On PostgreSQL two raters who begin in the same instant may both take an item's last place: one rating too many. */
export async function giveAssignments(
  store: Store,
  rater: { id: string; studyId: string },
  given: {
    awaySince: Date;
    plan: (state: { items: StoredItem[]; assignments: StoredAssignment[] }) => NewAssignment[];
  },
): Promise<void> {
  const { studyAssignments } = store.tables;
  const items = await studyItemsOf(store, rater.studyId);
  await store.transaction(async (tx) => {
    await tx
      .update(studyAssignments)
      .set({ expiredAt: new Date() })
      .where(
        and(
          eq(studyAssignments.studyId, rater.studyId),
          isNull(studyAssignments.votedAt),
          isNull(studyAssignments.expiredAt),
          inArray(studyAssignments.raterId, awayRaters(store, tx, { ...rater, since: given.awaySince })),
        ),
      );
    const assignments = await openAssignments(store, tx, { studyId: rater.studyId });
    const rows = given.plan({ items, assignments });
    if (rows.length === 0) return;
    const own = { studyId: rater.studyId, raterId: rater.id };
    await tx.insert(studyAssignments).values(rows.map((row) => ({ id: newId("task-"), ...own, ...row })));
  });
}

/** Raters of a study, but for this one, who have not been seen since then. */
function awayRaters(store: Store, tx: Reader, rater: { id: string; studyId: string; since: Date }) {
  const { studyRaters: table } = store.tables;
  const away = or(isNull(table.lastSeenAt), lt(table.lastSeenAt, rater.since));
  return tx
    .select({ id: table.id })
    .from(table)
    .where(and(eq(table.studyId, rater.studyId), away, sql`${table.id} <> ${rater.id}`));
}

async function openAssignments(
  store: Store,
  reader: Reader,
  of: { studyId: string } | { raterId: string },
): Promise<StoredAssignment[]> {
  const { studyAssignments: table } = store.tables;
  const whose = "studyId" in of ? eq(table.studyId, of.studyId) : eq(table.raterId, of.raterId);
  return reader
    .select()
    .from(table)
    .where(and(whose, isNull(table.expiredAt)))
    .orderBy(asc(table.number), asc(table.id));
}

/** The first time counts. */
export async function markShown(store: Store, assignment: StoredAssignment): Promise<Date> {
  if (assignment.shownAt !== null) return assignment.shownAt;
  const { studyAssignments: table } = store.tables;
  const shownAt = new Date();
  await store.transaction(async (tx) => {
    await tx
      .update(table)
      .set({ shownAt })
      .where(and(eq(table.id, assignment.id), isNull(table.shownAt)));
  });
  return shownAt;
}

export async function markSeen(store: Store, raterId: string): Promise<void> {
  const { studyRaters: table } = store.tables;
  await store.transaction(async (tx) => {
    await tx.update(table).set({ lastSeenAt: new Date() }).where(eq(table.id, raterId));
  });
}

/** An assignment of this rater, expired or not. */
export async function findAssignment(
  store: Store,
  of: { id: string; raterId: string },
): Promise<{ assignment: StoredAssignment; item: StoredItem & { studyId: string } } | null> {
  const { studyAssignments: table, studyItems } = store.tables;
  const [assignment] = await store.read
    .select()
    .from(table)
    .where(and(eq(table.id, of.id), eq(table.raterId, of.raterId)));
  if (!assignment) return null;
  const [item] = await store.read.select().from(studyItems).where(eq(studyItems.id, assignment.itemId));
  return { assignment, item: item! };
}

export interface NewVote {
  criterion: string;
  verdict: string;
  dwellMs: number | null;
  note: string | null;
}

/** Adds the votes of one press, one a criterion. */
export async function addVotes(
  store: Store,
  assignment: StoredAssignment,
  votes: readonly NewVote[],
): Promise<void> {
  const { studyVotes, studyAssignments } = store.tables;
  const { id: assignmentId, studyId } = assignment;
  await store.transaction(async (tx) => {
    const now = new Date();
    for (const vote of votes) {
      const same = and(eq(studyVotes.assignmentId, assignmentId), eq(studyVotes.criterion, vote.criterion));
      const number = await tx.$count(studyVotes, same);
      await tx
        .insert(studyVotes)
        .values({ id: newId("vote-"), studyId, assignmentId, number, createdAt: now, ...vote });
    }
    await tx
      .update(studyAssignments)
      .set({ votedAt: now, expiredAt: null })
      .where(eq(studyAssignments.id, assignmentId));
  });
}

/** The votes that count: of a study, or of one assignment. */
export async function lastVotes(
  store: Store,
  of: { studyId: string; assignmentId?: string },
): Promise<StoredVote[]> {
  const { studyVotes: table } = store.tables;
  const whose =
    of.assignmentId === undefined ? eq(table.studyId, of.studyId) : eq(table.assignmentId, of.assignmentId);
  const rows = await store.read.select().from(table).where(whose).orderBy(asc(table.number));
  const last = new Map(rows.map((row) => [`${row.assignmentId} ${row.criterion}`, row]));
  return [...last.values()];
}

/** All assignments of a study that have a vote. */
export async function votedAssignments(store: Store, studyId: string): Promise<StoredAssignment[]> {
  const all = await openAssignments(store, store.read, { studyId });
  return all.filter(({ votedAt }) => votedAt !== null);
}

/** First votes of this rater since a time; corrections do not count against the pace. */
export async function countPresses(store: Store, raterId: string, since: Date): Promise<number> {
  const { studyVotes, studyAssignments } = store.tables;
  const rows = await store.read
    .select({ time: studyVotes.createdAt })
    .from(studyVotes)
    .innerJoin(studyAssignments, eq(studyVotes.assignmentId, studyAssignments.id))
    .where(
      and(
        eq(studyAssignments.raterId, raterId),
        eq(studyVotes.criterion, "overall"),
        sql`${studyVotes.number} = 0`,
        sql`not (${lt(studyVotes.createdAt, since)})`,
      ),
    );
  return rows.length;
}
