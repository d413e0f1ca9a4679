/** An adapter as an engine of its own: requests go to the base's engine under the adapter's key.
 *  Always: requests that have begun run to their end with the weights they began with, also when it is retired meanwhile. */
import { adapterKey } from "./adapter_table.ts";
import {
  type AdapterSource,
  type EmbedRequest,
  type Engine,
  type EngineEvent,
  type EngineInfo,
  type EngineStats,
  EngineUnavailableError,
  type GenerateRequest,
} from "./messages.ts";

export class AdapterEngine implements Engine {
  readonly #base: Engine;
  readonly #key: string;
  readonly #loaded: Promise<void>;
  #retired: Promise<void> | null = null;

  /** Tells the base's engine, which loads it as soon as it is there itself. */
  constructor(base: Engine, source: AdapterSource) {
    this.#base = base;
    this.#key = adapterKey(source);
    this.#loaded =
      base.adapters?.load(source) ??
      Promise.reject(new EngineUnavailableError("The engine of this model takes no adapters."));
    // Whoever waits for ready() sees the failure; without a waiter it must not end the process.
    this.#loaded.catch(() => {});
  }

  get state(): Engine["state"] {
    return this.#retired === null ? this.#base.state : "stopped";
  }

  get info(): EngineInfo | null {
    return this.#base.info;
  }

  get stats(): EngineStats {
    return this.#base.stats;
  }

  async ready(): Promise<EngineInfo> {
    const info = await this.#base.ready();
    await this.#loaded;
    return info;
  }

  generate(request: GenerateRequest, signal?: AbortSignal): AsyncIterable<EngineEvent> {
    return this.#base.generate({ ...request, adapter: this.#key }, signal);
  }

  embed(request: EmbedRequest, signal?: AbortSignal): Promise<Float32Array> {
    return this.#base.embed({ ...request, adapter: this.#key }, signal);
  }

  /** No request will come any more. Resolves when its files are not needed any more. */
  retire(): Promise<void> {
    return (this.#retired ??= this.#base.adapters?.unload(this.#key) ?? Promise.resolve());
  }

  /** The base goes on. */
  async stop(): Promise<void> {
    await this.retire();
  }
}
