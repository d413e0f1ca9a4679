/** `koala data composition DIR`: the table of a curated mixture. */
import { join } from "node:path";
import type { Command } from "commander";
import { totalRow, type Composition } from "../../data/composition.ts";
import { compositionText } from "../../data/composition_page.ts";
import { UsageError } from "../../util/errors.ts";

export function registerComposition(data: Command): void {
  data
    .command("composition <folder>")
    .description("print what a curated mixture consists of, a row a source")
    .option("--json", "print the figures as JSON")
    .action(run);
}

async function run(folder: string, { json }: { json?: boolean }): Promise<void> {
  const file = Bun.file(join(folder, "composition.json"));
  if (!(await file.exists()))
    throw new UsageError(
      `${folder} has no composition.json: koala data curate RECIPE --out ${folder} makes it.`,
    );
  const composition = (await file.json()) as Composition;
  const { rows } = composition;
  console.log(
    json ? JSON.stringify({ ...composition, all: totalRow(rows) }, null, 2) : compositionText(composition),
  );
}
