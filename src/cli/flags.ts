/** `koala flags list | review ID | export`: answers that people reported, from chats, studies and the arena. */
import type { Command } from "commander";
import { listFlags, reviewFlag, type StoredFlag } from "../store/flags.ts";
import { openStore, type Store } from "../store/store.ts";
import { UsageError } from "../util/errors.ts";
import { addDatabaseFlag, databaseUrl } from "./database_option.ts";
import { integer } from "./model_options.ts";

interface Flags {
  database?: string;
}

const pageSize = 100;

export function register(program: Command): void {
  const verb = program.command("flags").description("read and review the answers that people reported");
  addDatabaseFlag(verb.command("list").description("the open reports, newest first"))
    .option("--all", "those that are reviewed too", false)
    .option("--limit <n>", "most to show", integer(1, 10_000), 50)
    .action(list);
  addDatabaseFlag(verb.command("review <id>").description("close a report, or correct its review"))
    .option("--note <text>", "what was found")
    .action(review);
  addDatabaseFlag(verb.command("export").description("every report as JSON lines on stdout")).action(
    exportAll,
  );
}

async function list(flags: Flags & { all: boolean; limit: number }): Promise<void> {
  const found = await withStore(flags, async (store) => {
    const rows: StoredFlag[] = [];
    for await (const flag of everyFlag(store, flags.all ? undefined : "open")) {
      if (rows.length === flags.limit) break;
      rows.push(flag);
    }
    return rows;
  });
  console.log(found.length === 0 ? "There are no such reports." : found.map(shown).join("\n\n"));
}

async function review(id: string, flags: Flags & { note?: string }): Promise<void> {
  const flag = await withStore(flags, (store) => reviewFlag(store, id, flags.note ?? null));
  if (flag === null) throw new UsageError(`There is no report ${id}. koala flags list --all shows them.`);
  console.log(`${flag.id} is reviewed.`);
}

async function exportAll(flags: Flags): Promise<void> {
  await withStore(flags, async (store) => {
    for await (const flag of everyFlag(store)) process.stdout.write(`${JSON.stringify(flag)}\n`);
  });
}

async function* everyFlag(store: Store, state?: StoredFlag["state"]): AsyncGenerator<StoredFlag> {
  let after: string | undefined;
  for (;;) {
    const page = await listFlags(store, { state, after, limit: pageSize } as Parameters<typeof listFlags>[1]);
    if (page === "no such cursor") return; // it was deleted meanwhile
    yield* page.rows;
    if (!page.hasMore) return;
    after = page.rows.at(-1)!.id;
  }
}

async function withStore<T>(flags: Flags, work: (store: Store) => Promise<T>): Promise<T> {
  const store = await openStore(databaseUrl(flags.database));
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}

/** One report as a few lines. Control characters of what a stranger wrote must not reach the terminal. */
function shown(flag: StoredFlag): string {
  const about = [flag.source, flag.reference, flag.model].filter((part) => part !== null).join(" · ");
  const time = `${flag.createdAt.toISOString().slice(0, 16).replace("T", " ")} UTC`;
  const lines = [`${flag.id}  ${flag.category}  ${flag.state}  ${time}  ${about}`];
  if (flag.prompt !== null) lines.push(`  asked:    ${short(flag.prompt)}`);
  lines.push(`  answered: ${flag.answer === "" ? "(withheld)" : short(flag.answer)}`);
  if (flag.note !== null) lines.push(`  note:     ${short(flag.note)}`);
  if (flag.review !== null) lines.push(`  review:   ${short(flag.review)}`);
  return lines.join("\n");
}

const short = (text: string): string => {
  const line = text.replace(/[\p{Cc}\p{Cf}\s]+/gu, " ").trim();
  return line.length <= 160 ? line : `${line.slice(0, 159)}…`;
};
