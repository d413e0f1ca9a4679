/** One request's tokens and its pages, through waiting, running, finished.
 *
 *  Always: the first `computed` tokens are in the cache, and `computed` < tokens.length while something is left to run.
 *  Generated tokens are kept when pages are taken away: they are computed again like a prompt, so nothing changes. */
import { newPageTable, type PageTable } from "./kv_cache.ts";
import type { ContrastRequest, EmbedRequest, GenerateRequest, TokenLogprob } from "./messages.ts";
import type { StepResult, StepRow } from "./runner.ts";
import type { Sampler } from "./sampler.ts";

export class Sequence {
  readonly id: string;
  /** Prompt, then what was generated. */
  readonly tokens: number[];
  readonly promptLength: number;
  /** The most tokens that its pages will ever hold; the last generated token is never computed. */
  readonly tokensMax: number;
  readonly table: PageTable;
  readonly group: string | null;
  readonly priority: number;
  /** Order of arrival; the scheduler sets it. */
  arrival = 0;
  computed = 0;
  /** Tokens of the running step. */
  scheduled = 0;
  /** Prompt tokens found in the cache when it was first admitted; null before. */
  cachedTokens: number | null = null;
  /** When its first token was scheduled, by the engine's clock. */
  startedAt: number | null = null;
  promptReported = false;
  /** Logprob of each prompt token, the first `scored` + 1 of them known; null where not asked for. */
  readonly promptScores: (TokenLogprob | null)[] | null;
  /** The row handed to the runner; the object and its one-token array live as long as the sequence. */
  readonly row: StepRow;
  /** The sequence that this one is pushed away from. It takes each generated token too, and is scheduled, preempted and
   *  ended with this one; it has the same id and is in no list. */
  guide: Sequence | null = null;
  readonly #scoreTop: number;
  readonly #single: number[] = [0];
  #scored = 0;
  #hiddenSum: Float64Array | null = null;

  /** `sampler` is null where no token is generated: embeddings and maxTokens 0. */
  constructor(
    request: GenerateRequest | EmbedRequest,
    readonly sampler: Sampler | null,
  ) {
    const params = "params" in request ? request.params : null;
    this.id = request.id;
    this.tokens = request.prompt.slice();
    this.promptLength = request.prompt.length;
    this.tokensMax = this.promptLength + Math.max(0, (params?.maxTokens ?? 0) - 1);
    this.table = newPageTable(saltOf(request));
    this.group = "group" in request ? request.group : null;
    this.priority = "priority" in request ? request.priority : 0;
    this.promptScores = params === null || params.promptLogprobs === null ? null : [null];
    this.#scoreTop = params?.promptLogprobs ?? 0;
    this.row = {
      tokens: this.#single,
      past: 0,
      pages: this.table.pages,
      sample: null,
      score: null,
      embed: params === null,
    };
  }

  /** Runs a second prompt beside this one, from now to the end. */
  pushAwayFrom(request: GenerateRequest, { prompt, strength, plausibility }: ContrastRequest): void {
    const params = { ...request.params, promptLogprobs: null };
    this.guide = new Sequence({ ...request, prompt, params, group: null }, null);
    this.row.contrast = { against: this.guide.row, strength, plausibility };
  }

  /** Takes the token that was sampled. */
  push(id: number): void {
    this.tokens.push(id);
    this.guide?.tokens.push(id);
  }

  /** Rows of a step in which it samples. */
  get rowCount(): number {
    return this.guide === null ? 1 : 2;
  }

  /** One token more, of each of the two, and the next one can be sampled. */
  get decoding(): boolean {
    return this.remaining === 1 && (this.guide === null || this.guide.remaining === 1);
  }

  /** Tokens that must run before the next one can be sampled. */
  get remaining(): number {
    return this.tokens.length - this.computed;
  }

  get generatedCount(): number {
    return this.tokens.length - this.promptLength;
  }

  /** How much of a cached prefix may be taken: what is still to be scored or summed has to run. */
  get reuseLimit(): number {
    if (this.row.embed) return 0;
    return this.promptScores !== null && this.#scored < this.promptLength - 1 ? this.#scored : Infinity;
  }

  /** Fills the row with the `scheduled` next tokens. Throws what the grammar throws. */
  prepareRow(): StepRow {
    const { row, scheduled, computed } = this;
    if (scheduled === 1) {
      this.#single[0] = this.tokens[computed]!;
      row.tokens = this.#single;
    } else row.tokens = this.tokens.slice(computed, computed + scheduled);
    row.past = computed;
    row.sample = this.sampler !== null && scheduled === this.remaining ? this.sampler.next() : null;
    row.score = this.#targets();
    return row;
  }

  /** Keeps what the runner found out about the scheduled tokens, before `computed` moves over them. */
  collect(result: StepResult): void {
    if (result.scores !== null && this.row.score !== null) {
      const { targets } = this.row.score;
      result.scores.forEach((score, index) => {
        if (targets[index] === SKIPPED) return;
        this.promptScores!.push(score);
        this.#scored++;
      });
    }
    if (result.hiddenSum !== null) this.#addHidden(result.hiddenSum);
  }

  /** Mean of the hidden states over the prompt. */
  embedding(): number[] {
    return Array.from(this.#hiddenSum ?? [], (sum) => sum / this.promptLength);
  }

  /** Forgets the computed tokens; the scheduler has given their pages back. */
  restart(): void {
    this.computed = 0;
    this.#hiddenSum = null;
  }

  /** Token j of the prompt is scored where token j - 1 runs; after a preemption only what is not known yet. */
  #targets(): { targets: number[]; top: number } | null {
    if (this.promptScores === null || this.#scored >= this.promptLength - 1) return null;
    const targets: number[] = [];
    for (let at = this.computed; at < this.computed + this.scheduled; at++)
      targets.push(at < this.#scored || at + 1 >= this.promptLength ? SKIPPED : this.tokens[at + 1]!);
    return { targets, top: this.#scoreTop };
  }

  #addHidden(sum: Float64Array): void {
    this.#hiddenSum ??= new Float64Array(sum.length);
    for (let index = 0; index < sum.length; index++) this.#hiddenSum[index]! += sum[index]!;
  }
}

/** Keys and values of one adapter mean nothing to another. The length keeps clients' salts from passing for a key. */
function saltOf({ cacheSalt, adapter }: GenerateRequest | EmbedRequest): string {
  return adapter == null ? `0:${cacheSalt}` : `${adapter.length}:${adapter}${cacheSalt}`;
}

const SKIPPED = -1;
