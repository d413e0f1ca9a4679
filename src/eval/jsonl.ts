/** JSON lines on disk, checked row by row: every complaint names the file and the line. */
import { readFile } from "node:fs/promises";
import type { z } from "zod";
import { UsageError } from "../util/errors.ts";

/** One value a line; empty lines are skipped. */
export async function readJsonLines<T>(path: string, schema: z.ZodType<T>): Promise<T[]> {
  const lines = (await readFile(path, "utf8")).split("\n");
  return lines.flatMap((line, index) =>
    line.trim() === "" ? [] : [parseJson(line, schema, `${path} line ${index + 1}`)],
  );
}

/** Checks `text` against the schema; `place` starts the sentence when it fails. */
export function parseJson<T>(text: string, schema: z.ZodType<T>, place: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${place} is not JSON (${(error as Error).message}); mend or remove it.`);
  }
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0]!;
  const field = issue.path.length === 0 ? "the value" : `"${issue.path.join(".")}"`;
  if (issue.message.endsWith("received undefined")) throw new UsageError(`${place}: ${field} is missing.`);
  throw new UsageError(`${place}: ${field} is wrong: ${issue.message}.`);
}

export const toJsonLines = (rows: readonly unknown[]): string =>
  rows.map((row) => `${JSON.stringify(row)}\n`).join("");
