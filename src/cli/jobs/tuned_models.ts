/** The models that jobs made, in a server's registry: those of the database, no more and no fewer, without a restart.
 *  Always: a model that is deleted takes no new request and serves those that have begun to their end; one that cannot be
 *  opened is a line in the log. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Engine } from "../../engine/messages.ts";
import type { ModelRegistry, ServedModel } from "../../server/context.ts";
import { listModels, removeModel, type StoredModel } from "../../store/models.ts";
import type { Store } from "../../store/store.ts";

/** An adapter in its base's engine, or a model of its own process which runs while it is asked. */
export type TunedModel = ServedModel & { engine: RetirableEngine };

export interface RetirableEngine extends Engine {
  /** No request will come any more. Resolves when the model's files are not needed any more. */
  retire(): Promise<void>;
}

export interface TunedModelsOptions {
  store: Store;
  registry: ModelRegistry;
  dataDirectory: string;
  open: (row: StoredModel, directory: string) => Promise<TunedModel>;
  log: (line: string) => void;
}

export class TunedModels {
  readonly #options: TunedModelsOptions;
  readonly #served = new Map<string, { model: TunedModel; createdAt: number }>();
  /** Told once each. */
  readonly #failed = new Set<string>();
  #syncing: Promise<void> = Promise.resolve();

  constructor(options: TunedModelsOptions) {
    this.#options = options;
  }

  /** Serves what the database has, and nothing that it has not. */
  sync(): Promise<void> {
    this.#syncing = this.#syncing.catch(() => {}).then(() => this.#sync());
    return this.#syncing;
  }

  async delete(id: string): Promise<boolean> {
    const { store, dataDirectory } = this.#options;
    const removed = await removeModel(store, id);
    if (removed === null) return false;
    const retired = this.#retire(id);
    await this.sync();
    // Files that are open, or loaded, are not missed by what still runs.
    await retired;
    await rm(join(dataDirectory, removed.folder), { recursive: true, force: true });
    return true;
  }

  async #sync(): Promise<void> {
    const rows = await listModels(this.#options.store);
    const wanted = new Map(rows.map((row) => [row.id, row]));
    for (const [id, { createdAt }] of this.#served)
      // The same name with another time: the step was trained again, and the files are new.
      if (wanted.get(id)?.createdAt.getTime() !== createdAt) void this.#retire(id);
    for (const row of rows) if (!this.#served.has(row.id)) await this.#add(row);
  }

  async #add(row: StoredModel): Promise<void> {
    const { registry, dataDirectory, open, log } = this.#options;
    try {
      const model = await open(row, join(dataDirectory, row.folder));
      registry.add(model);
      this.#served.set(row.id, { model, createdAt: row.createdAt.getTime() });
      this.#failed.delete(row.id);
    } catch (error) {
      if (!this.#failed.has(row.id)) log(`The model ${row.id} cannot be served: ${(error as Error).message}`);
      this.#failed.add(row.id);
    }
  }

  async #retire(id: string): Promise<void> {
    const served = this.#served.get(id);
    if (served === undefined) return;
    this.#served.delete(id);
    this.#options.registry.remove(id);
    await served.model.engine.retire();
  }
}
