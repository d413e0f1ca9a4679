/** Drives one answer: events of the API in, changes of the state out, with the times that the speed is computed from.
 *  Always ends with exactly one finish, stop or fail. Text is passed on at most every `flushMs`, because drawing for every
 *  token would cost more than the tokens. */
import type { AnswerEvent, Usage } from "./client.ts";
import { problemOfThrown } from "./problem.ts";
import type { AnswerChange, Timing } from "./state.ts";

const flushMs = 33;

export async function runAnswer(
  events: AsyncIterable<AnswerEvent>,
  emit: (change: AnswerChange) => void,
  { signal, now = () => performance.now() }: { signal: AbortSignal; now?: () => number },
): Promise<void> {
  const started = now();
  let first: number | null = null;
  let last = started;
  let usage: Usage | null = null;
  let reason: string | null = null;
  const pending = batched((text) => emit({ type: "text", text }));
  const timing = (): Timing | null =>
    first === null ? null : { firstTextMs: first - started, textMs: last - first };
  try {
    for await (const event of events) {
      if (event.type === "finish") reason = event.reason;
      else if (event.type === "usage") usage = event.usage;
      else {
        last = now();
        first ??= last;
        pending.add(event.text);
      }
    }
    pending.flush();
    emit(
      signal.aborted
        ? { type: "stop", timing: timing() }
        : { type: "finish", reason, usage, timing: timing() },
    );
  } catch (thrown) {
    pending.flush();
    emit({ type: "fail", problem: problemOfThrown(thrown) });
  }
}

/** Collects text; the first piece passes at once, the rest after a short wait. A timer, not an animation frame: those stop in
 *  a hidden tab. */
function batched(pass: (text: string) => void): { add: (text: string) => void; flush: () => void } {
  let text = "";
  let timer: ReturnType<typeof setTimeout> | null = null;
  let empty = true;
  const flush = () => {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    if (text !== "") pass(text);
    text = "";
  };
  const add = (piece: string) => {
    text += piece;
    if (empty) flush();
    else timer ??= setTimeout(flush, flushMs);
    empty = false;
  };
  return { add, flush };
}
