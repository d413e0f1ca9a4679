/** The report's folder: index.html, results.json and results.csv. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { StudyData } from "../study_data.ts";
import { resultsCsv } from "./csv.ts";
import { reportPage } from "./page.ts";
import type { Results } from "./results.ts";

/** Returns the paths written. The same data give the same bytes. */
export async function writeReport(results: Results, data: StudyData, directory: string): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const files: [string, string][] = [
    ["index.html", reportPage(results, data)],
    ["results.json", `${JSON.stringify(results, null, 2)}\n`],
    ["results.csv", resultsCsv(results)],
  ];
  for (const [name, text] of files) await writeFile(join(directory, name), text);
  return files.map(([name]) => join(directory, name));
}
