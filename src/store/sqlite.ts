/** A SQLite file as backend: one connection that writes, one that reads.
 *  Always: a commit that was acknowledged survives kill -9; readers never see an open transaction; the file is its owner's alone.
 *  The event loop waits at most `busyStepMs` for another process's transaction. */
import { Database } from "bun:sqlite";
import { closeSync, constants, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { drizzle } from "drizzle-orm/bun-sqlite";
import { UsageError } from "../util/errors.ts";
import type { Backend, Execute, Writer } from "./backend.ts";
import { hasCode } from "./errors.ts";
import { sqliteTables } from "./schema.ts";

/** How long a transaction waits for those of other processes. */
const busyMs = 5000;
const busyStepMs = 5;

/** "koal", in the file's header: by it a database of another program is known before anything is written to it. */
const applicationId = 0x6b6f616c;

export async function openSqlite(path: string): Promise<Backend> {
  createPrivately(path);
  const writer = connect(path);
  try {
    checkOwner(writer, path);
    await patiently(writer, "pragma journal_mode = wal");
    writer.exec("pragma synchronous = normal; pragma foreign_keys = on");
    const reader = connect(path);
    reader.exec("pragma query_only = on");
    return backend(writer, reader);
  } catch (error) {
    writer.close();
    throw error;
  }
}

function connect(path: string): Database {
  const database = new Database(path, { readwrite: true, strict: true });
  // Before anything else: without it, whatever meets another process's lock fails at once.
  database.exec(`pragma busy_timeout = ${busyMs}`);
  return database;
}

function backend(writer: Database, reader: Database): Backend {
  const db = drizzle({ client: writer });
  const execute: Execute = async (statement) => writer.prepare(statement).all() as Record<string, unknown>[];
  let last: Promise<unknown> = Promise.resolve();

  /** One connection holds one transaction: they queue. */
  function transaction<T>(work: (tx: Writer) => Promise<T>): Promise<T> {
    const run = last.then(async () => {
      // Takes the write lock now: a transaction that reads first and locks later can fail when it writes.
      await patiently(writer, "begin immediate");
      try {
        const result = await work(db);
        writer.exec("commit");
        return result;
      } catch (error) {
        // A full disk ends the transaction by itself.
        if (writer.inTransaction) writer.exec("rollback");
        throw error;
      }
    });
    last = run.catch(() => {});
    return run;
  }

  return {
    dialect: "sqlite",
    tables: sqliteTables,
    read: drizzle({ client: reader }),
    transaction,
    changeSchema: async (work) => {
      // SQLite changes a column by copying the table and dropping the old one; with foreign keys on, the drop would
      // delete the rows that refer to it. The pragma has no effect inside a transaction.
      writer.exec("pragma foreign_keys = off");
      try {
        return await transaction(async () => {
          writer.exec(`pragma application_id = ${applicationId}`);
          return work(execute);
        });
      } finally {
        writer.exec("pragma foreign_keys = on");
      }
    },
    execute,
    close: async () => {
      await last;
      reader.close();
      writer.close();
    },
  };
}

/** Tries until the locks of other processes are gone. SQLite's own waiting would stop the event loop, and it does not wait
 *  at all where two processes switch a new file to WAL together: each holds a lock that the other waits for. */
async function patiently(database: Database, statement: string): Promise<void> {
  const deadline = performance.now() + busyMs;
  database.exec(`pragma busy_timeout = ${busyStepMs}`);
  try {
    while (!tryOnce(database, statement, deadline)) await Bun.sleep(5 + Math.random() * 10);
  } finally {
    database.exec(`pragma busy_timeout = ${busyMs}`);
  }
}

function tryOnce(database: Database, statement: string, deadline: number): boolean {
  try {
    database.exec(statement);
    return true;
  } catch (error) {
    if (!hasCode(error, "SQLITE_BUSY") || performance.now() > deadline) throw error;
    return false;
  }
}

/** Only where there is none: opening and closing the file of a connection in this process would drop its locks. */
function createPrivately(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    closeSync(openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_RDWR, 0o600));
  } catch (error) {
    if (!hasCode(error, "EEXIST")) throw error;
  }
}

function checkOwner(database: Database, path: string): void {
  // One statement, one snapshot: another process may be creating the tables right now.
  const { id, tables } = database
    .query(
      "select application_id as id, (select count(*) from sqlite_master) as tables from pragma_application_id",
    )
    .get() as { id: number; tables: number };
  if (id === applicationId || (id === 0 && tables === 0)) return;
  throw new UsageError(`${path} is the database of another program. Name another file for Koala's.`);
}
