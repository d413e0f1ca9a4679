/** The chain of judges: every text goes to every back end, scores are joined by their maximum and compared with thresholds.
 *  Always: a back end that fails or is too slow is told in the outcome, never taken for "nothing found"; a text is never
 *  logged or kept, only its hash. */
import { categories, type Category } from "../../eval/moderation/categories.ts";
import { type Backend, type Judgement, ModerationError, type Phase } from "./backend.ts";

export interface ModerationResult {
  flagged: boolean;
  categories: Record<Category, boolean>;
  category_scores: Record<Category, number>;
  category_applied_input_types: Record<Category, "text"[]>;
}

/** What came out for one call. */
export interface Outcome {
  /** One a text. */
  results: ModerationResult[];
  /** The first failure of a back end. Its scores are missing from the results. */
  error: { code: string; message: string } | null;
  /** A text is flagged, or a failure counts as one. */
  refused: boolean;
}

export interface ModeratorOptions {
  thresholds?: Partial<Record<Category, number>>;
  /** closed: what could not be judged is refused. */
  fail?: "closed" | "open";
  timeoutMs?: number;
}

const defaultThreshold = 0.5;
const defaultTimeoutMs = 10_000;
/** Of a text in pieces: a phrase on the border is whole in one of them. */
const overlapChars = 200;
/** Earlier turns of a dialogue come again with every request. */
const cacheMax = 4096;

export class Moderator {
  readonly fail: "closed" | "open";
  readonly #thresholds: Partial<Record<Category, number>>;
  readonly #timeoutMs: number;
  readonly #cache = new Map<string, ModerationResult>();

  constructor(
    readonly backends: readonly Backend[],
    readonly options: ModeratorOptions = {},
  ) {
    this.fail = options.fail ?? "closed";
    this.#thresholds = options.thresholds ?? {};
    this.#timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
  }

  /** As shown in answers: who judged, and which categories nobody did. */
  get model(): string {
    const unknown = categories.filter((category) => !this.#knows(category));
    const names = this.backends.map(({ name }) => name).join("+");
    return unknown.length === 0 ? `koala:${names}` : `koala:${names};unscored=${unknown.join(",")}`;
  }

  /** One back end alone; null where there is none of that name. */
  only(name: string): Moderator | null {
    const backend = this.backends.find((one) => one.name === name);
    return backend === undefined ? null : new Moderator([backend], this.options);
  }

  async check(texts: readonly string[], phase: Phase, signal?: AbortSignal): Promise<Outcome> {
    signal?.throwIfAborted();
    const keys = texts.map((text) => `${phase === "request"} ${hashOf(text)}`);
    const missing = [...new Set(keys.flatMap((key, i) => (this.#cache.has(key) ? [] : [i])))];
    const fresh = await this.#judge(
      missing.map((i) => texts[i]!),
      phase,
      signal,
    );
    const results = keys.map((key) => this.#cache.get(key));
    missing.forEach((at, i) => {
      results[at] = fresh.results[i]!;
      if (fresh.error === null) this.#remember(keys[at]!, fresh.results[i]!);
    });
    const flagged = results.some((result) => result!.flagged);
    const refused = flagged || (fresh.error !== null && this.fail === "closed");
    return { results: results as ModerationResult[], error: fresh.error, refused };
  }

  async close(): Promise<void> {
    await Promise.all(this.backends.map((backend) => backend.close?.()));
  }

  async #judge(
    texts: readonly string[],
    phase: Phase,
    signal: AbortSignal | undefined,
  ): Promise<Pick<Outcome, "results" | "error">> {
    if (texts.length === 0) return { results: [], error: null };
    const judged = await Promise.all(
      this.backends.map((backend) =>
        this.#ask(backend, texts, { phase, signal }).catch((error: unknown) => {
          signal?.throwIfAborted();
          return asModerationError(error, backend);
        }),
      ),
    );
    const failed = judged.find((one) => one instanceof ModerationError);
    const good = judged.filter((one) => one instanceof Array);
    return {
      results: texts.map((_, i) => this.#result(good.map((judgements) => judgements[i]!))),
      error: failed === undefined ? null : { code: failed.code, message: failed.message },
    };
  }

  /** With the time limit, and long texts in pieces. */
  async #ask(
    backend: Backend,
    texts: readonly string[],
    of: { phase: Phase; signal: AbortSignal | undefined },
  ): Promise<Judgement[]> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), this.#timeoutMs);
    const signal = of.signal === undefined ? late.signal : AbortSignal.any([of.signal, late.signal]);
    const pieces = texts.map((text) => piecesOf(text, backend.charsMax));
    try {
      const work = backend.judge(pieces.flat(), { phase: of.phase, signal });
      const judged = await Promise.race([work, aborted(signal)]);
      if (judged.length !== pieces.flat().length)
        throw new ModerationError("bad_answer", `The moderation back end ${backend.name} left texts out.`);
      let next = 0;
      return pieces.map((own) => joined(judged.slice(next, (next += own.length))));
    } catch (error) {
      if (late.signal.aborted && !of.signal?.aborted)
        throw new ModerationError(
          "timeout",
          `The moderation back end ${backend.name} did not answer in ${this.#timeoutMs / 1000} s.`,
        );
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  #result(judgements: readonly Judgement[]): ModerationResult {
    const { scores, flagged } = joined(judgements);
    const table = <T>(value: (category: Category) => T) =>
      Object.fromEntries(categories.map((category) => [category, value(category)])) as Record<Category, T>;
    const isFlagged = (category: Category): boolean =>
      flagged.has(category) ||
      (scores.get(category) ?? 0) >= (this.#thresholds[category] ?? defaultThreshold);
    return {
      flagged: categories.some(isFlagged),
      categories: table(isFlagged),
      category_scores: table((category) => scores.get(category) ?? 0),
      category_applied_input_types: table((category) => (this.#knows(category) ? ["text"] : [])),
    };
  }

  #knows(category: Category): boolean {
    return this.backends.some((backend) => backend.categories.includes(category));
  }

  #remember(key: string, result: ModerationResult): void {
    if (this.#cache.size >= cacheMax) this.#cache.delete(this.#cache.keys().next().value!);
    this.#cache.set(key, result);
  }
}

export const hashOf = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex");

/** The highest score wins, and a flag stays. */
function joined(judgements: readonly Judgement[]): Judgement {
  const scores = new Map<Category, number>();
  const flagged = new Set<Category>();
  for (const judgement of judgements) {
    for (const [category, score] of judgement.scores)
      scores.set(category, Math.max(score, scores.get(category) ?? 0));
    for (const category of judgement.flagged) flagged.add(category);
  }
  return { scores, flagged };
}

export function piecesOf(text: string, charsMax: number): string[] {
  if (text.length <= charsMax) return [text];
  const pieces: string[] = [];
  for (let from = 0; from + overlapChars < text.length; from += charsMax - overlapChars)
    pieces.push(text.slice(from, from + charsMax));
  return pieces;
}

/** Never resolves; rejects with the reason of the abort. */
export const aborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    if (signal.aborted) return reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });

function asModerationError(error: unknown, backend: Backend): ModerationError {
  if (error instanceof ModerationError) return error;
  const reason = error instanceof Error ? error.message.replace(/\.$/, "") : String(error);
  return new ModerationError("unavailable", `The moderation back end ${backend.name} failed: ${reason}.`);
}
