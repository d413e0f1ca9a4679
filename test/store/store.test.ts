import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { explained, isUniqueViolation } from "../../src/store/errors.ts";
import { activeKeys, createKey, listKeys } from "../../src/store/keys.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { onEachDatabase } from "../support/stores.ts";
import { temporaryFolder } from "../support/temporary.ts";

const child = join(import.meta.dir, "..", "support", "store_child.ts");
const row = (name: string) => ({
  id: name,
  name,
  sha256: name,
  prefix: "abcdef",
  createdAt: new Date(1_700_000_000_123),
});
const names = async (store: Store) => (await listKeys(store)).map((key) => key.name).sort();

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("it succeeded");
}

/** How many migrations this program has. */
const known = [...new Bun.Glob("*.sql").scanSync(join(import.meta.dir, "../../migrations/sqlite"))].length;

onEachDatabase("a store", (newDatabase, dialect) => {
  test("rolls back what an async function wrote before it threw, and passes the error on", async () => {
    const store = await openStore(await newDatabase());
    const { apiKeys } = store.tables;
    const thrown = new Error("after the write");
    const work = store.transaction(async (tx) => {
      await tx.insert(apiKeys).values(row("lost"));
      await Bun.sleep(5);
      expect(await tx.select().from(apiKeys)).toHaveLength(1);
      throw thrown;
    });
    expect(await failure(work)).toBe(thrown);
    expect(await names(store)).toEqual([]);
    await store.close();
  });

  test("of 20 concurrent transactions keeps exactly those that resolve", async () => {
    const url = await newDatabase();
    const store = await openStore(url);
    const { apiKeys } = store.tables;
    const settled = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) =>
        store.transaction(async (tx) => {
          await tx.insert(apiKeys).values(row(`k${i}`));
          await Bun.sleep(2);
          if (i % 2 === 1) throw new Error("odd");
          return i;
        }),
      ),
    );
    expect(settled.filter(({ status }) => status === "fulfilled")).toHaveLength(10);
    await store.close();
    const again = await openStore(url);
    expect(await names(again)).toEqual(Array.from({ length: 10 }, (_, i) => `k${i * 2}`).sort());
    await again.close();
  });

  test("shows readers nothing of an open transaction", async () => {
    const store = await openStore(await newDatabase());
    await store.transaction(async (tx) => {
      await tx.insert(store.tables.apiKeys).values(row("unseen"));
      expect(await names(store)).toEqual([]);
    });
    expect(await names(store)).toEqual(["unseen"]);
    await store.close();
  });

  test("gives times back to the millisecond, and null where there is none", async () => {
    const store = await openStore(await newDatabase());
    await store.transaction(async (tx) => void (await tx.insert(store.tables.apiKeys).values(row("timed"))));
    const [found] = await store.read.select().from(store.tables.apiKeys);
    expect(found).toEqual({ ...row("timed"), revokedAt: null, lastUsedAt: null });
    await store.close();
  });

  test("refuses a nested transaction instead of waiting for ever, and a transaction's handle after its end", async () => {
    const store = await openStore(await newDatabase());
    expect((await failure(store.transaction(() => store.transaction(async () => 1)))).message).toMatch(
      /not nested/,
    );
    let kept: unknown;
    await store.transaction(async (tx) => void (kept = tx));
    expect(() => (kept as { select(): unknown }).select()).toThrow(TypeError);
    // Side by side is no nesting.
    expect(await Promise.all([1, 2].map((n) => store.transaction(async () => n)))).toEqual([1, 2]);
    await store.close();
    expect((await failure(store.transaction(async () => 1))).message).toMatch(/the store is open/);
  });

  test("knows a unique violation from other errors", async () => {
    const store = await openStore(await newDatabase());
    const insert = () =>
      store.transaction(async (tx) => void (await tx.insert(store.tables.apiKeys).values(row("twice"))));
    await insert();
    expect(isUniqueViolation(await failure(insert()))).toBe(true);
    expect(isUniqueViolation(new Error("other"))).toBe(false);
    await store.close();
  });

  // A new PostgreSQL database takes a quarter of a second.
  const rounds = dialect === "sqlite" ? 12 : 3;

  test(`is opened for the first time by two processes at once, ${rounds} times`, async () => {
    const urls: string[] = [];
    for (let round = 0; round < rounds; round++) urls.push(await newDatabase());
    const children = ["a", "b"].map((name) => lineProcess([child, "open", name]));
    for (const { next } of children) expect(await next()).toBe("ready");
    for (const url of urls) {
      for (const { send } of children) send(url);
      expect(await Promise.all(children.map(({ next }) => next()))).toEqual(["done", "done"]);
      const store = await openStore(url);
      expect(await names(store)).toEqual(["a", "b"]);
      await store.close();
    }
    for (const { end } of children) expect(await end()).toBe(0);
  }, 30_000);

  test("keeps every acknowledged row when the writer is killed with SIGKILL", async () => {
    const url = await newDatabase();
    const acknowledged = new Set<string>();
    for (const name of ["a", "b", "c"]) {
      const writer = Bun.spawn([process.execPath, child, "write", name, url], {
        stdin: "ignore",
        stdout: "pipe",
        stderr: "inherit",
      });
      let text = "";
      for await (const chunk of writer.stdout.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        if (text.split("\n").length > 40) writer.kill("SIGKILL");
      }
      expect(await writer.exited).toBe(137);
      for (const id of text.split("\n").slice(0, -1)) acknowledged.add(id);
    }
    const store = await openStore(url);
    const kept = new Set((await activeKeys(store)).map((key) => key.id));
    expect(acknowledged.size).toBeGreaterThanOrEqual(120);
    expect([...acknowledged].filter((id) => !kept.has(id))).toEqual([]);
    await store.close();
  }, 30_000);

  test("refuses tables that a newer program made, and those of another line", async () => {
    const url = await newDatabase();
    await (await openStore(url)).close();
    const sql = (text: string) => execute(url, text);
    await sql(`insert into koala_migrations (step, hash) values (${known}, 'of the future')`);
    expect((await failure(openStore(url))).message).toMatch(
      `newer than this program (${known + 1} migrations, it knows ${known}). Run the newer`,
    );
    await sql(`delete from koala_migrations where step = ${known}`);
    await sql("update koala_migrations set hash = 'other'");
    expect((await failure(openStore(url))).message).toMatch(/another line of Koala/);
  });

  if (dialect === "postgres")
    test("names a database that the server does not have", async () => {
      const url = new URL(await newDatabase());
      url.pathname = "/nothing";
      expect((await failure(openStore(url.href))).message).toMatch(
        /\/nothing refuses: database "nothing" does not exist \(SQLSTATE 3D000\)/,
      );
    });
});

