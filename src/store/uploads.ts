/** The rows of uploads: files that come in parts, and become a file when their client says in which order.
 *  Always: an upload is completed or cancelled once; parts are added to a pending one only. */
import { and, eq, gt, inArray, lte, ne, or } from "drizzle-orm";
import type { StoredFile } from "./files.ts";
import { newId } from "./ids.ts";
import type { Store } from "./store.ts";

export interface StoredUpload {
  id: string;
  filename: string;
  purpose: string;
  mimeType: string;
  bytes: number;
  status: string;
  createdAt: Date;
  expiresAt: Date;
  fileSeconds: number | null;
  fileId: string | null;
}

export interface StoredPart {
  id: string;
  uploadId: string;
  bytes: number;
  createdAt: Date;
}

export const newPartId = (): string => newId("part_");

const uploadMs = 3600_000;

export async function addUpload(
  store: Store,
  given: Pick<StoredUpload, "filename" | "purpose" | "mimeType" | "bytes" | "fileSeconds">,
): Promise<StoredUpload> {
  const now = Date.now();
  const times = { createdAt: new Date(now), expiresAt: new Date(now + uploadMs) };
  const row: StoredUpload = { id: newId("upload_"), status: "pending", fileId: null, ...times, ...given };
  await store.transaction(async (tx) => {
    await tx.insert(store.tables.uploads).values(row);
  });
  return row;
}

export async function findUpload(store: Store, id: string): Promise<StoredUpload | null> {
  const { uploads } = store.tables;
  const [found] = await store.read.select().from(uploads).where(eq(uploads.id, id));
  return found ?? null;
}

/** False where the upload is not pending any more; then the part is not added. */
export async function addPart(store: Store, part: StoredPart): Promise<boolean> {
  const { uploads, uploadParts } = store.tables;
  return store.transaction(async (tx) => {
    // Writes the row without changing it: on PostgreSQL that holds it until the part is in.
    const held = await tx
      .update(uploads)
      .set({ status: "pending" })
      .where(pending(store, part.uploadId))
      .returning();
    if (held.length === 0) return false;
    await tx.insert(uploadParts).values(part);
    return true;
  });
}

export async function partsOf(store: Store, uploadId: string): Promise<StoredPart[]> {
  const { uploadParts } = store.tables;
  return store.read.select().from(uploadParts).where(eq(uploadParts.uploadId, uploadId));
}

/** The upload ends and its file begins, together. False where the upload has ended already. */
export async function completeUpload(store: Store, id: string, file: StoredFile): Promise<boolean> {
  const { uploads, files } = store.tables;
  return store.transaction(async (tx) => {
    const change = { status: "completed", fileId: file.id };
    const ended = await tx.update(uploads).set(change).where(pending(store, id)).returning();
    if (ended.length === 0) return false;
    await tx.insert(files).values(file);
    return true;
  });
}

export async function cancelUpload(store: Store, id: string): Promise<boolean> {
  const { uploads } = store.tables;
  return store.transaction(async (tx) => {
    const change = { status: "cancelled" };
    return (await tx.update(uploads).set(change).where(pending(store, id)).returning()).length > 0;
  });
}

/** Ids of the parts of uploads that have ended or expired; their rows are gone. */
export async function removeFinishedParts(store: Store, now: Date): Promise<string[]> {
  const { uploads, uploadParts } = store.tables;
  const over = store.read
    .select({ id: uploads.id })
    .from(uploads)
    .where(or(ne(uploads.status, "pending"), lte(uploads.expiresAt, now)));
  const ids = (await over).map((row) => row.id);
  if (ids.length === 0) return [];
  const parts = await store.read
    .select({ id: uploadParts.id })
    .from(uploadParts)
    .where(inArray(uploadParts.uploadId, ids));
  if (parts.length === 0) return [];
  return store.transaction(async (tx) => {
    const rows = await tx
      .delete(uploadParts)
      .where(inArray(uploadParts.uploadId, ids))
      .returning({ id: uploadParts.id });
    return rows.map((row) => row.id);
  });
}

function pending(store: Store, id: string) {
  const { uploads } = store.tables;
  return and(eq(uploads.id, id), eq(uploads.status, "pending"), gt(uploads.expiresAt, new Date()));
}
