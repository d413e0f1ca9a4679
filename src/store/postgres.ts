/** PostgreSQL as backend, over Bun's own driver: a pool of connections that the servers of one installation share. */
import { SQL } from "bun";
import { sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/bun-sql";
import type { Backend, Writer } from "./backend.ts";
import { postgresTables } from "./schema.ts";

const connectSeconds = 10;

/** "koal": the advisory lock under which tables change. */
const schemaLock = 0x6b6f616c;

/** Connects with the first statement. */
export function openPostgres(url: string): Backend {
  const client = new SQL({ url, connectionTimeout: connectSeconds });
  const db = drizzle({ client });
  return {
    dialect: "postgres",
    tables: postgresTables,
    // As in schema.ts: the same methods, other types.
    read: db as unknown as Writer,
    transaction: (work) => db.transaction((tx) => work(tx as unknown as Writer)),
    changeSchema: (work) =>
      db.transaction(async (tx) => {
        // "create … if not exists" is no protection: two that run together can both find nothing, and one fails.
        await tx.execute(sql`select pg_advisory_xact_lock(${sql.raw(String(schemaLock))})`);
        return work(async (statement) => [...(await tx.execute(sql.raw(statement)))]);
      }),
    execute: async (statement) => [...(await db.execute(sql.raw(statement)))],
    close: () => client.close(),
  };
}
