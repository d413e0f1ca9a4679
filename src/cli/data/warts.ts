/** `koala data warts`: where Koala's own data and training differ from ours, by the names that recipes use. */
import type { Command } from "commander";
import { warts } from "../../data/warts.ts";

export function registerWarts(data: Command): void {
  data
    .command("warts")
    .description('list what compat = "koala" repeats of the original; [warts] of a recipe switches each')
    .action(() => {
      const width = Math.max(...Object.keys(warts).map((name) => name.length));
      for (const [name, about] of Object.entries(warts)) console.log(`${name.padEnd(width)}  ${about}`);
    });
}
