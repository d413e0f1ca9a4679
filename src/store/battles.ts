/** Battles of the live arena: a visitor's prompt, two served models, and the vote.
 *  Always: a battle is voted on at most once, and only after both answers have ended. */
import { and, asc, eq, isNotNull, isNull } from "drizzle-orm";
import { newId } from "./ids.ts";
import type { Store } from "./store.ts";

export interface StoredBattle {
  id: string;
  prompt: string;
  systemA: string;
  systemB: string;
  left: string;
  answerA: string;
  answerB: string;
  /** stop, length, error, abort. */
  finishA: string;
  finishB: string;
  leaks: string[];
  verdict: string | null;
  dwellMs: number | null;
  rater: string;
  createdAt: Date;
  endedAt: Date | null;
  votedAt: Date | null;
}

export const newBattleId = (): string => newId("battle-");

/** Written when both answers have ended: one that nobody waited for is no battle. */
export async function addBattle(
  store: Store,
  battle: Omit<StoredBattle, "verdict" | "dwellMs" | "endedAt" | "votedAt">,
): Promise<void> {
  await store.transaction(async (tx) => {
    await tx.insert(store.tables.battles).values({ ...battle, endedAt: new Date() });
  });
}

export async function findBattle(store: Store, id: string): Promise<StoredBattle | null> {
  const { battles } = store.tables;
  const [row] = await store.read.select().from(battles).where(eq(battles.id, id));
  return row ? battleOf(row) : null;
}

/** null where there is no such battle, or it has its vote. */
export async function voteOnBattle(
  store: Store,
  id: string,
  vote: { verdict: string; dwellMs: number | null },
): Promise<StoredBattle | null> {
  const { battles } = store.tables;
  const [row] = await store.transaction(async (tx) =>
    tx
      .update(battles)
      .set({ ...vote, votedAt: new Date() })
      .where(and(eq(battles.id, id), isNull(battles.votedAt)))
      .returning(),
  );
  return row ? battleOf(row) : null;
}

/** Those with a vote, the oldest first. */
export async function votedBattles(store: Store): Promise<StoredBattle[]> {
  const { battles } = store.tables;
  const rows = await store.read
    .select()
    .from(battles)
    .where(isNotNull(battles.votedAt))
    .orderBy(asc(battles.createdAt), asc(battles.id));
  return rows.map(battleOf);
}

type Row = Store["tables"]["battles"]["$inferSelect"];
const battleOf = (row: Row): StoredBattle => ({ ...row, leaks: row.leaks as string[] });
