/** `koala study …`: blind comparisons of systems, one subcommand a file. */
import type { Command } from "commander";
import { register as registerExport } from "./study/export.ts";
import { register as registerInvite } from "./study/invite.ts";
import { register as registerServe } from "./study/serve.ts";

export function register(program: Command): void {
  const study = program
    .command("study")
    .description("compare systems blind: rating page, invitations, votes");
  for (const registerIn of [registerServe, registerInvite, registerExport]) registerIn(study);
}
