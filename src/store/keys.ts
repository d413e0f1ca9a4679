/** API keys: made, listed, revoked. A secret is shown once, where it is made; the database has its SHA-256 only.
 *  190 random bits need no salt and no slow hash: there is no dictionary to try. */
import { createHash } from "node:crypto";
import { and, eq, isNull, lt, or } from "drizzle-orm";
import { UsageError } from "../util/errors.ts";
import { isUniqueViolation } from "./errors.ts";
import { randomText } from "./ids.ts";
import type { Store } from "./store.ts";

const secretStart = "sk-koala-";
const secretLength = 32;
const prefixLength = 6;
const nameLengthMax = 100;

export interface StoredKey {
  /** Names the key in logs; never secret. */
  id: string;
  name: string;
  /** The first characters after `sk-koala-`. */
  prefix: string;
  createdAt: Date;
  revokedAt: Date | null;
  /** Exact to a minute. */
  lastUsedAt: Date | null;
}

/** What is needed to recognise a key. */
export interface ActiveKey {
  id: string;
  sha256: Uint8Array;
}

/** The secret is nowhere else: who loses it makes a new key. */
export async function createKey(store: Store, name: string): Promise<{ id: string; secret: string }> {
  checkName(name);
  const id = `key_${randomText(16)}`;
  const random = randomText(secretLength);
  const secret = secretStart + random;
  const { apiKeys } = store.tables;
  const row = {
    id,
    name,
    sha256: sha256(secret),
    prefix: random.slice(0, prefixLength),
    createdAt: new Date(),
  };
  try {
    await store.transaction(async (tx) => {
      await tx.insert(apiKeys).values(row);
    });
  } catch (error) {
    if (!isUniqueViolation(error)) throw error;
    throw new UsageError(
      `There is a key named ${JSON.stringify(name)} already, and names stay taken after a key is revoked. Choose another name.`,
    );
  }
  return { id, secret };
}

/** All keys, revoked ones too, the oldest first. */
export async function listKeys(store: Store): Promise<StoredKey[]> {
  const { apiKeys } = store.tables;
  return store.read.select(shown(store)).from(apiKeys).orderBy(apiKeys.createdAt, apiKeys.id);
}

/** Servers that watch the database refuse the key within seconds. */
export async function revokeKey(store: Store, name: string): Promise<StoredKey> {
  const { apiKeys } = store.tables;
  return store.transaction(async (tx) => {
    const valid = and(eq(apiKeys.name, name), isNull(apiKeys.revokedAt));
    const [revoked] = await tx
      .update(apiKeys)
      .set({ revokedAt: new Date() })
      .where(valid)
      .returning(shown(store));
    if (revoked) return revoked;
    const [found] = await tx.select().from(apiKeys).where(eq(apiKeys.name, name));
    throw new UsageError(
      found?.revokedAt
        ? `The key ${JSON.stringify(name)} was revoked on ${found.revokedAt.toISOString()} already.`
        : `There is no key named ${JSON.stringify(name)}. koala keys list shows those there are.`,
    );
  });
}

/** The keys that are not revoked. */
export async function activeKeys(store: Store): Promise<ActiveKey[]> {
  const { apiKeys } = store.tables;
  const rows = await store.read
    .select({ id: apiKeys.id, sha256: apiKeys.sha256 })
    .from(apiKeys)
    .where(isNull(apiKeys.revokedAt))
    .orderBy(apiKeys.id);
  return rows.map((row) => ({ id: row.id, sha256: Buffer.from(row.sha256, "hex") }));
}

/** Notes that the key was used; several servers may do so, the latest time stays. */
export async function touchKey(store: Store, id: string, at: Date): Promise<void> {
  const { apiKeys } = store.tables;
  const earlier = or(isNull(apiKeys.lastUsedAt), lt(apiKeys.lastUsedAt, at));
  await store.transaction(async (tx) => {
    await tx
      .update(apiKeys)
      .set({ lastUsedAt: at })
      .where(and(eq(apiKeys.id, id), earlier));
  });
}

/** The columns of a StoredKey: all but the hash. */
function shown(store: Store) {
  const { id, name, prefix, createdAt, revokedAt, lastUsedAt } = store.tables.apiKeys;
  return { id, name, prefix, createdAt, revokedAt, lastUsedAt };
}

function checkName(name: string): void {
  const fits = name !== "" && name.length <= nameLengthMax && name === name.trim();
  if (fits && !/\p{C}/u.test(name)) return;
  throw new UsageError(
    `A key's name has 1 to ${nameLengthMax} printable characters and no space at its ends; ${JSON.stringify(name.slice(0, 200))} does not.`,
  );
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
