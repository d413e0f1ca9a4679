/** Raters of a study. A rater is an invite code; its hash is all that is kept, and no address or name.
 *  Always: the same code is the same rater, however often it comes. */
import { createHash } from "node:crypto";
import { and, asc, eq, isNull } from "drizzle-orm";
import { newId } from "./ids.ts";
import type { Store } from "./store.ts";

export interface StoredRater {
  id: string;
  studyId: string;
  inviteHash: string;
  platform: string;
  submit: Submit | null;
  createdAt: Date;
  consentAt: Date | null;
  lastSeenAt: Date | null;
}

/** Where a platform wants the completion code, as a form with these fields. */
export interface Submit {
  url: string;
  fields: Record<string, string>;
}

export const codeHash = (code: string): string => createHash("sha256").update(code).digest("hex");

/** The rater of this code; a new one where there is none. A later `submit` replaces the earlier: platforms name each visit. */
export async function addRater(
  store: Store,
  rater: { studyId: string; inviteHash: string; platform: string; submit: Submit | null },
): Promise<StoredRater> {
  const { studyRaters } = store.tables;
  await store.transaction(async (tx) => {
    await tx
      .insert(studyRaters)
      .values({ id: newId("rater-"), createdAt: new Date(), ...rater })
      .onConflictDoNothing();
    if (rater.submit === null) return;
    await tx
      .update(studyRaters)
      .set({ submit: rater.submit })
      .where(eq(studyRaters.inviteHash, rater.inviteHash));
  });
  return (await findRater(store, rater.inviteHash))!;
}

export async function findRater(store: Store, inviteHash: string): Promise<StoredRater | null> {
  const { studyRaters } = store.tables;
  const [row] = await store.read.select().from(studyRaters).where(eq(studyRaters.inviteHash, inviteHash));
  return row ? raterOf(row) : null;
}

export async function ratersOf(store: Store, studyId: string): Promise<StoredRater[]> {
  const { studyRaters } = store.tables;
  const rows = await store.read
    .select()
    .from(studyRaters)
    .where(eq(studyRaters.studyId, studyId))
    .orderBy(asc(studyRaters.createdAt), asc(studyRaters.id));
  return rows.map(raterOf);
}

/** The first consent stays. */
export async function consent(store: Store, raterId: string): Promise<void> {
  const { studyRaters } = store.tables;
  await store.transaction(async (tx) => {
    await tx
      .update(studyRaters)
      .set({ consentAt: new Date() })
      .where(and(eq(studyRaters.id, raterId), isNull(studyRaters.consentAt)));
  });
}

type Row = Store["tables"]["studyRaters"]["$inferSelect"];
const raterOf = (row: Row): StoredRater => ({ ...row, submit: row.submit as Submit | null });
