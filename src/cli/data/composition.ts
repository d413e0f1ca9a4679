/** `koala data composition DIR`: the table of a curated mixture. */
import { join } from "node:path";
import type { Command } from "commander";
import { totalRow, type Composition } from "../../data/composition.ts";
import { compositionText } from "../../data/composition_page.ts";
import { isObject, readJsonObject } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";

export function registerComposition(data: Command): void {
  data
    .command("composition <folder>")
    .description("print what a curated mixture consists of, a row a source")
    .option("--json", "print the figures as JSON")
    .action(run);
}

async function run(folder: string, { json }: { json?: boolean }): Promise<void> {
  const path = join(folder, "composition.json");
  const read = await readJsonObject(path);
  if (read === null)
    throw new UsageError(
      `${folder} has no composition.json: koala data curate RECIPE --out ${folder} makes it.`,
    );
  if (!Array.isArray(read.rows) || !read.rows.every((row) => isObject(row) && "trainedTokens" in row))
    throw new UsageError(`${path} is no composition: koala data curate RECIPE --out ${folder} makes one.`);
  const composition = read as unknown as Composition;
  const { rows } = composition;
  console.log(
    json ? JSON.stringify({ ...composition, all: totalRow(rows) }, null, 2) : compositionText(composition),
  );
}
