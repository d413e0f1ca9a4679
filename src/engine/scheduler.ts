/** Chooses the next batch under page, token and row limits: continuous batching with chunked prefill.
 *
 *  Always: waiting and running are sorted by priority, then arrival; no sequence is in both.
 *  Always: at most maxRows rows run, and nobody is admitted in a step whose tokens the others use up. So each decoding
 *  sequence has its row in every step, and the first prefilling one at least a token.
 *  The first of the running order never loses its pages: it ends, then the next is first, so all end.
 *
 *  A sequence with a guide counts as two rows, and is admitted, preempted and removed with it. Its prompt runs first, then the
 *  guide's, which finds what they share in the cache; the last token of each runs in one step, where the answer begins. */
import { assert } from "../util/errors.ts";
import type { KvCache } from "./kv_cache.ts";
import type { Sequence } from "./sequence.ts";

export interface SchedulerLimits {
  /** Most tokens and rows of one step. */
  maxTokens: number;
  maxRows: number;
  /** Prompt and answer together. */
  maxModelLen: number;
}

export class Scheduler {
  readonly waiting: Sequence[] = [];
  readonly running: Sequence[] = [];
  preemptions = 0;
  prefixQueriesTokens = 0;
  prefixHitTokens = 0;
  readonly #batch: Sequence[] = [];
  /** The prefilling sequence of each group: the others of the group wait for its prompt. */
  readonly #leaders = new Map<string, Sequence>();
  #arrivals = 0;
  /** Head of the queue that did not fit, and the free pages then: it is not matched again before there are more. */
  #blocked: { sequence: Sequence; freePages: number } | null = null;

  constructor(
    readonly limits: SchedulerLimits,
    readonly cache: KvCache,
  ) {}

  /** The sequences of the next step, each with `scheduled` set; decoding ones first, then prefill fills the rest.
   *  The same array each time; empty when nothing is left to do. */
  schedule(): readonly Sequence[] {
    this.#batch.length = 0;
    const preemptionsBefore = this.preemptions;
    let budget = this.limits.maxTokens - this.#scheduleDecodes();
    budget -= this.#schedulePrefills(budget);
    // Whoever lost pages in this step must not take them back from a decoding neighbour at once.
    if (this.preemptions === preemptionsBefore) this.#admit(budget);
    assert(
      this.#batch.length > 0 || this.running.length + this.waiting.length === 0,
      "a step has at least one row",
    );
    return this.#batch;
  }

  /** Why this many tokens can never run here, in one sentence; null where they can. `guideTokens`: of a second prompt. */
  refusal(promptTokens: number, maxTokens: number, guideTokens: number | null = null): string | null {
    if (guideTokens !== null && guideTokens > promptTokens)
      return this.refusal(guideTokens, maxTokens, promptTokens);
    const { maxModelLen } = this.limits;
    const wanted = promptTokens + maxTokens;
    if (wanted > maxModelLen)
      return `The prompt has ${promptTokens} tokens and the answer may have ${maxTokens}, together ${wanted}, but this model takes ${maxModelLen}; shorten the prompt or lower max_tokens.`;
    const { pageCount, pageSize } = this.cache;
    const computed = promptTokens + Math.max(0, maxTokens - 1);
    if (guideTokens !== null) return this.#pairRefusal(computed, computed - promptTokens + guideTokens);
    if (this.cache.pagesFor(computed) > pageCount)
      return `The prompt has ${promptTokens} tokens and the answer may have ${maxTokens}, but the whole KV cache holds ${pageCount * pageSize} tokens; shorten the prompt, lower max_tokens or give the server a larger cache.`;
    return null;
  }

