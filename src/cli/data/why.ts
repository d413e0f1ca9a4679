/** `koala data why DIR ID`: what became of a raw record. */
import type { Command } from "commander";
import { findDrops, whyText } from "../../data/filters/drops.ts";
import { integer } from "../model_options.ts";

export function registerWhy(data: Command): void {
  data
    .command("why <folder> <id>")
    .description("say why a record is not in the curated data: by its id, its file:line, or a word in it")
    .option("--limit <n>", "records to show", integer(1, 100_000), 20)
    .action(run);
}

async function run(folder: string, id: string, { limit }: { limit: number }): Promise<void> {
  const { drops, total } = await findDrops(folder, id, limit);
  if (total === 0) {
    console.log(`No dropped record of ${folder} has the id ${id} or holds these words.`);
    return;
  }
  console.log(drops.map(whyText).join("\n\n"));
  if (total > drops.length) console.log(`\n${total - drops.length} more; --limit shows them.`);
}
