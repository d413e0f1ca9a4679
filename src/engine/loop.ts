/** The engine's day: take messages, step, send what the step produced as one message, let the event loop breathe, again.
 *
 *  Always: idle means asleep; only a message wakes it. A step is never interrupted: messages are handled between steps.
 *  One failed native step ends its own rows. STEP_FAILURES_MAX in a row mean that the device is gone, and `onFatal` is told. */
import { CollectiveError } from "../tensor/communicator.ts";
import { UsageError } from "../util/errors.ts";
import { adapterKey } from "./adapter_table.ts";
import type { EngineCore } from "./core.ts";
import type { AdapterSource, FromEngine, ToEngine } from "./messages.ts";

export interface EngineLoopOptions {
  core: EngineCore;
  send: (message: FromEngine) => void;
  /** After `stop`: all requests have ended with "abort" and were reported. */
  onStop: () => void;
  /** The native library fails step after step: a fresh process is needed. */
  onFatal: (error: Error) => void;
}

export class EngineLoop {
  readonly #options: EngineLoopOptions;
  #awake = false;
  #stopped = false;
  #failures = 0;

  constructor(options: EngineLoopOptions) {
    this.#options = options;
    options.core.onWork = () => this.#wake();
  }

  receive(message: ToEngine): void {
    if (this.#stopped) return;
    const { core } = this.#options;
    switch (message.type) {
      case "generate":
        core.generate(message.request);
        break;
      case "embed":
        core.embed(message.request);
        break;
      case "abort":
        core.abort(message.id);
        break;
      case "load_adapter":
        void this.#loadAdapter(message.adapter);
        break;
      case "unload_adapter":
        void this.#unloadAdapter(message.key);
        break;
      case "stop":
        return this.#stop();
      default:
        message satisfies never;
    }
    this.#wake();
  }

  async #loadAdapter(source: AdapterSource): Promise<void> {
    const { core, send } = this.#options;
    let error: string | null = null;
    try {
      if (core.adapters === null) throw new UsageError("This engine takes no adapters.");
      await core.adapters.add(source);
    } catch (reason) {
      error = reason instanceof Error ? reason.message : String(reason);
    }
    if (this.#stopped) return;
    this.#report();
    send({ type: "adapter_loaded", key: adapterKey(source), error });
  }

  async #unloadAdapter(key: string): Promise<void> {
    const { core, send } = this.#options;
    await core.adapters?.remove(key);
    if (!this.#stopped) send({ type: "adapter_unloaded", key });
  }

  // setImmediate instead of a plain loop: messages that came in during the step are taken before the next one.
  #wake(): void {
    if (this.#awake || this.#stopped) return;
    this.#awake = true;
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    this.#awake = false;
    if (this.#stopped) return;
    const { core, onFatal } = this.#options;
    const error = core.step();
    if (error instanceof CollectiveError) {
      // Other processes hold a part of the model: there is no going on, and every request ends as the process does.
      this.#stopped = true;
      return onFatal(error);
    }
    this.#report();
    if (error === null) this.#failures = 0;
    else if (++this.#failures >= STEP_FAILURES_MAX) {
      this.#stopped = true;
      return onFatal(error);
    }
    if (!core.idle) this.#wake();
  }

  #report(): void {
    const { core, send } = this.#options;
    const { events, embeddings } = core.takeOutput();
    for (const embedding of embeddings) send(embedding);
    send({ type: "events", events, stats: core.stats });
  }

  #stop(): void {
    const { core, onStop } = this.#options;
    core.abortAll();
    this.#report();
    this.#stopped = true;
    onStop();
  }
}

const STEP_FAILURES_MAX = 3;
