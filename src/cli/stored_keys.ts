/** `koala serve --keys`: the keys that `koala keys` made, on a server that runs. */
import type { ServerContext } from "../server/context.ts";
import { KeyRing } from "../store/key_ring.ts";
import { openStore } from "../store/store.ts";
import { databaseUrl } from "./database_option.ts";

/** Adds the database's keys to those that the context has, and keeps them current until `close`. */
export async function acceptStoredKeys(
  context: ServerContext,
  database: string | undefined,
): Promise<{ close(): Promise<void> }> {
  const given = context.apiKeys;
  const store = await openStore(databaseUrl(database));
  try {
    const ring = await KeyRing.open(store, {
      onKeys: (keys) => (context.apiKeys = [...given, ...keys]),
      log: (line) => console.error(`koala: ${line}`),
    });
    context.requireKey = true;
    context.keyUsed = (id) => ring.used(id);
    if (context.apiKeys.length === 0)
      console.error(
        `koala: ${store.name} holds no valid key: every request is refused until koala keys create NAME makes one.`,
      );
    return { close: () => ring.close().then(() => store.close()) };
  } catch (error) {
    await store.close();
    throw error;
  }
}
