/** Moderation of one request: its input judged before anything is generated, its answers on their way out, and what the
 *  response tells about both. The server's own policy holds for every request; a request can only ask for more.
 *  Always: every decision is counted and logged with the text's hash, never with the text. */
import type { ServerContext } from "../context.ts";
import type { SequenceEvent, SequencePlan } from "../generation.ts";
import type { ChatModeration, ModerationParam } from "../schema/moderations.ts";
import type { Phase } from "./backend.ts";
import { heldBack } from "./hold_back.ts";
import { hashOf, type ModerationResult, type Moderator, type Outcome } from "./moderator.ts";

export type Mode = "score" | "block";

export interface ServerModeration {
  moderator: Moderator;
  /** For every request; null: only for those that ask. */
  mode: Mode | null;
}

interface Options {
  context: Pick<ServerContext, "log" | "metrics">;
  requestId: string;
  moderator: Moderator;
  input: Mode | null;
  output: Mode | null;
  /** The response tells the results. */
  told: boolean;
}

export class ModeratedCall {
  readonly #inputs = new Map<number, Promise<Outcome>>();
  readonly #outputs = new Map<number, Outcome>();

  constructor(readonly options: Options) {}

  /** Judges what a prompt was made of; `texts` replaces the prompt as the model reads it. Asked again it gives the same. */
  judgeInput(promptIndex: number, texts: () => readonly string[], signal: AbortSignal): Promise<Outcome> {
    let outcome = this.#inputs.get(promptIndex);
    if (outcome === undefined)
      this.#inputs.set(promptIndex, (outcome = this.#check(texts(), "request", this.options.input, signal)));
    return outcome;
  }

  /** Stands between a sequence and its reader. `events` is not begun where the input is refused. */
  async *gate(
    plan: SequencePlan,
    events: () => AsyncIterable<SequenceEvent>,
    of: { prompt: () => readonly string[]; signal: AbortSignal },
  ): AsyncGenerator<SequenceEvent> {
    const { input, output } = this.options;
    // Nothing is generated: scoring a text is not saying it.
    if (plan.params.maxTokens === 0) return yield* events();
    if (input !== null) {
      const judged = await this.judgeInput(plan.promptIndex, of.prompt, of.signal);
      if (judged.refused && input === "block") return yield filtered;
    }
    if (output === "block") yield* this.#blocking(plan, events(), of.signal);
    else if (output === "score") yield* this.#scoring(plan, events(), of.signal);
    else yield* events();
  }

  /** For the body, or the last chunk. */
  field(): Promise<{ moderation?: ChatModeration }> {
    return this.options.told ? this.#told() : Promise.resolve({});
  }

  async #told(): Promise<{ moderation: ChatModeration }> {
    const inputs = await Promise.all(this.#inputs.values());
    const outputs = [...this.#outputs].toSorted(([a], [b]) => a - b).map(([, outcome]) => outcome);
    const blocked = this.options.input === "block" && inputs.some(({ refused }) => refused);
    const none = blocked
      ? { code: "input_blocked", message: "Nothing was generated, because the input was refused." }
      : { code: "no_output", message: "There is no output to judge." };
    return { moderation: { input: this.#side(inputs, none), output: this.#side(outputs, none) } };
  }

  #side(outcomes: readonly Outcome[], none: { code: string; message: string }): ChatModeration["input"] {
    const error = outcomes.find((outcome) => outcome.error !== null)?.error;
    if (error) return { type: "error", ...error };
    if (outcomes.length === 0) return { type: "error", ...none };
    const { model } = this.options.moderator;
    const results = outcomes.map((outcome) => ({
      type: "moderation_result" as const,
      model,
      ...strongest(outcome.results),
    }));
    return { type: "moderation_results", model, results };
  }

  async *#blocking(
    plan: SequencePlan,
    events: AsyncIterable<SequenceEvent>,
    signal: AbortSignal,
  ): AsyncGenerator<SequenceEvent> {
    yield* heldBack(events, async (text) => {
      const outcome = await this.#check([text], "stream", "block", signal);
      this.#addOutput(plan, outcome);
      return !outcome.refused;
    });
  }

  async *#scoring(
    plan: SequencePlan,
    events: AsyncIterable<SequenceEvent>,
    signal: AbortSignal,
  ): AsyncGenerator<SequenceEvent> {
    let text = "";
    for await (const event of events) {
      if (event.type === "delta") text += event.text;
      if (event.type === "finish" && text !== "")
        this.#addOutput(plan, await this.#check([text], "response", "score", signal));
      yield event;
    }
  }

