/** A stream whose text is known: it runs again and again beside whatever a test does to the server, and says so when a
 *  neighbour changed a byte of it or held it up. */
import { expect } from "bun:test";

export interface CanaryReport {
  /** Streams that ran to their end. */
  complete: number;
  /** Longest silence between two chunks, in ms. */
  longestGapMs: number;
}

export class Canary {
  #alone = "";
  #stop = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #report: CanaryReport = { complete: 0, longestGapMs: 0 };

  constructor(
    readonly url: string,
    readonly request: Record<string, unknown>,
  ) {}

  /** Learns the text: the server must be idle. */
  async runAlone(): Promise<void> {
    this.#alone = await this.#stream(new AbortController().signal, () => {});
    expect(this.#alone.length).toBeGreaterThan(100);
  }

  /** Runs `work` while the canary sings; throws where a byte of it differed. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    await this.start();
    try {
      return await work();
    } finally {
      await this.stop();
    }
  }

  /** Resolves when the first text has come. */
  async start(): Promise<void> {
    this.#stop = new AbortController();
    this.#report = { complete: 0, longestGapMs: 0 };
    const first = Promise.withResolvers<void>();
    this.#running = this.#repeat(this.#stop.signal, first.resolve);
    this.#running.catch(first.reject);
    await first.promise;
  }

  /** Waits for the end of the stream that runs. */
  async stop(): Promise<CanaryReport> {
    this.#stop.abort();
    await this.#running;
    return this.#report;
  }

  async #repeat(stop: AbortSignal, onText: () => void): Promise<void> {
    do {
      let text = "";
      let last = performance.now();
      await this.#stream(new AbortController().signal, (piece) => {
        const now = performance.now();
        this.#report.longestGapMs = Math.max(this.#report.longestGapMs, now - last);
        last = now;
        text += piece;
        if (!this.#alone.startsWith(text))
          throw new Error(`the canary said ${JSON.stringify(text.slice(-80))}`);
        onText();
      });
      expect(text).toBe(this.#alone);
      this.#report.complete++;
    } while (!stop.aborted);
  }

  async #stream(signal: AbortSignal, onText: (piece: string) => void): Promise<string> {
    const answer = await fetch(`${this.url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ ...this.request, stream: true }),
      signal,
    });
    if (answer.status !== 200)
      throw new Error(`the canary was answered ${answer.status}: ${await answer.text()}`);
    let text = "";
    let rest = "";
    const decoder = new TextDecoder();
    for await (const bytes of answer.body as unknown as AsyncIterable<Uint8Array>) {
      const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (!line.startsWith("data: {")) continue;
        const event = JSON.parse(line.slice(6)) as {
          choices?: { text: string }[];
          error?: { message: string };
        };
        if (event.error) throw new Error(`the canary's stream ended with: ${event.error.message}`);
        const piece = event.choices?.[0]?.text ?? "";
        text += piece;
        onText(piece);
      }
    }
    return text;
  }
}
