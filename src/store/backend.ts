/** What a dialect provides and the store builds on: one connection to read, one transaction at a time to write. */
import type { BunSQLiteDatabase } from "drizzle-orm/bun-sqlite";
import type { Tables } from "./schema.ts";

/** Queries outside transactions see what is committed, and cannot write. */
export type Reader = Pick<BunSQLiteDatabase, "select" | "selectDistinct" | "$count">;

/** drizzle's database without its own `transaction`, which on SQLite commits what an async function wrote before it threw. */
export type Writer = Pick<
  BunSQLiteDatabase,
  "select" | "selectDistinct" | "$count" | "insert" | "update" | "delete"
>;

export interface Backend {
  dialect: "sqlite" | "postgres";
  tables: Tables;
  read: Reader;
  /** Commits when `work` resolves, rolls back when it rejects; knows nothing of nesting. */
  transaction<T>(work: (tx: Writer) => Promise<T>): Promise<T>;
  /** A transaction for statements that change tables; one process at a time. */
  changeSchema<T>(work: (execute: Execute) => Promise<T>): Promise<T>;
  /** Outside any transaction. */
  execute: Execute;
  /** After the transactions that run. */
  close(): Promise<void>;
}

/** Runs one SQL statement and gives its rows. */
export type Execute = (statement: string) => Promise<Record<string, unknown>[]>;
