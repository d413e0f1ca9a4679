/** `koala study verify DIR`: whether a finished study is what its SHA256SUMS says, and its figures what its votes say. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { computeResults, type Results } from "../../eval/report/results.ts";
import { readStudy } from "../../eval/study_files.ts";
import { hashFile } from "../../text/fingerprint.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";

/** One sentence. Throws a UsageError that names every file or figure that is not what it was. */
export async function verifyStudy(folder: string): Promise<string> {
  const path = join(folder, "SHA256SUMS");
  if (!existsSync(path)) throw new UsageError(`${folder} has no SHA256SUMS: the study is not finished.`);
  const lines = (await readFile(path, "utf8")).split("\n").filter((line) => line !== "");
  if (lines.length === 0) throw new UsageError(`${path} names no file: it was emptied, and proves nothing.`);
  const faults: string[] = [];
  const progress = new Progress("items");
  for (const [i, line] of lines.entries()) {
    const [, sha256, name] = /^([0-9a-f]{64}) [ *](.+)$/.exec(line) ?? [];
    if (sha256 === undefined || name === undefined)
      throw new UsageError(`${path} line ${i + 1} is not a hash and a name.`);
    const found = await hashFile(join(folder, name)).catch(() => null);
    if (found === null) faults.push(`${name} is missing`);
    else if (found !== sha256) faults.push(`${name} was changed`);
    progress.update("hashing", i + 1, lines.length);
  }
  if (faults.length === 0) faults.push(...(await differences(folder)));
  if (faults.length > 0) throw new UsageError(`${folder} is not as it was made: ${faults.join("; ")}.`);
  return `${folder}: ${lines.length} files are as they were made, and the report's figures follow from the votes.`;
}

/** Parts of results.json that are not what the votes give today. */
async function differences(folder: string): Promise<string[]> {
  const stored = (await Bun.file(join(folder, "report", "results.json")).json()) as Results;
  const computed = computeResults(await readStudy(folder), {
    draws: stored.draws,
    criterion: stored.criterion,
  });
  const names = new Set([...Object.keys(stored), ...Object.keys(computed)]) as Set<keyof Results>;
  return [...names]
    .filter((name) => JSON.stringify(stored[name]) !== JSON.stringify(computed[name]))
    .map((name) => `${name} of report/results.json does not follow from the votes`);
}
