/** The rows of the API's files. Bytes are no business of this folder: whoever writes or removes them does so around these calls. */
import { and, asc, desc, eq, gt, isNotNull, isNull, lt, lte, or, type SQL } from "drizzle-orm";
import { newId } from "./ids.ts";
import { type Page, pageOf, type PageRequest } from "./paging.ts";
import type { Store } from "./store.ts";

export const filePurposes = [
  "assistants",
  "assistants_output",
  "batch",
  "batch_output",
  "fine-tune",
  "fine-tune-results",
  "vision",
  "user_data",
  "evals",
] as const;
export type FilePurpose = (typeof filePurposes)[number];

export interface StoredFile {
  id: string;
  filename: string;
  purpose: string;
  bytes: number;
  createdAt: Date;
  /** From then on it is as if there were no such file. */
  expiresAt: Date | null;
}

export const newFileId = (): string => newId("file-");

/** The bytes are in place already, so that no row is ever without them. */
export async function addFile(store: Store, file: StoredFile): Promise<void> {
  await store.transaction(async (tx) => {
    await tx.insert(store.tables.files).values(file);
  });
}

/** null where there is none, or none any more. */
export async function findFile(store: Store, id: string): Promise<StoredFile | null> {
  const { files } = store.tables;
  const [found] = await store.read
    .select()
    .from(files)
    .where(and(eq(files.id, id), alive(store)));
  return found ?? null;
}

export async function listFiles(
  store: Store,
  page: PageRequest & { order: "asc" | "desc"; purpose?: string | undefined },
): Promise<Page<StoredFile> | "no such cursor"> {
  const { files } = store.tables;
  const conditions: (SQL | undefined)[] = [alive(store)];
  if (page.purpose !== undefined) conditions.push(eq(files.purpose, page.purpose));
  if (page.after !== undefined) {
    const [cursor] = await store.read.select().from(files).where(eq(files.id, page.after));
    if (!cursor) return "no such cursor";
    const beyond = page.order === "asc" ? gt : lt;
    const later = beyond(files.createdAt, cursor.createdAt);
    conditions.push(or(later, and(eq(files.createdAt, cursor.createdAt), beyond(files.id, cursor.id))));
  }
  const order = page.order === "asc" ? asc : desc;
  const rows = await store.read
    .select()
    .from(files)
    .where(and(...conditions))
    .orderBy(order(files.createdAt), order(files.id))
    .limit(page.limit + 1);
  return pageOf(rows, page.limit);
}

/** False where there is none. The row goes first: bytes without a row are swept away, a row without bytes would be a lie. */
export async function removeFile(store: Store, id: string): Promise<boolean> {
  const { files } = store.tables;
  return store.transaction(async (tx) => {
    const removed = await tx.delete(files).where(eq(files.id, id)).returning({ id: files.id });
    return removed.length > 0;
  });
}

/** Ids of the files whose time was up by `now`; their rows are gone. */
export async function removeExpiredFiles(store: Store, now: Date): Promise<string[]> {
  const { files } = store.tables;
  const expired = and(isNotNull(files.expiresAt), lte(files.expiresAt, now));
  if ((await store.read.$count(files, expired)) === 0) return [];
  return store.transaction(async (tx) => {
    const rows = await tx.delete(files).where(expired).returning({ id: files.id });
    return rows.map((row) => row.id);
  });
}

function alive(store: Store): SQL | undefined {
  const { files } = store.tables;
  return or(isNull(files.expiresAt), gt(files.expiresAt, new Date()));
}
