/** A sequence's life as histograms: to its first token, between tokens, to its end. One clock, one process. */

import { now, type Metrics } from "./metrics.ts";

export class SequenceTimer {
  readonly #start = now();
  #first: number | null = null;
  #last = 0;
  #tokens = 0;
  #over = false;

  constructor(
    readonly metrics: Metrics,
    readonly model: string,
    readonly promptTokens: number,
  ) {}

  /** Its prompt has run, in so many seconds; what it took longer it waited, in queues and on the way. */
  prompt(prefill: number): void {
    const queued = Math.max(0, now() - this.#start - prefill);
    this.metrics.observe("request_queue_time_seconds", this.model, queued);
    this.metrics.observe("request_prefill_time_seconds", this.model, prefill);
  }

  token(): void {
    const time = now();
    if (this.#first === null) {
      this.#first = time;
      this.metrics.observe("time_to_first_token_seconds", this.model, time - this.#start);
    } else this.metrics.observe("inter_token_latency_seconds", this.model, time - this.#last);
    this.#last = time;
    this.#tokens++;
  }

  finish(reason: string): void {
    if (this.#over) return;
    this.#over = true;
    const time = now();
    this.metrics.finished(this.model, reason);
    this.metrics.observe("e2e_request_latency_seconds", this.model, time - this.#start);
    if (this.#first !== null)
      this.metrics.observe("request_decode_time_seconds", this.model, time - this.#first);
    this.metrics.observe("request_prompt_tokens", this.model, this.promptTokens);
    this.metrics.observe("request_generation_tokens", this.model, this.#tokens);
  }
}
