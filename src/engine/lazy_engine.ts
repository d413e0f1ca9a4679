/** An engine that is started by its first request and stopped when nobody has asked for long: many models can be offered
 *  while few are in memory.
 *  Always: it is "ready" until it is stopped; a request waits while the model loads, and one that fails to load fails that
 *  request alone; a request that has begun is finished before the engine goes. */
import {
  type EmbedRequest,
  type Engine,
  type EngineEvent,
  type EngineInfo,
  type EngineStats,
  EngineUnavailableError,
  type GenerateRequest,
  noStats,
} from "./messages.ts";

export interface LazyEngineOptions {
  start: () => Engine;
  /** How long it stays in memory without a request. */
  idleMs: number;
}

export class LazyEngine implements Engine {
  #state: "ready" | "stopped" = "ready";
  #engine: Engine | null = null;
  #lastInfo: EngineInfo | null = null;
  #running = 0;
  #retired = false;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;
  #stopping: Promise<void> = Promise.resolve();
  readonly #options: LazyEngineOptions;

  constructor(options: LazyEngineOptions) {
    this.#options = options;
  }

  get state(): Engine["state"] {
    return this.#state;
  }

  get info(): EngineInfo | null {
    return this.#engine?.info ?? this.#lastInfo;
  }

  get stats(): EngineStats {
    return this.#engine?.stats ?? noStats();
  }

  /** Whether the model is in memory, or on its way there. */
  get isLoaded(): boolean {
    return this.#engine !== null;
  }

  async ready(): Promise<EngineInfo> {
    return this.#use(async (engine) => engine.ready());
  }

  async *generate(request: GenerateRequest, signal?: AbortSignal): AsyncGenerator<EngineEvent> {
    const leave = this.#enter();
    try {
      const engine = await this.#loaded(signal);
      if (engine === null) return yield { type: "finish", reason: "abort", stopTokenId: null, error: null };
      yield* engine.generate(request, signal);
    } finally {
      leave();
    }
  }

  embed(request: EmbedRequest, signal?: AbortSignal): Promise<Float32Array> {
    return this.#use((engine) => engine.embed(request, signal));
  }

  /** No request will come any more: stops when the last one that runs has ended. Resolves when the model's files are not
   *  needed any more: they are open, or nobody asks for them. */
  async retire(): Promise<void> {
    this.#retired = true;
    const engine = this.#engine;
    if (this.#running === 0) void this.stop();
    await engine?.ready().catch(() => {});
  }

  async stop(): Promise<void> {
    this.#state = "stopped";
    await this.#unload();
  }

  async #use<T>(work: (engine: Engine) => Promise<T>): Promise<T> {
    const leave = this.#enter();
    try {
      return await work((await this.#loaded())!);
    } finally {
      leave();
    }
  }

  /** null: the caller gave up while the model was loading. */
  async #loaded(signal?: AbortSignal): Promise<Engine | null> {
    await this.#stopping;
    if (this.#state === "stopped") throw new EngineUnavailableError("The model is not served any more.");
    const engine = (this.#engine ??= this.#options.start());
    const gaveUp = Promise.withResolvers<null>();
    const giveUp = () => gaveUp.resolve(null);
    signal?.addEventListener("abort", giveUp, { once: true });
    try {
      if (signal?.aborted) return null;
      const info = await Promise.race([engine.ready(), gaveUp.promise]);
      if (info === null) return null;
      this.#lastInfo = info;
      return engine;
    } catch (error) {
      // The next request tries again: what was missing may be there by then.
      if (this.#engine === engine) void this.#unload();
      throw error;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
  }

  #enter(): () => void {
    this.#running++;
    clearTimeout(this.#idleTimer);
    return () => {
      if (--this.#running > 0) return;
      if (this.#retired) return void this.stop();
      this.#idleTimer = setTimeout(() => void this.#unload(), this.#options.idleMs);
      this.#idleTimer.unref();
    };
  }

  #unload(): Promise<void> {
    clearTimeout(this.#idleTimer);
    const engine = this.#engine;
    this.#engine = null;
    if (engine !== null) this.#stopping = engine.stop().catch(() => {});
    return this.#stopping;
  }
}
