/** Labelled texts for the linear classifier: JSON lines in the shape of OpenAI's moderation-api-release,
 *  {"prompt", "S", "H", "V", "HR", "SH", "S3", "H2", "V2"}. Always: a label that is missing is unknown, not 0. */
import { z } from "zod";
import { UsageError } from "../../util/errors.ts";
import { readJsonLines } from "../jsonl.ts";
import { letters, type Letter } from "./categories.ts";

export interface Sample {
  text: string;
  /** In the order of `labelled`: 1, 0, or null where nobody has judged it. */
  labels: (0 | 1 | null)[];
}

const label = z.union([z.literal(0), z.literal(1)]).nullish();
const names = Object.keys(letters) as Letter[];
const rowSchema = z.object({
  prompt: z.string(),
  ...(Object.fromEntries(names.map((name) => [name, label])) as Record<Letter, typeof label>),
});

export async function readSamples(path: string): Promise<Sample[]> {
  const rows = await readJsonLines(path, rowSchema).catch((error: unknown) => {
    if ((error as { code?: string }).code !== "ENOENT") throw error;
    throw new UsageError(`${path} does not exist. Name a file of labelled texts as JSON lines.`);
  });
  if (rows.length < 50)
    throw new UsageError(`${path} has ${rows.length} samples; at least 50 are needed to measure anything.`);
  if (!rows.some((row) => names.some((name) => row[name] === 1)))
    throw new UsageError(
      `${path} has no sample with a label of 1 (${names.join(", ")}), so there is nothing to tell apart.`,
    );
  return rows.map((row) => ({ text: row.prompt, labels: names.map((name) => row[name] ?? null) }));
}
