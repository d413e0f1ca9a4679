/** `koala eval`: measures models and studies. One file a subcommand, in src/cli/eval/. */
import type { Command } from "commander";
import { registerPerplexity } from "./eval/perplexity.ts";
import { registerPower } from "./eval/power.ts";
import { registerPreferences } from "./eval/preferences.ts";
import { registerReport } from "./eval/report.ts";
import { registerSimulate } from "./eval/simulate.ts";
import { registerTasks } from "./eval/tasks.ts";

export function register(program: Command): void {
  const verb = program.command("eval").description("measure models, and analyse blind comparisons");
  registerReport(verb);
  registerPower(verb);
  registerSimulate(verb);
  registerPerplexity(verb);
  registerTasks(verb);
  registerPreferences(verb);
}
