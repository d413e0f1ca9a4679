/** "Report this answer": what people flagged in chats, studies and the arena, until somebody has reviewed it. */
import { and, desc, eq, lt, or, type SQL } from "drizzle-orm";
import { newId } from "./ids.ts";
import { type Page, pageOf, type PageRequest } from "./paging.ts";
import type { Store } from "./store.ts";

export const flagCategories = ["harmful", "hateful", "sexual", "private", "false", "other"] as const;
export type FlagCategory = (typeof flagCategories)[number];

export interface NewFlag {
  source: "chat" | "study" | "arena";
  /** The study's answer or the arena's battle. */
  reference: string | null;
  model: string | null;
  /** What the answer replied to; null where it is not kept. */
  prompt: string | null;
  answer: string;
  category: FlagCategory;
  note: string | null;
}

export interface StoredFlag extends NewFlag {
  id: string;
  state: "open" | "reviewed";
  createdAt: Date;
  reviewedAt: Date | null;
  /** What the reviewer wrote. */
  review: string | null;
}

export async function addFlag(store: Store, flag: NewFlag): Promise<StoredFlag> {
  const { flags } = store.tables;
  const open = { id: newId("flag-"), state: "open", createdAt: new Date(), reviewedAt: null, review: null };
  await store.transaction(async (tx) => {
    await tx.insert(flags).values({ ...open, ...flag });
  });
  return { ...open, ...flag } as StoredFlag;
}

/** The newest first. */
export async function listFlags(
  store: Store,
  page: PageRequest & { state?: StoredFlag["state"] | undefined },
): Promise<Page<StoredFlag> | "no such cursor"> {
  const { flags } = store.tables;
  const conditions: (SQL | undefined)[] = [];
  if (page.state !== undefined) conditions.push(eq(flags.state, page.state));
  if (page.after !== undefined) {
    const [cursor] = await store.read.select().from(flags).where(eq(flags.id, page.after));
    if (!cursor) return "no such cursor";
    const same = and(eq(flags.createdAt, cursor.createdAt), lt(flags.id, cursor.id));
    conditions.push(or(lt(flags.createdAt, cursor.createdAt), same));
  }
  const rows = await store.read
    .select()
    .from(flags)
    .where(and(...conditions))
    .orderBy(desc(flags.createdAt), desc(flags.id))
    .limit(page.limit + 1);
  return pageOf(rows as StoredFlag[], page.limit);
}

/** null where there is no such flag; reviewing again replaces the review. */
export async function reviewFlag(
  store: Store,
  id: string,
  review: string | null,
): Promise<StoredFlag | null> {
  const { flags } = store.tables;
  const [row] = await store.transaction(async (tx) =>
    tx
      .update(flags)
      .set({ state: "reviewed", reviewedAt: new Date(), review })
      .where(eq(flags.id, id))
      .returning(),
  );
  return row ? (row as StoredFlag) : null;
}
