import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  generateDrizzleJson,
  generateMigration,
  generateSQLiteDrizzleJson,
  generateSQLiteMigration,
} from "drizzle-kit/api";
import { integer, sqliteTable } from "drizzle-orm/sqlite-core";
import { getTableColumns, getTableName } from "drizzle-orm";
import { Database } from "bun:sqlite";
import { openStore } from "../../src/store/store.ts";
import { postgresTables, sqliteTables } from "../../src/store/schema.ts";
import { temporaryFolder } from "../support/temporary.ts";

// drizzle-kit adds methods to every array where loops over keys see them; other tests run in this process.
for (const name in []) delete (Array.prototype as unknown as Record<string, unknown>)[name];

const migrations = join(import.meta.dir, "..", "..", "migrations");
const read = (path: string) => JSON.parse(readFileSync(join(migrations, path), "utf8"));

/** What drizzle-kit noted of the tables after the last migration. */
function lastSnapshot(dialect: string) {
  const { entries } = read(`${dialect}/meta/_journal.json`) as { entries: { idx: number }[] };
  return read(`${dialect}/meta/${String(entries.at(-1)!.idx).padStart(4, "0")}_snapshot.json`);
}

const sqliteChanges = async (tables: Record<string, unknown>): Promise<string[]> =>
  generateSQLiteMigration(lastSnapshot("sqlite"), await generateSQLiteDrizzleJson(tables));

describe("the schema", () => {
  test("needs no further migration: drizzle-kit finds no change, on either database", async () => {
    expect(await sqliteChanges(sqliteTables)).toEqual([]);
    expect(await generateMigration(lastSnapshot("postgres"), generateDrizzleJson(postgresTables))).toEqual(
      [],
    );
  });

  test("would need one for a new table, so that the comparison can fail", async () => {
    const changes = await sqliteChanges({
      ...sqliteTables,
      extra: sqliteTable("extra", { n: integer("n") }),
    });
    expect(changes.join()).toMatch(/CREATE TABLE `extra`/);
  });

  test("has the tables and columns that a migrated file has", async () => {
    const path = join(temporaryFolder("schema"), "k.db");
    await (await openStore(path)).close();
    const file = new Database(path);
    const made = file.query("select name from sqlite_master where type = 'table'").values().flat().sort();
    expect(made).toEqual([...Object.values(sqliteTables).map(getTableName), "koala_migrations"].sort());
    for (const table of Object.values(sqliteTables)) {
      const query = file.query(`select name, type, "notnull", pk from pragma_table_info(?)`);
      const declared = Object.values(getTableColumns(table)).map((column) => ({
        name: column.name,
        type: column.getSQLType().toUpperCase(),
        notnull: Number(column.notNull),
        pk: Number(column.primary),
      }));
      expect(query.all(getTableName(table))).toEqual(declared);
    }
    file.close();
  });

  test("has as many migrations for one database as for the other", () => {
    const tags = (dialect: string) =>
      read(`${dialect}/meta/_journal.json`).entries.map(({ tag }: { tag: string }) => tag);
    expect(tags("sqlite")).toEqual(tags("postgres"));
  });
});
