/** For `bunx --bun drizzle-kit generate --config migrations/sqlite.config.ts`, which writes the next migration for SQLite. */
import { defineConfig } from "drizzle-kit";

export default defineConfig({
  dialect: "sqlite",
  schema: "./migrations/sqlite.tables.ts",
  out: "./migrations/sqlite",
});
