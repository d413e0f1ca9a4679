/** The handle that the server holds: requests go to a child process, events come back as iterables.
 *
 *  Always: a request that was sent ends with exactly one finish event (or its promise settles), whatever becomes of the child.
 *  Always: at most the given number of requests and prompt tokens wait for their first event; more are refused at once.
 *  A child that dies is started again; one that dies soon after its start time after time is given up ("failed"). */
import { AdapterLinks } from "./adapter_links.ts";
import { EventStream } from "./event_stream.ts";
import { EngineChild, type ChildOptions } from "./engine_child.ts";
import {
  type EmbedRequest,
  type Engine,
  type EngineEvent,
  type EngineInfo,
  type EngineStats,
  EngineUnavailableError,
  type FromEngine,
  type GenerateRequest,
  noStats,
  QueueFullError,
} from "./messages.ts";

export interface EngineOptions extends Omit<ChildOptions, "onMessage" | "onDown" | "onFailed"> {
  onProgress?: (stage: string, done: number, total: number) => void;
  /** One sentence for the log: the engine died, is back, is given up. */
  onNotice?: (sentence: string) => void;
  /** Requests without a first event, and their prompt tokens, that may wait. */
  maxWaitingRequests?: number;
  maxWaitingPromptTokens?: number;
}

/** Starts the engine process; `ready()` says when its model is loaded. */
export function startEngine(options: EngineOptions): Engine {
  return new ProcessEngine(options);
}

/** Where the events of one request go. */
interface Route {
  promptTokens: number;
  /** No event has come yet. */
  waiting: boolean;
  onEvent: (event: EngineEvent) => void;
  onEmbedding: (message: EmbeddingMessage) => void;
}

type EmbeddingMessage = Extract<FromEngine, { type: "embedding" }>;

