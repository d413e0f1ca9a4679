/** A stream of server-sent events with a bounded buffer, pings while silent, and errors that OpenAI clients understand.
 *  Pulled by the socket, never pushed: enqueueing from the engine grew to 777 MB behind a reader that had stopped. */

import type { HttpFailure } from "./errors.ts";
import type { Limits } from "./limits.ts";

const PING = ": ping\n\n";
const DONE = "data: [DONE]\n\n";
/** So long may an answer take to fail with a status of its own; after it the stream opens and errors travel inside. */
const OPENING_MS = 100;

export class EventStream {
  readonly #left = new AbortController();
  readonly #encoder = new TextEncoder();
  #waiting: string[] = [];
  #bytes = 0;
  #closed = false;
  #wake: (() => void) | null = null;
  #sent = 0;
  #opened!: () => void;
  /** Resolves with the first event. */
  readonly opened = new Promise<void>((resolve) => (this.#opened = resolve));

  constructor(readonly bufferBytesMax: number) {}

  /** Fires when the reader has left or fell too far behind. */
  get left(): AbortSignal {
    return this.#left.signal;
  }

  get sentCount(): number {
    return this.#sent;
  }

  send(event: object): void {
    this.#sent++;
    this.#opened();
    this.#push(`data: ${JSON.stringify(event)}\n\n`);
  }

  ping(): void {
    if (this.#waiting.length === 0) this.#push(PING);
  }

  done(): void {
    this.#push(DONE);
    this.#closed = true;
    this.#wake?.();
  }

  /** The body. A pull takes everything that has gathered, so a slow socket costs fewer, larger writes. */
  readable(): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          while (this.#waiting.length === 0 && !this.#closed && !this.#left.signal.aborted)
            await new Promise<void>((resolve) => (this.#wake = resolve));
          if (this.#left.signal.aborted) return controller.error(this.#left.signal.reason);
          if (this.#waiting.length > 0) controller.enqueue(this.#encoder.encode(this.#take()));
          if (this.#closed) controller.close();
        },
        cancel: () => this.leave(new DOMException("The client has left.", "AbortError")),
      },
      { highWaterMark: 0 },
    );
  }

  leave(reason: unknown): void {
    this.#left.abort(reason);
    this.#waiting = [];
    this.#bytes = 0;
    this.#wake?.();
  }

  #take(): string {
    const text = this.#waiting.join("");
    this.#waiting = [];
    this.#bytes = 0;
    return text;
  }

  #push(text: string): void {
    if (this.#closed || this.#left.signal.aborted) return;
    this.#waiting.push(text);
    this.#bytes += text.length;
    if (this.#bytes > this.bufferBytesMax)
      return this.leave(new DOMException(`The reader is ${this.#bytes} bytes behind.`, "AbortError"));
    this.#wake?.();
  }
}

export interface StreamOptions {
  limits: Limits;
  /** Turns what was thrown into a status and a body, and logs it. */
  fail: (error: unknown) => HttpFailure;
  /** Called once when the stream is over, however it ended. */
  closed: () => void;
}

/** Runs `produce` into a stream. What it throws before its first event, and soon enough, is thrown here and becomes a status. */
export async function streamEvents(
  produce: (stream: EventStream) => Promise<void>,
  options: StreamOptions,
): Promise<Response> {
  const stream = new EventStream(options.limits.streamBufferBytesMax);
  let early = true;
  let opening: ReturnType<typeof setTimeout> | undefined;
  const pings = setInterval(() => stream.ping(), options.limits.pingMs);
  const production = produce(stream).catch((error: unknown) => {
    if (early && stream.sentCount === 0) throw error;
    if (!stream.left.aborted) stream.send(options.fail(error).body);
  });
  const finished = production
    .then(() => stream.done())
    .finally(() => {
      clearInterval(pings);
      options.closed();
    });
  const patience = new Promise<void>((resolve) => {
    opening = setTimeout(() => {
      early = false;
      resolve();
    }, OPENING_MS);
  });
  await Promise.race([finished, stream.opened, patience]).finally(() => clearTimeout(opening));
  return new Response(stream.readable(), {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      // nginx buffers streams unless told not to.
      "x-accel-buffering": "no",
    },
  });
}
