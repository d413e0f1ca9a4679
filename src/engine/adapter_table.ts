/** The adapters beside the base: which are known, in memory and in use.
 *
 *  Always: at most `max` are in memory, and one that a sequence uses stays; the least recently used of the others makes room.
 *  Always: a request that began with an adapter runs with it, also when it is removed meanwhile; a key never names other weights.
 *  Where all are in use and another is asked for, one takes no new request until its sequences have ended: nobody starves. */
import { UsageError } from "../util/errors.ts";
import type { AdapterSource } from "./messages.ts";
import type { AdapterWeights } from "./runner.ts";

export interface AdapterTableOptions {
  max: number;
  load: (directory: string) => Promise<AdapterWeights>;
  /** Equal as long as the files are the same. */
  stamp: (directory: string) => Promise<string>;
}

/** Whoever waits for weights. Exactly one of the two is called, unless it leaves before. */
export interface AdapterUser {
  start(weights: AdapterWeights): void;
  /** One sentence. */
  fail(error: string): void;
}

interface Entry {
  source: AdapterSource;
  weights: AdapterWeights | null;
  loading: boolean;
  /** Of the files when they were first loaded. */
  stamp: string | null;
  users: Set<AdapterUser>;
  waiting: Set<AdapterUser>;
  /** Order of the last request, and of the first one that waits. */
  usedAt: number;
  /** Takes no new users before it has left memory: another adapter waits for its place. */
  draining: boolean;
  /** Nobody may ask for it any more. */
  removed: boolean;
  /** Of `add` and of `remove`. */
  onLoaded: PromiseWithResolvers<void>;
  onReleased: PromiseWithResolvers<void>;
}

/** The name of one generation of an adapter. */
export const adapterKey = ({ id, generation }: Pick<AdapterSource, "id" | "generation">): string =>
  `${id}@${generation}`;

export class AdapterTable {
  readonly #entries = new Map<string, Entry>();
  #clock = 0;

  constructor(readonly options: AdapterTableOptions) {}

  /** Resolves when the weights are in memory for the first time; rejects with a sentence, and then it is not known. */
  async add(source: AdapterSource): Promise<void> {
    const key = adapterKey(source);
    if (this.#entries.has(key)) throw new UsageError(`The adapter ${key} is loaded already.`);
    const onLoaded = Promise.withResolvers<void>();
    this.#entries.set(key, {
      source,
      weights: null,
      loading: false,
      stamp: null,
      users: new Set(),
      waiting: new Set(),
      usedAt: this.#clock++,
      draining: false,
      removed: false,
      onLoaded,
      onReleased: Promise.withResolvers<void>(),
    });
    this.#advance();
    try {
      await onLoaded.promise;
    } catch (error) {
      this.#entries.delete(key);
      throw error;
    }
  }

  /** Nobody may ask for it from now on. Resolves when its files are not needed any more. */
  async remove(key: string): Promise<void> {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    entry.removed = true;
    if (entry.weights !== null) this.#start(entry);
    this.#advance();
    return entry.onReleased.promise;
  }

  /** Starts `user` now or later; false where the key is not known. */
  enter(key: string, user: AdapterUser): boolean {
    const entry = this.#entries.get(key);
    if (entry === undefined || entry.removed) return false;
    if (entry.waiting.size === 0) entry.usedAt = this.#clock++;
    entry.waiting.add(user);
    if (entry.weights !== null && !entry.draining) this.#start(entry);
    else this.#advance();
    return true;
  }

  leave(key: string, user: AdapterUser): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    entry.waiting.delete(user);
    entry.users.delete(user);
    this.#advance();
  }

  /** Ids with sequences that run or may run. */
  get running(): string[] {
    return this.#idsWhere(({ users }) => users.size > 0);
  }

  /** Ids with requests that wait for the weights. */
  get waiting(): string[] {
    return this.#idsWhere(({ waiting }) => waiting.size > 0);
  }

  get loaded(): string[] {
    return this.#idsWhere(({ weights }) => weights !== null);
  }

  #idsWhere(which: (entry: Entry) => boolean): string[] {
    const ids = [...this.#entries.values()].filter(which).map(({ source }) => source.id);
    return [...new Set(ids)];
  }

  /** Loads what is wanted and finds room, forgets what was removed and is not used. */
  #advance(): void {
    for (const [key, entry] of this.#entries) if (entry.removed) this.#forget(key, entry);
    const wanted = [...this.#entries.values()].filter(
      ({ weights, loading, waiting, stamp }) =>
        weights === null && !loading && (waiting.size > 0 || stamp === null),
    );
    wanted.sort((a, b) => a.usedAt - b.usedAt);
    let short = false;
    for (const entry of wanted) {
      short = !this.#makeRoom();
      if (short) break;
      void this.#load(entry);
    }
    if (short) return;
    for (const entry of this.#entries.values())
      if (entry.draining && entry.weights !== null) {
        entry.draining = false;
        this.#start(entry);
      }
  }

  /** As far as it is not needed any more. */
  #forget(key: string, entry: Entry): void {
    if (entry.loading) return;
    if (entry.weights !== null || entry.waiting.size === 0) entry.onReleased.resolve();
    if (entry.users.size + entry.waiting.size > 0) return;
    this.#entries.delete(key);
    this.#evict(entry);
  }

  #makeRoom(): boolean {
    const resident = [...this.#entries.values()].filter(
      ({ weights, loading }) => weights !== null || loading,
    );
    if (resident.length < this.options.max) return true;
    const byUse = resident.filter(({ loading }) => !loading).sort((a, b) => a.usedAt - b.usedAt);
    const victim = byUse.find(
      ({ users, waiting, draining }) => users.size + (draining ? 0 : waiting.size) === 0,
    );
    if (victim !== undefined) {
      this.#evict(victim);
      return true;
    }
    const oldest = byUse[0];
    if (oldest !== undefined && !byUse.some(({ draining }) => draining)) oldest.draining = !oldest.removed;
    return false;
  }

  #evict(entry: Entry): void {
    entry.weights?.close();
    entry.weights = null;
    entry.draining = false;
    // Whoever waits here came after those for whom it left.
    if (entry.waiting.size > 0) entry.usedAt = this.#clock++;
  }

  async #load(entry: Entry): Promise<void> {
    entry.loading = true;
    const { id, path } = entry.source;
    try {
      const stamp = await this.options.stamp(path);
      if (entry.stamp !== null && entry.stamp !== stamp)
        throw new UsageError(
          `The files of the adapter ${id} in ${path} have changed since it was loaded; load it again.`,
        );
      entry.weights = await this.options.load(path);
      entry.stamp = stamp;
      entry.onLoaded.resolve();
      entry.loading = false;
      this.#start(entry);
    } catch (error) {
      entry.loading = false;
      const reason = error instanceof Error ? error : new Error(String(error));
      // The first load failed: whoever added it drops it.
      entry.stamp ??= "";
      entry.onLoaded.reject(reason);
      const users = [...entry.waiting];
      entry.waiting.clear();
      for (const user of users) user.fail(`The adapter ${id} cannot be loaded: ${reason.message}`);
    }
    this.#advance();
  }

  #start(entry: Entry): void {
    const users = [...entry.waiting];
    entry.waiting.clear();
    if (users.length > 0) entry.usedAt = this.#clock++;
    for (const user of users) {
      entry.users.add(user);
      user.start(entry.weights as AdapterWeights);
    }
  }
}
