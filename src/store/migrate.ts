/** Brings a database to the schema of this program: all missing migrations in one transaction, or none.
 *  drizzle's own migrator looks for what is missing before it takes a lock, so that of two processes that start together
 *  one fails; hence this one, over the same files and a table like drizzle's. */
import { join } from "node:path";
import { readMigrationFiles } from "drizzle-orm/migrator";
import { UsageError } from "../util/errors.ts";
import { rootDirectory } from "../util/self_command.ts";
import type { Backend, Execute } from "./backend.ts";
import { isMissingTable } from "./errors.ts";

/** `name` is the database's for messages. */
export async function migrate(backend: Backend, name: string): Promise<void> {
  const known = readMigrationFiles({ migrationsFolder: join(rootDirectory, "migrations", backend.dialect) });
  const hashes = known.map((migration) => migration.hash);
  // Without a lock first: nothing is missing, nearly always.
  if (missing(hashes, await applied(backend.execute), name) === 0) return;
  await backend.changeSchema(async (execute) => {
    await execute(
      "create table if not exists koala_migrations (step integer primary key, hash text not null)",
    );
    const first = hashes.length - missing(hashes, await applied(execute), name);
    for (const [step, migration] of known.entries()) {
      if (step < first) continue;
      for (const statement of migration.sql) await execute(statement);
      await execute(`insert into koala_migrations (step, hash) values (${step}, '${migration.hash}')`);
    }
  });
}

/** Hashes of the migrations that the database has seen, in order. */
async function applied(execute: Execute): Promise<string[]> {
  try {
    return (await execute("select hash from koala_migrations order by step")).map(({ hash }) => String(hash));
  } catch (error) {
    if (isMissingTable(error)) return [];
    throw error;
  }
}

/** How many of the known migrations the database lacks. */
function missing(known: string[], seen: string[], name: string): number {
  if (seen.slice(0, known.length).some((hash, step) => hash !== known[step]))
    throw new UsageError(`The tables of ${name} were made by another line of Koala. Name another database.`);
  if (seen.length > known.length)
    throw new UsageError(
      `The tables of ${name} are newer than this program (${seen.length} migrations, it knows ${known.length}). Run the newer Koala, or name another database.`,
    );
  return known.length - seen.length;
}
