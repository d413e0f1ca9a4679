import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { KeyRing } from "../../src/store/key_ring.ts";
import {
  type ActiveKey,
  activeKeys,
  createKey,
  listKeys,
  revokeKey,
  touchKey,
} from "../../src/store/keys.ts";
import { openStore } from "../../src/store/store.ts";
import { onEachDatabase } from "../support/stores.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { testServer } from "../support/test_server.ts";

const hash = (text: string) => createHash("sha256").update(text).digest();
const bearer = (secret: string) => ({ authorization: `Bearer ${secret}` });

/** Waits until `condition` holds, at most five seconds. */
async function until(condition: () => boolean | Promise<boolean>): Promise<boolean> {
  for (let i = 0; i < 500 && !(await condition()); i++) await Bun.sleep(10);
  return condition();
}

onEachDatabase("API keys", (newDatabase) => {
  test("are made with 32 random base62 characters, and recognised by their hash", async () => {
    const store = await openStore(await newDatabase());
    const made = [await createKey(store, "one"), await createKey(store, "two")];
    for (const { id, secret } of made) {
      expect(secret).toMatch(/^sk-koala-[0-9A-Za-z]{32}$/);
      expect(id).toMatch(/^key_[0-9A-Za-z]{16}$/);
    }
    const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
    const expected = made.map(({ id, secret }) => ({ id, sha256: hash(secret) })).sort(byId);
    expect((await activeKeys(store)).sort(byId)).toEqual(expected);
    const first = (await listKeys(store)).find(({ name }) => name === "one");
    expect(first).toEqual({
      id: made[0]!.id,
      name: "one",
      prefix: made[0]!.secret.slice(9, 15),
      createdAt: first!.createdAt,
      revokedAt: null,
      lastUsedAt: null,
    });
    expect(Math.abs(Date.now() - first!.createdAt.getTime())).toBeLessThan(60_000);
    await store.close();
  });

  test("have unique, printable names, also after they are revoked", async () => {
    const store = await openStore(await newDatabase());
    await createKey(store, "Käthe's laptop");
    await revokeKey(store, "Käthe's laptop");
    expect(createKey(store, "Käthe's laptop")).rejects.toThrow(/names stay taken after a key is revoked/);
    for (const name of ["", " a", "a ", "a\nb", "a\x1b[2J", "x".repeat(101)])
      expect(createKey(store, name)).rejects.toThrow(/has 1 to 100 printable characters/);
    expect(await listKeys(store)).toHaveLength(1);
    await store.close();
  });

  test("are revoked once, by their name, and are no longer among the active ones", async () => {
    const store = await openStore(await newDatabase());
    const { id } = await createKey(store, "kept");
    await createKey(store, "gone");
    const revoked = await revokeKey(store, "gone");
    expect([revoked.name, revoked.revokedAt instanceof Date, "sha256" in revoked]).toEqual([
      "gone",
      true,
      false,
    ]);
    expect((await activeKeys(store)).map((key) => key.id)).toEqual([id]);
    expect(revokeKey(store, "gone")).rejects.toThrow(
      `The key "gone" was revoked on ${revoked.revokedAt!.toISOString()} already.`,
    );
    expect(revokeKey(store, "never")).rejects.toThrow(/There is no key named "never"/);
    expect((await listKeys(store)).find(({ name }) => name === "gone")!.revokedAt).toEqual(revoked.revokedAt);
    await store.close();
  });

  test("remember their latest use", async () => {
    const store = await openStore(await newDatabase());
    const { id } = await createKey(store, "used");
    const used = async () => (await listKeys(store))[0]!.lastUsedAt?.getTime();
    expect(await used()).toBe(undefined);
    for (const [at, latest] of [
      [2000, 2000],
      [1000, 2000],
      [3000, 3000],
    ] as const) {
      await touchKey(store, id, new Date(at));
      expect(await used()).toBe(latest);
    }
    await store.close();
  });

  test("of a running server follow what another process makes and revokes; none left means nobody", async () => {
    const url = await newDatabase();
    const [store, elsewhere] = [await openStore(url), await openStore(url)];
    const { context, get, log } = testServer({ requireKey: true });
    const ring = await KeyRing.open(store, {
      onKeys: (keys) => (context.apiKeys = keys),
      log: (line) => log.push(line),
      refreshMs: 20,
    });
    context.keyUsed = (id) => ring.used(id);
    const status = async (secret: string) => (await get("/v1/models", bearer(secret))).status;
    expect((await get("/v1/models")).status).toBe(401);
    const { secret } = await createKey(elsewhere, "one");
    expect(await until(async () => (await status(secret)) === 200)).toBe(true);
    expect(await status(`${secret}x`)).toBe(401);
    expect(await until(async () => (await listKeys(elsewhere))[0]!.lastUsedAt !== null)).toBe(true);
    await revokeKey(elsewhere, "one");
    expect(await until(async () => (await status(secret)) === 401)).toBe(true);
    expect(context.apiKeys).toEqual([]);
    expect((await get("/v1/models")).status).toBe(401);
    await ring.close();
    await store.close();
    await elsewhere.close();
    expect(log).toEqual([]);
  });
});

describe("a key ring", () => {
  test("writes a key's use once a minute, not once a request", async () => {
    const store = await openStore(join(temporaryFolder("ring"), "k.db"));
    const { id } = await createKey(store, "busy");
    let writes = 0;
    const counted = new Proxy(store, {
      get: (target, name) => {
        if (name === "transaction") writes++;
        const value = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const ring = await KeyRing.open(counted, { onKeys: () => {}, log: () => {} });
    for (let i = 0; i < 1000; i++) ring.used(id);
    ring.used("key_of_somebody_else");
    await ring.close();
    expect(writes).toBe(1);
    expect((await listKeys(store))[0]!.lastUsedAt).not.toBeNull();
    await store.close();
  });

  test("keeps the last keys while the database fails, and says so once", async () => {
    const store = await openStore(join(temporaryFolder("ring"), "k.db"));
    const { id } = await createKey(store, "one");
    let failing = false;
    let reads = 0;
    const broken = new Proxy(store, {
      get: (target, name) => {
        if (name === "read") reads++;
        if (name === "read" && failing) throw new Error("the disk is gone");
        return Reflect.get(target, name, target);
      },
    });
    const log: string[] = [];
    let keys: readonly ActiveKey[] = [];
    const ring = await KeyRing.open(broken, {
      onKeys: (read) => (keys = read),
      log: (line) => log.push(line),
      refreshMs: 5,
    });
    failing = true;
    const before = reads;
    expect(await until(() => reads > before + 3)).toBe(true);
    expect(keys.map((key) => key.id)).toEqual([id]);
    expect(log).toEqual(["The API keys could not be read again, so the last ones hold: the disk is gone"]);
    failing = false;
    expect(await until(() => log.length === 2)).toBe(true);
    await ring.close();
    await store.close();
  });
});

test("a secret is in no file of the database", async () => {
  const folder = temporaryFolder("secret");
  const store = await openStore(join(folder, "k.db"));
  const { id, secret } = await createKey(store, "one");
  const files = () =>
    readdirSync(folder)
      .map((name) => readFileSync(join(folder, name), "latin1"))
      .join("");
  // What is stored is found by the same search, so that not finding the secret means something.
  for (const close of [async () => {}, () => store.close()]) {
    await close();
    expect(files()).toContain(hash(secret).toString("hex"));
    expect(files()).toContain(id);
    expect(files()).not.toContain(secret.slice(9, 24));
  }
});
