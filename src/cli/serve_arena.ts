/** `koala serve --arena`: blind battles between the served models, with their votes in a database. */
import type { ServerContext } from "../server/context.ts";
import { loadArenaPages } from "../server/web/arena/pages.ts";
import { openStore } from "../store/store.ts";
import { databaseUrl } from "./database_option.ts";

export async function serveArena(
  context: ServerContext,
  database: string | undefined,
): Promise<{ close(): Promise<void> }> {
  const store = await openStore(databaseUrl(database));
  if (context.models.list().length < 2)
    process.stderr.write("koala: the arena needs two models, and one is served: it waits for another.\n");
  context.arena = store;
  context.pages = { ...context.pages, ...Object.fromEntries(await loadArenaPages()) };
  return store;
}
