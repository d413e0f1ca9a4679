/** Which database the verbs use: --database, then $KOALA_DATABASE, then one file in the user's data folder. */
import { homedir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";

export function addDatabaseFlag(command: Command): Command {
  return command.option(
    "--database <url>",
    "SQLite file or postgres:// address (default: $KOALA_DATABASE, else koala/koala.db in the user's data folder)",
  );
}

/** `beside`: the place where neither flag nor variable names one, instead of the user's data folder. */
export function databaseUrl(flag: string | undefined, beside?: string): string {
  const { KOALA_DATABASE, XDG_DATA_HOME } = process.env;
  // Empty variables count as unset, as the XDG base directory specification has it; so do relative folders there.
  const data = XDG_DATA_HOME?.startsWith("/") ? XDG_DATA_HOME : join(homedir(), ".local", "share");
  return flag ?? (KOALA_DATABASE || (beside ?? join(data, "koala", "koala.db")));
}
