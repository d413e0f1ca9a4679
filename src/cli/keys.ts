/** `koala keys create NAME | list | revoke NAME`: API keys for `koala serve --keys`. A secret is printed once, on stdout. */
import type { Command } from "commander";
import { createKey, listKeys, revokeKey, type StoredKey } from "../store/keys.ts";
import { openStore, type Store } from "../store/store.ts";
import { addDatabaseFlag, databaseUrl } from "./database_option.ts";

interface KeysFlags {
  database?: string;
}

export function register(program: Command): void {
  const keys = program.command("keys").description("make, list and revoke API keys for koala serve --keys");
  addDatabaseFlag(
    keys.command("create <name>").description("make a key and print it, this once, on stdout"),
  ).action(create);
  addDatabaseFlag(keys.command("list").description("list all keys, revoked ones too"))
    .option("--json", "print one JSON array instead of a table")
    .action(list);
  addDatabaseFlag(
    keys.command("revoke <name>").description("make a key invalid, also on servers that run"),
  ).action(revoke);
}

async function create(name: string, flags: KeysFlags): Promise<void> {
  const { id, secret } = await withStore(flags, (store) => createKey(store, name));
  console.log(secret);
  // On stderr, so that KEY=$(koala keys create ...) holds the key alone.
  console.error(
    `${name} is ${id}. The key is not stored and cannot be shown again; clients send it as "Authorization: Bearer KEY".`,
  );
}

async function list(flags: KeysFlags & { json?: boolean }): Promise<void> {
  const keys = await withStore(flags, listKeys);
  if (flags.json) console.log(JSON.stringify(keys, null, 2));
  else if (keys.length === 0) console.log("There are no keys. koala keys create NAME makes one.");
  else console.log(table(keys));
}

async function revoke(name: string, flags: KeysFlags): Promise<void> {
  const { id } = await withStore(flags, (store) => revokeKey(store, name));
  console.log(`${name} (${id}) is revoked. Servers that run refuse it within seconds.`);
}

async function withStore<T>(flags: KeysFlags, work: (store: Store) => Promise<T>): Promise<T> {
  const store = await openStore(databaseUrl(flags.database));
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}

function table(keys: StoredKey[]): string {
  const rows = keys.map((key) => [
    key.name,
    `sk-koala-${key.prefix}…`,
    key.id,
    minute(key.createdAt),
    key.lastUsedAt === null ? "never" : minute(key.lastUsedAt),
    key.revokedAt === null ? "valid" : `revoked ${minute(key.revokedAt)}`,
  ]);
  const lines = [["NAME", "KEY", "ID", "CREATED", "LAST USED", "STATE"], ...rows];
  // Terminal columns, not characters: names may be in any script.
  const widths = lines[0]!.map((_, column) =>
    Math.max(...lines.map((line) => Bun.stringWidth(line[column]!))),
  );
  const pad = (text: string, column: number) => text + " ".repeat(widths[column]! - Bun.stringWidth(text));
  return lines.map((line) => line.map(pad).join("  ").trimEnd()).join("\n");
}

/** "2026-03-01 12:30 UTC" */
const minute = (time: Date): string => `${time.toISOString().slice(0, 16).replace("T", " ")} UTC`;