/** A process that is spoken to in lines. */
function lineProcess(args: string[]) {
  const process_ = Bun.spawn([process.execPath, ...args], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const output = process_.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  return {
    send: (line: string) => {
      process_.stdin.write(`${line}\n`);
      void process_.stdin.flush();
    },
    /** The next line of its output; "" when it has ended. */
    next: async (): Promise<string> => {
      while (!text.includes("\n")) {
        const { value, done } = await output.read();
        if (done) return "";
        text += value;
      }
      const line = text.slice(0, text.indexOf("\n"));
      text = text.slice(line.length + 1);
      return line;
    },
    end: async (): Promise<number> => {
      await process_.stdin.end();
      return process_.exited;
    },
  };
}

async function execute(url: string, text: string): Promise<void> {
  if (!url.startsWith("postgres:")) {
    const file = new Database(url);
    file.exec(text);
    return file.close();
  }
  const client = new Bun.SQL({ url, max: 1 });
  await client.unsafe(text);
  await client.close();
}

describe("a SQLite file", () => {
  const folder = temporaryFolder("sqlite");
  const mode = (path: string) => (statSync(path).mode & 0o777).toString(8);

  test("and its folder belong to their owner alone", async () => {
    const path = join(folder, "new", "deep", "koala.db");
    const store = await openStore(path);
    await createKey(store, "one");
    expect([
      mode(join(folder, "new")),
      mode(join(folder, "new", "deep")),
      mode(path),
      mode(`${path}-wal`),
    ]).toEqual(["700", "700", "600", "600"]);
    await store.close();
  });

  test("is written in a transaction only: the reader's connection refuses", async () => {
    const store = await openStore(join(folder, "reader.db"));
    // As if the types were ignored.
    const reader = store.read as unknown as {
      insert(table: unknown): { values(row: unknown): { run(): void } };
    };
    expect(() => reader.insert(store.tables.apiKeys).values(row("x")).run()).toThrow(/readonly/);
    await store.close();
  });

  test("that is no database, or another program's, is refused with a sentence and left as it was", async () => {
    const text = join(folder, "text.db");
    writeFileSync(text, "hello");
    expect((await failure(openStore(text))).message).toBe(`${text} is not a database. Name another file.`);
    expect(readFileSync(text, "utf8")).toBe("hello");
    const foreign = join(folder, "foreign.db");
    await execute(foreign, "create table theirs (n integer)");
    const before = readFileSync(foreign);
    expect((await failure(openStore(foreign))).message).toBe(
      `${foreign} is the database of another program. Name another file for Koala's.`,
    );
    expect(readFileSync(foreign).equals(before)).toBe(true);
  });

  test("that cannot be opened is refused with a sentence", async () => {
    const directory = join(folder, "directory.db");
    mkdirSync(directory);
    for (const path of [directory, join(folder, "text.db", "koala.db")]) {
      const error = await failure(openStore(path));
      expect([error.name, error.message]).toEqual([
        "UsageError",
        `${path} cannot be opened as a database: it must be a file, or its folder one that can be made.`,
      ]);
    }
    for (const url of ["", ":memory:", "mysql://user:secret@host/db", "file:x.db", "postgres://"]) {
      const error = await failure(openStore(url));
      expect([error.name, error.message.includes("secret")]).toEqual(["UsageError", false]);
    }
  });

  test("that is locked is waited for while the event loop goes on", async () => {
    const path = join(folder, "locked.db");
    const store = await openStore(path);
    const other = new Database(path);
    other.exec("begin immediate");
    // The timer can only release the lock if waiting for it does not stop the loop.
    setTimeout(() => other.exec("rollback"), 200);
    const { id } = await createKey(store, "late");
    expect((await activeKeys(store)).map((key) => key.id)).toEqual([id]);
    other.close();
    await store.close();
  });

  test("that stays locked is named in a sentence", () => {
    const path = join(folder, "held.db");
    const [one, two] = [new Database(path), new Database(path)];
    one.exec("begin immediate");
    let busy: unknown;
    try {
      two.exec("begin immediate");
    } catch (error) {
      busy = error;
    }
    expect((explained(busy, path) as Error).message).toBe(
      `The database ${path} is locked by another process. Wait until that process is done, then try again.`,
    );
    one.close();
    two.close();
  });

  test("keeps the rows that refer to a table when a migration rebuilds it", async () => {
    const { openSqlite } = await import("../../src/store/sqlite.ts");
    const backend = await openSqlite(join(folder, "rebuilt.db"));
    await backend.changeSchema(async (run) => {
      await run("create table a (id integer primary key)");
      await run("create table b (a_id integer references a(id) on delete cascade)");
      await run("insert into a values (1)");
      await run("insert into b values (1)");
    });
    await backend.changeSchema(async (run) => {
      await run("create table __new_a (id integer primary key, more text)");
      await run("insert into __new_a (id) select id from a");
      await run("drop table a");
      await run("alter table __new_a rename to a");
    });
    expect(await backend.execute("select a_id from b")).toEqual([{ a_id: 1 }]);
    expect(await backend.execute("pragma foreign_keys")).toEqual([{ foreign_keys: 1 }]);
    await backend.close();
  });
});

test("a PostgreSQL server that does not answer is named without the password", async () => {
  const error = await failure(openStore("postgres://koala:secret@127.0.0.1:9/koala"));
  expect(error.message).toBe(
    "postgres://127.0.0.1:9/koala cannot be reached: Failed to connect. Check the address and that a PostgreSQL server runs there.",
  );
});
