/** The events of one request on their way from the engine to whoever iterates: a queue with an end.
 *
 *  Always: nothing starts before the first `next`, and whatever way the reader leaves, `onLeave` is called at most once,
 *  at once, even while a `next` is pending (an async generator would wait for it). */
import type { EngineEvent } from "./messages.ts";

export interface EventStreamHooks {
  /** Called by the first `next`; what it throws is thrown there. */
  onStart: () => void;
  /** The reader left before the finish event. */
  onLeave: () => void;
}

export class EventStream implements AsyncIterableIterator<EngineEvent> {
  readonly #hooks: EventStreamHooks;
  readonly #events: EngineEvent[] = [];
  readonly #readers: ((result: IteratorResult<EngineEvent>) => void)[] = [];
  #state: "new" | "open" | "finished" | "left" = "new";

  constructor(hooks: EventStreamHooks) {
    this.#hooks = hooks;
  }

  /** Ignored after the finish event and after the reader left. */
  push(event: EngineEvent): void {
    if (this.#state !== "open") return;
    if (event.type === "finish") this.#state = "finished";
    const reader = this.#readers.shift();
    if (reader === undefined) this.#events.push(event);
    else reader({ done: false, value: event });
    if (this.#state === "finished") this.#dismissReaders();
  }

  async next(): Promise<IteratorResult<EngineEvent>> {
    if (this.#state === "new") this.#start();
    const event = this.#events.shift();
    if (event !== undefined) return { done: false, value: event };
    if (this.#state !== "open") return END;
    return new Promise((resolve) => this.#readers.push(resolve));
  }

  async return(): Promise<IteratorResult<EngineEvent>> {
    const wasOpen = this.#state === "open";
    this.#state = "left";
    this.#events.length = 0;
    this.#dismissReaders();
    if (wasOpen) this.#hooks.onLeave();
    return END;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #start(): void {
    this.#state = "open";
    try {
      this.#hooks.onStart();
    } catch (error) {
      this.#state = "left";
      throw error;
    }
  }

  #dismissReaders(): void {
    for (const reader of this.#readers.splice(0)) reader(END);
  }
}

const END: IteratorResult<EngineEvent> = { done: true, value: undefined };
