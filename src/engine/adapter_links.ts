/** The parent's side of an engine's adapters: what was asked for, told to the child, and told again to one that was restarted.
 *  Always: each promise that was handed out settles, whatever becomes of the child. */
import { adapterKey } from "./adapter_table.ts";
import {
  type AdapterHost,
  type AdapterSource,
  EngineUnavailableError,
  type FromEngine,
  type ToEngine,
} from "./messages.ts";

type Answer = Extract<FromEngine, { type: "adapter_loaded" | "adapter_unloaded" }>;

interface Link {
  source: AdapterSource;
  /** Settles `load`. */
  loaded: PromiseWithResolvers<void>;
  /** By an earlier child: nobody waits for the answer of the next. */
  wasLoaded: boolean;
}

export class AdapterLinks implements AdapterHost {
  /** What a child that starts anew is told to load. */
  readonly #links = new Map<string, Link>();
  readonly #unloading = new Map<string, PromiseWithResolvers<void>>();
  #open = false;
  #ended: string | null = null;

  constructor(
    private readonly send: (message: ToEngine) => void,
    private readonly notice: (sentence: string) => void,
  ) {}

  load(source: AdapterSource): Promise<void> {
    if (this.#ended !== null) return Promise.reject(new EngineUnavailableError(this.#ended));
    const loaded = Promise.withResolvers<void>();
    // Whoever wants to know waits for it; a failure that nobody asks about must not end the server.
    loaded.promise.catch(() => {});
    this.#links.set(adapterKey(source), { source, loaded, wasLoaded: false });
    if (this.#open) this.send({ type: "load_adapter", adapter: source });
    return loaded.promise;
  }

  unload(key: string): Promise<void> {
    const link = this.#links.get(key);
    this.#links.delete(key);
    link?.loaded.reject(new EngineUnavailableError("The adapter is not served any more."));
    if (!this.#open) return Promise.resolve();
    const unloaded = this.#unloading.get(key) ?? Promise.withResolvers<void>();
    this.#unloading.set(key, unloaded);
    this.send({ type: "unload_adapter", key });
    return unloaded.promise;
  }

  /** The child is there and listens. */
  open(): void {
    this.#open = true;
    for (const { source } of this.#links.values()) this.send({ type: "load_adapter", adapter: source });
  }

  /** The child is gone, and with it whatever used the adapters' files. */
  close(): void {
    this.#open = false;
    for (const { resolve } of this.#unloading.values()) resolve();
    this.#unloading.clear();
  }

  /** No child will come any more. */
  end(reason: string): void {
    this.#ended = reason;
    this.close();
    for (const { loaded } of this.#links.values()) loaded.reject(new EngineUnavailableError(reason));
  }

  receive(answer: Answer): void {
    if (answer.type === "adapter_unloaded") {
      this.#unloading.get(answer.key)?.resolve();
      this.#unloading.delete(answer.key);
      return;
    }
    const link = this.#links.get(answer.key);
    if (link === undefined) return;
    if (answer.error === null) {
      link.wasLoaded = true;
      return link.loaded.resolve();
    }
    // The next child may find again what this one did not.
    if (link.wasLoaded) return this.notice(`The adapter ${link.source.id} cannot be loaded: ${answer.error}`);
    this.#links.delete(answer.key);
    link.loaded.reject(new Error(answer.error));
  }
}
