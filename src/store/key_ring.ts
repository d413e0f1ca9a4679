/** The keys that a running server accepts: read at start and again every few seconds, so that a key made or revoked
 *  elsewhere holds without a restart. While the database cannot be read, the last keys that were read hold, and the log says so. */
import { explained } from "./errors.ts";
import { type ActiveKey, activeKeys, touchKey } from "./keys.ts";
import type { Store } from "./store.ts";

const refreshMs = 2000;
const touchMs = 60_000;

export interface KeyRingOptions {
  /** Called with the first keys before `open` resolves, and after each re-reading. */
  onKeys: (keys: readonly ActiveKey[]) => void;
  log: (line: string) => void;
  refreshMs?: number;
}

export class KeyRing {
  #store: Store;
  #options: KeyRingOptions;
  #timer: NodeJS.Timeout;
  #ids = new Set<string>();
  /** When each key's use was last written, in milliseconds. */
  #touched = new Map<string, number>();
  #refreshing: Promise<void> | null = null;
  #writing = new Set<Promise<void>>();
  #failing = false;

  /** Throws where the keys cannot be read at the start. */
  static async open(store: Store, options: KeyRingOptions): Promise<KeyRing> {
    const ring = new KeyRing(store, options);
    try {
      await ring.#read();
      return ring;
    } catch (error) {
      await ring.close();
      throw error;
    }
  }

  private constructor(store: Store, options: KeyRingOptions) {
    this.#store = store;
    this.#options = options;
    this.#timer = setInterval(() => (this.#refreshing ??= this.#refresh()), options.refreshMs ?? refreshMs);
    this.#timer.unref();
  }

  /** A request came with this key. Writes at most once a minute for each key, and never makes a request wait. */
  used(id: string): void {
    const now = Date.now();
    if (!this.#ids.has(id) || now - (this.#touched.get(id) ?? 0) < touchMs) return;
    this.#touched.set(id, now);
    const writing = touchKey(this.#store, id, new Date(now))
      .catch((error: Error) => this.#options.log(`The use of key ${id} could not be noted: ${error.message}`))
      .finally(() => this.#writing.delete(writing));
    this.#writing.add(writing);
  }

  /** Before the store is closed. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#refreshing;
    await Promise.all(this.#writing);
  }

  async #refresh(): Promise<void> {
    try {
      await this.#read();
      if (this.#failing) this.#options.log("The API keys can be read again.");
      this.#failing = false;
    } catch (error) {
      // drizzle's own message is the query; what went wrong is its cause.
      const { message, cause } = explained(error, this.#store.name) as Error;
      const reason = message.startsWith("Failed query") && cause instanceof Error ? cause.message : message;
      if (!this.#failing)
        this.#options.log(`The API keys could not be read again, so the last ones hold: ${reason}`);
      this.#failing = true;
    } finally {
      this.#refreshing = null;
    }
  }

  async #read(): Promise<void> {
    const keys = await activeKeys(this.#store);
    this.#ids = new Set(keys.map((key) => key.id));
    for (const id of this.#touched.keys()) if (!this.#ids.has(id)) this.#touched.delete(id);
    this.#options.onKeys(keys);
  }
}
