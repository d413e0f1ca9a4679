/** The databases that store tests run on: SQLite always, PostgreSQL where it is installed. */
import { afterAll, beforeAll, describe } from "bun:test";
import { join } from "node:path";
import { hasPostgres, type PostgresServer, startPostgres, withoutPostgres } from "./postgres_server.ts";
import { temporaryFolder } from "./temporary.ts";

/** Declares the same tests for both; `newDatabase` gives the address of an empty database. */
export function onEachDatabase(
  name: string,
  tests: (newDatabase: () => Promise<string>, dialect: "sqlite" | "postgres") => void,
): void {
  describe(`${name}, on SQLite`, () => {
    const folder = temporaryFolder("store");
    let made = 0;
    tests(async () => join(folder, `${made++}.db`), "sqlite");
  });
  describe.skipIf(!hasPostgres)(`${name}, on PostgreSQL${hasPostgres ? "" : ` (${withoutPostgres})`}`, () => {
    let server: PostgresServer;
    beforeAll(async () => {
      server = await startPostgres();
    });
    afterAll(() => server?.stop());
    tests(() => server.newDatabase(), "postgres");
  });
}
