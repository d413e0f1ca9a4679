/** `koala study …`: blind comparisons of systems, one subcommand a file. */
import type { Command } from "commander";
import { register as registerExport } from "./study/export.ts";
import { register as registerInvite } from "./study/invite.ts";
import { registerRun } from "./study/run.ts";
import { register as registerServe } from "./study/serve.ts";

export function register(program: Command): void {
  const study = program
    .command("study")
    .description("curate, train and compare systems blind, in one command or stage by stage");
  for (const registerIn of [registerRun, registerServe, registerInvite, registerExport]) registerIn(study);
}