  #addOutput(plan: SequencePlan, outcome: Outcome): void {
    const before = this.#outputs.get(plan.index);
    this.#outputs.set(plan.index, {
      results: [...(before?.results ?? []), ...outcome.results],
      error: before?.error ?? outcome.error,
      refused: outcome.refused,
    });
  }

  async #check(
    texts: readonly string[],
    phase: Phase,
    mode: Mode | null,
    signal: AbortSignal,
  ): Promise<Outcome> {
    const { context, moderator, requestId } = this.options;
    const started = performance.now();
    const outcome = await moderator.check(texts, phase, signal);
    const flagged = outcome.results.some((result) => result.flagged);
    const decision = decisionOf(outcome, flagged, mode);
    context.metrics.moderated(phase, decision);
    context.log(
      JSON.stringify({
        time: new Date().toISOString(),
        level: "info",
        request: requestId,
        moderation: phase,
        decision,
        sha256: texts.map(hashOf),
        flagged: flagged ? names(outcome.results) : [],
        ...(outcome.error === null ? {} : { error: outcome.error.message }),
        ms: Math.round(performance.now() - started),
      }),
    );
    return outcome;
  }
}

export type Decision = "passed" | "flagged" | "blocked" | "failed_open" | "failed_closed";

function decisionOf({ error, refused }: Outcome, flagged: boolean, mode: Mode | null): Decision {
  if (flagged) return mode === "block" ? "blocked" : "flagged";
  if (error === null) return "passed";
  return refused && mode === "block" ? "failed_closed" : "failed_open";
}

const filtered: SequenceEvent = {
  type: "finish",
  reason: "content_filter",
  stop: null,
  endToken: null,
  tokenCount: 0,
};

const names = (results: readonly ModerationResult[]): string[] =>
  Object.entries(strongest(results).categories).flatMap(([name, is]) => (is ? [name] : []));

/** Several texts as one result: the highest score of each category. */
function strongest(results: readonly ModerationResult[]): ModerationResult {
  const whole = structuredClone(results[0]!);
  for (const result of results)
    for (const name of Object.keys(whole.categories) as (keyof ModerationResult["categories"])[]) {
      whole.flagged ||= result.flagged;
      whole.categories[name] ||= result.categories[name];
      whole.category_scores[name] = Math.max(whole.category_scores[name], result.category_scores[name]);
    }
  return whole;
}

/** What the server demands, and what the request asks for besides; null: nothing to do. */
export function moderatedCall(
  call: { context: ServerContext; requestId: string },
  server: ServerModeration | null,
  asked: { moderator: Moderator; param: ModerationParam } | null,
): ModeratedCall | null {
  const own = server?.mode ?? null;
  if (own === null && asked === null) return null;
  const stricter = (mode: Mode | undefined): Mode | null =>
    own === "block" ? "block" : asked === null ? own : (mode ?? "score");
  return new ModeratedCall({
    context: call.context,
    requestId: call.requestId,
    // The server's policy is judged by the server's whole chain.
    moderator: own === null ? asked!.moderator : server!.moderator,
    input: stricter(asked?.param.policy?.input?.mode),
    output: stricter(asked?.param.policy?.output?.mode),
    told: asked !== null,
  });
}