  #pairRefusal(tokens: number, guideTokens: number): string | null {
    const { maxRows, maxTokens } = this.limits;
    if (Math.min(maxRows, maxTokens) < 2)
      return "A contrasted answer takes two sequences, but this engine runs one at a time; give the server more, or leave contrast out.";
    const { cache } = this;
    if (cache.pagesFor(tokens) + cache.pagesFor(guideTokens) <= cache.pageCount) return null;
    return `A contrasted answer keeps two sequences, here of up to ${tokens} and ${guideTokens} tokens, but the whole KV cache holds ${cache.pageCount * cache.pageSize}; shorten the prompt, lower max_tokens or give the server a larger cache.`;
  }

  add(sequence: Sequence): void {
    sequence.arrival = this.#arrivals++;
    insertSorted(this.waiting, sequence);
  }

  /** Moves on by what the step has computed, and lets others find the full pages. */
  advance(sequence: Sequence): void {
    sequence.computed += sequence.scheduled;
    sequence.scheduled = 0;
    this.cache.commit(sequence.table, sequence.tokens, sequence.computed);
    if (sequence.computed >= sequence.promptLength) this.#stopLeading(sequence);
  }

  /** Finished or aborted: pages are free at once. */
  remove(sequence: Sequence): void {
    if (!removeFrom(this.running, sequence)) removeFrom(this.waiting, sequence);
    this.#stopLeading(sequence);
    this.#release(sequence);
  }

  #release({ table, guide }: Sequence): void {
    this.cache.release(table);
    if (guide !== null) this.cache.release(guide.table);
  }

  #scheduleDecodes(): number {
    let rows = 0;
    for (let index = 0; index < this.running.length; index++) {
      const sequence = this.running[index]!;
      if (!sequence.decoding) continue;
      if (!this.#makeRoom(sequence)) break;
      this.cache.grow(sequence.table, sequence.tokens.length);
      rows += this.#run(sequence, 1);
      if (sequence.guide === null) continue;
      this.cache.grow(sequence.guide.table, sequence.guide.tokens.length);
      rows += this.#run(sequence.guide, 1);
    }
    return rows;
  }

  #run(sequence: Sequence, tokens: number): number {
    sequence.scheduled = tokens;
    if (tokens > 0) this.#batch.push(sequence);
    return tokens;
  }

  #schedulePrefills(budget: number): number {
    let used = 0;
    for (let index = 0; index < this.running.length && used < budget; index++) {
      const sequence = this.running[index]!;
      if (sequence.scheduled > 0) continue;
      used += this.#scheduleChunk(sequence, budget - used);
    }
    return used;
  }

  #admit(budget: number): void {
    if (this.waiting.length === 0) return;
    let left = budget;
    let reserve = this.#reserve();
    let rows = this.running.reduce((sum, { rowCount }) => sum + rowCount, 0);
    const rowsMax = Math.min(this.limits.maxRows, this.limits.maxTokens);
    let index = 0;
    while (index < this.waiting.length && rows < rowsMax && left > 0) {
      const sequence = this.waiting[index]!;
      if (this.#mustFollow(sequence)) {
        index++;
        continue;
      }
      // Smaller requests behind it wait too: passing by would starve the large ones.
      if (rows + sequence.rowCount > rowsMax || !this.#allocate(sequence, reserve)) break;
      rows += sequence.rowCount;
      this.waiting.splice(index, 1);
      insertSorted(this.running, sequence);
      this.#lead(sequence);
      left -= this.#scheduleChunk(sequence, left);
      reserve += this.#growing(sequence);
    }
  }

  /** Takes the cached prefix and pages for all known tokens, if `reserve` pages stay free; takes nothing otherwise. */
  #allocate(sequence: Sequence, reserve: number): boolean {
    const { cache } = this;
    const { table, tokens, guide } = sequence;
    if (this.#blocked?.sequence === sequence && cache.freePages <= this.#blocked.freePages) return false;
    const freePages = cache.freePages;
    const reused = cache.reuse(table, tokens, sequence.reuseLimit);
    const ofGuide = guide === null ? 0 : cache.pagesFor(guide.tokens.length) + this.#ownGrowth(guide);
    const others = reserve + this.#ownGrowth(sequence) + ofGuide;
    if (!cache.canGrow(table, tokens.length + others * cache.pageSize)) {
      cache.release(table);
      this.#blocked = { sequence, freePages };
      return false;
    }
    this.#blocked = null;
    cache.grow(table, tokens.length);
    if (guide !== null) cache.grow(guide.table, guide.tokens.length);
    sequence.computed = reused;
    if (sequence.cachedTokens === null) {
      sequence.cachedTokens = reused;
      this.prefixQueriesTokens += sequence.promptLength;
      this.prefixHitTokens += reused;
    }
    return true;
  }

  #ownGrowth({ tokensMax, tokens }: Sequence): number {
    return this.cache.pagesFor(tokensMax) > this.cache.pagesFor(tokens.length) ? 1 : 0;
  }

  #scheduleChunk(sequence: Sequence, budget: number): number {
    const { guide } = sequence;
    if (guide === null) return this.#run(sequence, Math.min(sequence.remaining, budget));
    if (sequence.remaining > 1) return this.#run(sequence, Math.min(sequence.remaining - 1, budget));
    if (guide.computed === 0) this.#sharePrefix(guide);
    if (guide.remaining < budget) return this.#run(sequence, 1) + this.#run(guide, guide.remaining);
    return this.#run(guide, Math.min(guide.remaining - 1, budget));
  }

  /** Exchanges the guide's pages for those that its leader has filled meanwhile; that takes no more than it gives back. */
  #sharePrefix(guide: Sequence): void {
    const { table, tokens } = guide;
    this.cache.release(table);
    guide.computed = this.cache.reuse(table, tokens, Infinity);
    this.cache.grow(table, tokens.length);
  }

  /** Takes pages from the last of the running order until the next token of `sequence` fits; false where it was itself the last. */
  #makeRoom(sequence: Sequence): boolean {
    while (this.#missing(sequence) > this.cache.freePages) {
      const victim = this.running[this.running.length - 1]!;
      this.#preempt(victim);
      if (victim === sequence) return false;
    }
    return true;
  }

  /** Pages that it and its guide lack for their next tokens. */
  #missing({ table, tokens, guide }: Sequence): number {
    const own = this.cache.pagesMissing(table, tokens.length);
    return guide === null ? own : own + this.cache.pagesMissing(guide.table, guide.tokens.length);
  }

  #preempt(victim: Sequence): void {
    this.running.pop();
    this.#stopLeading(victim);
    this.#release(victim);
    victim.restart();
    victim.guide?.restart();
    insertSorted(this.waiting, victim);
    this.preemptions++;
  }

  /** One page for each running sequence that will want more: so whoever is admitted is not preempted in its next `pageSize` steps. */
  #reserve(): number {
    let pages = 0;
    for (let index = 0; index < this.running.length; index++) pages += this.#growing(this.running[index]!);
    return pages;
  }

  #growing({ tokensMax, table, guide }: Sequence): number {
    const own = this.cache.pagesFor(tokensMax) > table.pages.length ? 1 : 0;
    return guide === null ? own : own + this.#growing(guide);
  }

  #mustFollow(sequence: Sequence): boolean {
    const { group, promptLength } = sequence;
    if (group === null || promptLength <= this.cache.pageSize || sequence.reuseLimit === 0) return false;
    return this.#leaders.has(group);
  }

  /** Whoever has more than a page of its prompt to compute makes the rest of its group wait for it. */
  #lead(sequence: Sequence): void {
    const { group, remaining } = sequence;
    if (group !== null && remaining > this.cache.pageSize && !this.#leaders.has(group))
      this.#leaders.set(group, sequence);
  }

  #stopLeading(sequence: Sequence): void {
    if (sequence.group !== null && this.#leaders.get(sequence.group) === sequence)
      this.#leaders.delete(sequence.group);
  }
}

function before(a: Sequence, b: Sequence): boolean {
  return a.priority !== b.priority ? a.priority < b.priority : a.arrival < b.arrival;
}

function insertSorted(list: Sequence[], sequence: Sequence): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (before(list[middle]!, sequence)) low = middle + 1;
    else high = middle;
  }
  list.splice(low, 0, sequence);
}

function removeFrom(list: Sequence[], sequence: Sequence): boolean {
  const index = list.indexOf(sequence);
  if (index >= 0) list.splice(index, 1);
  return index >= 0;
}
