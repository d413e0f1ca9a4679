/** Models that jobs made: which folder under the data directory is served by which name.
 *  Always: a row's folder is whole; it was written and renamed before the row. */
import { asc, eq } from "drizzle-orm";
import type { Writer } from "./backend.ts";
import type { Store } from "./store.ts";

export interface StoredModel {
  id: string;
  jobId: string;
  parent: string;
  folder: string;
  template: string | null;
  createdAt: Date;
}

/** In the transaction of what made it; the same name again replaces it (a step trained again after a restart). */
export async function putModel(
  store: Store,
  tx: Writer,
  given: Omit<StoredModel, "createdAt">,
): Promise<void> {
  const { models } = store.tables;
  await tx.delete(models).where(eq(models.id, given.id));
  await tx.insert(models).values({ createdAt: new Date(), ...given });
}

export async function listModels(store: Store): Promise<StoredModel[]> {
  const { models } = store.tables;
  return store.read.select().from(models).orderBy(asc(models.createdAt), asc(models.id));
}

export async function findModel(store: Store, id: string): Promise<StoredModel | null> {
  const { models } = store.tables;
  const [found] = await store.read.select().from(models).where(eq(models.id, id));
  return found ?? null;
}

/** null where there is none. Servers that know the model notice within seconds. */
export async function removeModel(store: Store, id: string): Promise<StoredModel | null> {
  const { models } = store.tables;
  return store.transaction(async (tx) => {
    const [removed] = await tx.delete(models).where(eq(models.id, id)).returning();
    return removed ?? null;
  });
}