class ProcessEngine implements Engine {
  state: Engine["state"] = "loading";
  info: EngineInfo | null = null;
  readonly #options: EngineOptions;
  readonly #child: EngineChild;
  readonly adapters: AdapterLinks;
  /** By wire id: a number of our own, so that the late events of an aborted request never reach its namesake. */
  readonly #routes = new Map<string, Route>();
  #wireIds = 0;
  #waitingRequests = 0;
  #waitingPromptTokens = 0;
  #ready = readyPromise();
  #stats = noStats();
  /** What the counters of earlier children had reached. */
  #base = noStats();
  #progressAt = 0;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.adapters = new AdapterLinks(
      (message) => this.#child.send(message),
      (sentence) => options.onNotice?.(sentence),
    );
    this.#child = new EngineChild({
      ...options,
      onMessage: (message) => this.#receive(message),
      onDown: (error) => this.#goDown(error),
      onFailed: (error) => this.#giveUp(error),
    });
  }

  ready(): Promise<EngineInfo> {
    return this.#ready.promise;
  }

  get stats(): EngineStats {
    const stalled = this.state === "ready" && (this.#routes.size > 0 || this.#stats.running > 0);
    const stats = { ...this.#stats, stalledMs: stalled ? performance.now() - this.#progressAt : 0 };
    for (const counter of COUNTERS) stats[counter] += this.#base[counter];
    return stats;
  }

  generate(request: GenerateRequest, signal?: AbortSignal): AsyncIterable<EngineEvent> {
    let wireId = "";
    const leave = () => this.#abort(wireId);
    const abort = () => {
      leave();
      stream.push({ type: "finish", reason: "abort", stopTokenId: null, error: null });
    };
    const stream = new EventStream({
      onStart: () => {
        if (signal?.aborted) return abort();
        wireId = this.#admit(request.prompt.length, {
          onEvent: (event) => {
            if (event.type === "finish") signal?.removeEventListener("abort", abort);
            stream.push(event);
          },
          onEmbedding: () => {},
        });
        signal?.addEventListener("abort", abort, { once: true });
        this.#child.send({ type: "generate", request: { ...request, id: wireId } });
      },
      onLeave: () => {
        signal?.removeEventListener("abort", abort);
        leave();
      },
    });
    return stream;
  }

  async embed(request: EmbedRequest, signal?: AbortSignal): Promise<Float32Array> {
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<Float32Array>();
    const wireId = this.#admit(request.prompt.length, {
      onEvent: (event) => {
        if (event.type === "finish")
          reject(new EngineUnavailableError(event.error ?? "The request was aborted."));
      },
      onEmbedding: ({ embedding, error }) => {
        if (embedding !== null) resolve(Float32Array.from(embedding));
        else reject(new Error(error ?? "The engine gave no embedding and no reason."));
      },
    });
    const abort = () => {
      this.#abort(wireId);
      reject(signal!.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    this.#child.send({ type: "embed", request: { ...request, id: wireId } });
    return promise.finally(() => signal?.removeEventListener("abort", abort));
  }

  async stop(): Promise<void> {
    this.state = "stopped";
    this.#ready.reject(new EngineUnavailableError("The engine was stopped before its model was loaded."));
    this.#endAll({ type: "finish", reason: "abort", stopTokenId: null, error: null });
    this.adapters.end("The engine is shutting down.");
    await this.#child.stop();
  }

  #receive(message: FromEngine): void {
    switch (message.type) {
      case "progress":
        return this.#options.onProgress?.(message.stage, message.done, message.total);
      case "ready":
        if (this.state !== "loading") return;
        this.state = "ready";
        this.info = message.info;
        this.adapters.open();
        return this.#ready.resolve(message.info);
      case "events":
        this.#stats = message.stats;
        this.#progressAt = performance.now();
        for (const [id, event] of message.events) this.#deliver(id, event);
        return;
      case "embedding": {
        const route = this.#leaveRoute(message.id);
        return route?.onEmbedding(message);
      }
      case "adapter_loaded":
      case "adapter_unloaded":
        return this.adapters.receive(message);
      case "failed":
        return; // The child's keeper reports it through onDown or onFailed.
      default:
        message satisfies never;
    }
  }

  #deliver(id: string, event: EngineEvent): void {
    const route = this.#routes.get(id);
    if (route === undefined) return;
    this.#stopWaiting(route);
    if (event.type === "finish") this.#routes.delete(id);
    route.onEvent(event);
  }

  /** Opens a route, or throws what the server answers with 429 or 503. */
  #admit(promptTokens: number, hooks: Pick<Route, "onEvent" | "onEmbedding">): string {
    if (this.state !== "ready") throw new EngineUnavailableError(UNAVAILABLE[this.state]);
    const requestsMax = this.#options.maxWaitingRequests ?? 1024;
    const tokensMax = this.#options.maxWaitingPromptTokens ?? 1 << 20;
    if (this.#waitingRequests >= requestsMax)
      throw new QueueFullError(
        `${this.#waitingRequests} requests are waiting, as many as may (${requestsMax}); try again later.`,
      );
    // One request alone is always let in: the engine itself says whether it can ever fit.
    if (this.#waitingRequests > 0 && this.#waitingPromptTokens + promptTokens > tokensMax)
      throw new QueueFullError(
        `${this.#waitingPromptTokens} prompt tokens are waiting and this request has ${promptTokens}, more than the ${tokensMax} that may wait; try again later.`,
      );
    const wireId = String(this.#wireIds++);
    if (this.#routes.size === 0) this.#progressAt = performance.now();
    this.#routes.set(wireId, { promptTokens, waiting: true, ...hooks });
    this.#waitingRequests++;
    this.#waitingPromptTokens += promptTokens;
    return wireId;
  }

  #abort(wireId: string): void {
    if (this.#leaveRoute(wireId) !== undefined) this.#child.send({ type: "abort", id: wireId });
  }

  #leaveRoute(wireId: string): Route | undefined {
    const route = this.#routes.get(wireId);
    if (route === undefined) return undefined;
    this.#stopWaiting(route);
    this.#routes.delete(wireId);
    return route;
  }

  #stopWaiting(route: Route): void {
    if (!route.waiting) return;
    route.waiting = false;
    this.#waitingRequests--;
    this.#waitingPromptTokens -= route.promptTokens;
  }

  #endAll(finish: EngineEvent): void {
    for (const id of this.#routes.keys()) this.#deliver(id, finish);
  }

  #goDown(error: string): void {
    if (this.state === "ready") this.#ready = readyPromise();
    this.state = "loading";
    this.#forgetChild();
    this.adapters.close();
    this.#options.onNotice?.(`${error} It is being started again.`);
    this.#endAll(died(`${error} It is being started again; send the request once more in a moment.`));
  }

  #giveUp(error: string): void {
    if (this.state === "ready") this.#ready = readyPromise();
    this.state = "failed";
    this.#forgetChild();
    this.adapters.end(error);
    this.#options.onNotice?.(error);
    this.#ready.reject(new EngineUnavailableError(error));
    this.#endAll(died(error));
  }

  /** Counters go on from where they were; what the child held is gone with it. */
  #forgetChild(): void {
    for (const counter of COUNTERS) this.#base[counter] += this.#stats[counter];
    this.#stats = {
      ...noStats(),
      pagesTotal: this.#stats.pagesTotal,
      pageSize: this.#stats.pageSize,
      adaptersMax: this.#stats.adaptersMax,
    };
  }
}

const UNAVAILABLE = {
  loading: "The engine is loading its model; try again in a moment.",
  failed: "The engine could not be kept running and was given up; the server's log says why.",
  stopped: "The engine is shutting down.",
} as const;

const COUNTERS = [
  "promptTokens",
  "generatedTokens",
  "prefixQueriesTokens",
  "prefixHitTokens",
  "preemptions",
  "steps",
] as const satisfies (keyof EngineStats)[];

function died(error: string): EngineEvent {
  return { type: "finish", reason: "error", stopTokenId: null, error };
}

function readyPromise(): PromiseWithResolvers<EngineInfo> {
  const resolvers = Promise.withResolvers<EngineInfo>();
  // Whoever wants to know asks `ready()`; a failure that nobody asks about must not end the server.
  resolvers.promise.catch(() => {});
  return resolvers;
}
