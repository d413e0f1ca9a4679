/** For `bunx --bun drizzle-kit generate --config migrations/postgres.config.ts`, which writes the next migration for PostgreSQL. */
import { defineConfig } from "drizzle-kit";

export default defineConfig({
  dialect: "postgresql",
  schema: "./migrations/postgres.tables.ts",
  out: "./migrations/postgres",
});
