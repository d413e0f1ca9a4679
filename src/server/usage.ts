/** What a request consumed. A prompt counts once, however many answers it has; every generated token counts. */

import type { SequenceEvent, SequencePlan, SequenceResult } from "./generation.ts";
import type { Usage } from "./schema/common.ts";

export class UsageCounter {
  #promptTokens = 0;
  #completionTokens = 0;
  readonly #cached = new Map<number, number>();

  constructor(plans: readonly SequencePlan[]) {
    const prompts = new Map(plans.map((plan) => [plan.promptIndex, plan.prompt.length - (plan.unseen ?? 0)]));
    for (const length of prompts.values()) this.#promptTokens += length;
  }

  count(plan: SequencePlan, event: SequenceEvent): void {
    // The first of a prompt's sequences tells what was cached before this request; the others share with it.
    if (event.type === "prompt" && !this.#cached.has(plan.promptIndex))
      this.#cached.set(plan.promptIndex, event.cachedTokens);
    if (event.type === "delta") this.#completionTokens += event.ids.length;
  }

  countResult(plan: SequencePlan, result: SequenceResult): void {
    this.count(plan, { type: "prompt", cachedTokens: result.cachedTokens, logprobs: null });
    this.#completionTokens += result.ids.length;
  }

  usage(): Usage {
    let cached = 0;
    for (const tokens of this.#cached.values()) cached += tokens;
    return {
      prompt_tokens: this.#promptTokens,
      completion_tokens: this.#completionTokens,
      total_tokens: this.#promptTokens + this.#completionTokens,
      prompt_tokens_details: { cached_tokens: cached },
    };
  }
}
