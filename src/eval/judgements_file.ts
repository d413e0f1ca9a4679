/** judgements.jsonl: one call of a judge a line, appended as it ends, so that an interrupted run goes on where it stopped. */
import { appendFile, readFile, truncate } from "node:fs/promises";
import { z } from "zod";
import { readJsonLines, toJsonLines } from "./jsonl.ts";
import type { Judgement } from "./study_data.ts";

export const readJudgements = (path: string): Promise<Judgement[]> => readJsonLines(path, schema);

/** As `readJudgements`, after cutting off a last line that a killed run left without its end. */
export async function resumeJudgements(path: string): Promise<Judgement[]> {
  const bytes = await readFile(path);
  const whole = bytes.lastIndexOf(0x0a) + 1;
  if (whole < bytes.length) await truncate(path, whole);
  return readJudgements(path);
}

export const appendJudgement = (path: string, judgement: Judgement): Promise<void> =>
  appendFile(path, toJsonLines([judgement]));

const schema: z.ZodType<Judgement> = z.object({
  question: z.string(),
  set: z.string(),
  systemA: z.string(),
  systemB: z.string(),
  judge: z.string(),
  order: z.enum(["ab", "ba"]),
  verdict: z.enum(["a", "b", "tie", "both_bad"]).nullable(),
  error: z.string().nullable(),
  raw: z.string(),
  fingerprint: z.string(),
  time: z.number(),
});
