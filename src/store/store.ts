/** The database of a server and its tools: a SQLite file, or PostgreSQL for several servers.
 *  Everything that writes goes through `transaction`; `read` sees what is committed and nothing else.
 *  An opened store has exactly the tables of schema.ts: missing migrations are applied, a newer schema is refused. */
import { AsyncLocalStorage } from "node:async_hooks";
import { assert, UsageError } from "../util/errors.ts";
import type { Backend, Reader, Writer } from "./backend.ts";
import { explained } from "./errors.ts";
import { migrate } from "./migrate.ts";
import { openPostgres } from "./postgres.ts";
import type { Tables } from "./schema.ts";
import { openSqlite } from "./sqlite.ts";

/** `url` is the path of a SQLite file, which is made where there is none, or a postgres:// address.
 *  Throws UsageError with a sentence for what a user can mend. */
export async function openStore(url: string): Promise<Store> {
  checkUrl(url);
  const name = printableUrl(url);
  let backend: Backend | undefined;
  try {
    backend = isPostgres(url) ? openPostgres(url) : await openSqlite(url);
    await migrate(backend, name);
    return new Store(backend, name);
  } catch (error) {
    await backend?.close();
    throw explained(error, name);
  }
}

export class Store {
  #backend: Backend;
  #closed = false;

  constructor(
    backend: Backend,
    /** The address for messages, without a password. */
    readonly name: string,
  ) {
    this.#backend = backend;
  }

  get dialect(): "sqlite" | "postgres" {
    return this.#backend.dialect;
  }

  get tables(): Tables {
    return this.#backend.tables;
  }

  get read(): Reader {
    return this.#backend.read;
  }

  /** Commits when `work` resolves and rolls back when it rejects; then `tx` is dead.
   *  On SQLite they run one after another. On PostgreSQL they run side by side at "read committed": put the condition
   *  into the statement that writes (`update … where`) rather than reading first. They do not nest. */
  async transaction<T>(work: (tx: Writer) => Promise<T>): Promise<T> {
    assert(!this.#closed, "the store is open");
    assert(
      current.getStore()?.store !== this,
      "transactions of one store are not nested: the inner would wait for the outer",
    );
    const scope: Scope = { store: this };
    try {
      return await this.#backend.transaction(async (tx) => {
        const { proxy, revoke } = Proxy.revocable(tx, {});
        try {
          return await current.run(scope, () => work(proxy));
        } finally {
          revoke();
          scope.store = null;
        }
      });
    } catch (error) {
      throw explained(error, this.name);
    }
  }

  /** Waits for the transactions that run. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#backend.close();
  }
}

/** The transaction that the running code belongs to; null once it ended, for what it started and did not await. */
interface Scope {
  store: Store | null;
}
const current = new AsyncLocalStorage<Scope>();

const isPostgres = (url: string): boolean => /^postgres(ql)?:\/\//.test(url);

function checkUrl(url: string): void {
  if (isPostgres(url)) {
    if (URL.canParse(url)) return;
    throw new UsageError(
      "The PostgreSQL address cannot be read. It looks like postgres://user:password@host:5432/database.",
    );
  }
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url)?.[1];
  if (url !== "" && url !== ":memory:" && scheme === undefined) return;
  throw new UsageError(
    `A database is the path of a SQLite file or a postgres:// address, not ${JSON.stringify(scheme ? `${scheme}:…` : url)}.`,
  );
}

function printableUrl(url: string): string {
  if (!isPostgres(url)) return url;
  const { hostname, port, pathname } = new URL(url);
  return `postgres://${hostname}:${port || 5432}${pathname}`;
}
