/** Pages of the KV cache: who reads each, and which prefixes they hold.
 *
 *  Always: every page is either in the free list (no readers) or in the page table of each of its readers.
 *  Always: only a page in exactly one table, at or behind that table's `indexed`, is written; an indexed page never is.
 *  Always: an indexed page's parent is indexed too, and has at least its readers. So a chain is evicted from its tail.
 *
 *  A prefix is found by a hash over salt, parent and tokens, and taken only when tokens, parent and salt are equal:
 *  a collision costs time, never a wrong answer. Nothing is ever copied. */
import { assert } from "../util/errors.ts";

/** The pages of one sequence in order. Made by `newPageTable`, changed by KvCache only. */
export interface PageTable {
  readonly pages: number[];
  /** This many leading pages are full and in the prefix index. */
  indexed: number;
  /** Hash of each full page seen so far; kept over a preemption, since the tokens stay the same. */
  readonly hashes: number[];
  readonly salt: string;
}

export function newPageTable(salt: string): PageTable {
  return { pages: [], indexed: 0, hashes: [], salt };
}

export class KvCache {
  readonly #readers: Int32Array;
  readonly #indexed: Uint8Array;
  // Of indexed pages: the page before (or NONE), the hash, the tokens, the next page of equal hash; the salt of first pages.
  readonly #parent: Int32Array;
  readonly #hash: Int32Array;
  readonly #tokens: Int32Array;
  readonly #sameHash: Int32Array;
  readonly #salt: (string | null)[];
  readonly #byHash = new Map<number, number>();
  // The free list is doubly linked through its sentinel `pageCount`; the front is taken first, the longest unused prefix next.
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #hashSeed: number;
  #freeCount = 0;
  #cachedCount = 0;

  /** `hashSeed` is drawn at random, so that nobody can prepare prompts whose hashes collide. */
  constructor(
    readonly pageCount: number,
    readonly pageSize: number,
    hashSeed = crypto.getRandomValues(new Int32Array(1))[0]!,
  ) {
    this.#readers = new Int32Array(pageCount);
    this.#indexed = new Uint8Array(pageCount);
    this.#parent = new Int32Array(pageCount).fill(NONE);
    this.#hash = new Int32Array(pageCount);
    this.#tokens = new Int32Array(pageCount * pageSize);
    this.#sameHash = new Int32Array(pageCount).fill(NONE);
    this.#salt = Array.from({ length: pageCount }, () => null);
    this.#next = new Int32Array(pageCount + 1).fill(pageCount);
    this.#previous = new Int32Array(pageCount + 1).fill(pageCount);
    this.#hashSeed = hashSeed;
    for (let page = 0; page < pageCount; page++) this.#pushFree(page);
  }

  /** Without readers; those that still hold a prefix included. */
  get freePages(): number {
    return this.#freeCount;
  }

  /** Without readers, but holding a prefix that `reuse` can find. */
  get cachedPages(): number {
    return this.#cachedCount;
  }

  pagesFor(tokenCount: number): number {
    return Math.ceil(tokenCount / this.pageSize);
  }

  /** Takes the longest cached prefix of at most `limit` tokens into an empty table; returns its tokens.
   *  Never the whole sequence: the last token is always computed, since someone wants its logits. */
  reuse(table: PageTable, tokens: readonly number[], limit: number): number {
    assert(table.pages.length === 0, "a table that holds pages takes no prefix");
    const most = Math.floor(Math.min(limit, tokens.length - 1) / this.pageSize);
    let parent = NONE;
    for (let index = 0; index < most; index++) {
      const page = this.#find(table, tokens, index, parent);
      if (page === NONE) break;
      this.#retain(page);
      table.pages.push(page);
      parent = page;
    }
    table.indexed = table.pages.length;
    return table.indexed * this.pageSize;
  }

  /** Pages that the table lacks for so many tokens. */
  pagesMissing(table: PageTable, tokenCount: number): number {
    return Math.max(0, this.pagesFor(tokenCount) - table.pages.length);
  }

  canGrow(table: PageTable, tokenCount: number): boolean {
    return this.pagesMissing(table, tokenCount) <= this.#freeCount;
  }

  /** Adds pages until `tokenCount` tokens fit; `canGrow` has said that there are enough. */
  grow(table: PageTable, tokenCount: number): void {
    const count = this.pagesFor(tokenCount);
    while (table.pages.length < count) table.pages.push(this.#takeFree());
  }

  /** Indexes each page that the first `computed` tokens fill. Where another sequence has indexed the same content first,
   *  the table takes that page and gives its own back: equal prefixes are held once, and a parent is never a stranger's. */
  commit(table: PageTable, tokens: readonly number[], computed: number): void {
    while ((table.indexed + 1) * this.pageSize <= computed) {
      const index = table.indexed++;
      const parent = index === 0 ? NONE : table.pages[index - 1]!;
      const page = table.pages[index]!;
      const twin = this.#find(table, tokens, index, parent);
      if (twin === NONE) {
        this.#insert(page, table, tokens, index, parent);
      } else {
        this.#retain(twin);
        table.pages[index] = twin;
        this.#release(page);
      }
    }
  }

  /** Gives all pages back, the last first, so that a prefix is forgotten from its tail. */
  release(table: PageTable): void {
    for (let index = table.pages.length - 1; index >= 0; index--) this.#release(table.pages[index]!);
    table.pages.length = 0;
    table.indexed = 0;
  }

  /** Throws where an invariant does not hold; `owners` are all tables in use. */
  check(owners: Iterable<{ table: PageTable; tokens: readonly number[] }>): void {
    const readers = new Int32Array(this.pageCount);
    for (const { table, tokens } of owners) {
      table.pages.forEach((page, index) => {
        readers[page]!++;
        const indexed = index < table.indexed;
        assert(
          this.#indexed[page] === (indexed ? 1 : 0),
          `page ${page} is indexed exactly where its table says so`,
        );
        assert(indexed || this.#readers[page] === 1, `page ${page} can be written and has one reader`);
        const parent = index === 0 ? NONE : table.pages[index - 1]!;
        assert(
          !indexed || this.#holds(page, table, tokens, index, parent),
          `page ${page} holds its reader's tokens`,
        );
      });
    }
    this.#checkPages(readers);
  }

  #checkPages(readers: Int32Array): void {
    let cached = 0;
    const free = new Set<number>();
    for (let page = this.#next[this.pageCount]!; page !== this.pageCount; page = this.#next[page]!) {
      free.add(page);
      if (this.#indexed[page]) cached++;
    }
    assert(
      free.size === this.#freeCount,
      `${free.size} pages are in the free list, ${this.#freeCount} are counted`,
    );
    assert(
      cached === this.#cachedCount,
      `${cached} free pages hold a prefix, ${this.#cachedCount} are counted`,
    );
    for (let page = 0; page < this.pageCount; page++) {
      assert(
        readers[page] === this.#readers[page],
        `page ${page} has ${readers[page]} readers, ${this.#readers[page]} counted`,
      );
      assert(free.has(page) === (readers[page] === 0), `page ${page} is free exactly when nobody reads it`);
      if (!this.#indexed[page]) continue;
      assert(this.#reachable(page), `page ${page} is found by its hash`);
      const parent = this.#parent[page]!;
      if (parent === NONE) continue;
      assert(this.#indexed[parent] === 1, `page ${page} has an indexed parent`);
      assert(readers[parent]! >= readers[page]!, `page ${page} has no more readers than its parent`);
    }
  }

  #reachable(page: number): boolean {
    let other = this.#byHash.get(this.#hash[page]!) ?? NONE;
    while (other !== NONE && other !== page) other = this.#sameHash[other]!;
    return other === page;
  }

  #find(table: PageTable, tokens: readonly number[], index: number, parent: number): number {
    let page = this.#byHash.get(this.#hashOf(table, tokens, index)) ?? NONE;
    while (page !== NONE && !this.#holds(page, table, tokens, index, parent)) page = this.#sameHash[page]!;
    return page;
  }

  #holds(page: number, table: PageTable, tokens: readonly number[], index: number, parent: number): boolean {
    if (this.#parent[page] !== parent || (parent === NONE && this.#salt[page] !== table.salt)) return false;
    const mine = page * this.pageSize;
    const theirs = index * this.pageSize;
    for (let offset = 0; offset < this.pageSize; offset++)
      if (this.#tokens[mine + offset] !== tokens[theirs + offset]) return false;
    return true;
  }

  #hashOf(table: PageTable, tokens: readonly number[], index: number): number {
    const { hashes } = table;
    while (hashes.length <= index) {
      const before = hashes.length === 0 ? hashSalt(this.#hashSeed, table.salt) : hashes[hashes.length - 1]!;
      hashes.push(hashPage(before, tokens, hashes.length * this.pageSize, this.pageSize));
    }
    return hashes[index]!;
  }

  #insert(page: number, table: PageTable, tokens: readonly number[], index: number, parent: number): void {
    const hash = this.#hashOf(table, tokens, index);
    for (let offset = 0; offset < this.pageSize; offset++)
      this.#tokens[page * this.pageSize + offset] = tokens[index * this.pageSize + offset]!;
    this.#parent[page] = parent;
    this.#salt[page] = parent === NONE ? table.salt : null;
    this.#hash[page] = hash;
    this.#indexed[page] = 1;
    this.#sameHash[page] = this.#byHash.get(hash) ?? NONE;
    this.#byHash.set(hash, page);
  }

  #forget(page: number): void {
    const hash = this.#hash[page]!;
    const after = this.#sameHash[page]!;
    const first = this.#byHash.get(hash)!;
    if (first !== page) {
      let before = first;
      while (this.#sameHash[before] !== page) before = this.#sameHash[before]!;
      this.#sameHash[before] = after;
    } else if (after === NONE) this.#byHash.delete(hash);
    else this.#byHash.set(hash, after);
    this.#indexed[page] = 0;
    this.#salt[page] = null;
  }

  #retain(page: number): void {
    if (this.#readers[page]!++ === 0) this.#unlink(page);
  }

  #release(page: number): void {
    if (--this.#readers[page]! === 0) this.#pushFree(page);
  }

  #takeFree(): number {
    const page = this.#next[this.pageCount]!;
    assert(page !== this.pageCount, "a page is free");
    this.#unlink(page);
    if (this.#indexed[page]) this.#forget(page);
    this.#readers[page] = 1;
    return page;
  }

  /** A page that holds a prefix goes to the back (least recently used first), an empty one to the front. */
  #pushFree(page: number): void {
    const end = this.pageCount;
    const before = this.#indexed[page] ? this.#previous[end]! : end;
    const after = this.#next[before]!;
    this.#next[before] = page;
    this.#previous[page] = before;
    this.#next[page] = after;
    this.#previous[after] = page;
    this.#freeCount++;
    this.#cachedCount += this.#indexed[page]!;
  }

  #unlink(page: number): void {
    const before = this.#previous[page]!;
    const after = this.#next[page]!;
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#freeCount--;
    this.#cachedCount -= this.#indexed[page]!;
  }
}

const NONE = -1;

/** 32-bit hash of one page of tokens after the hash of what lies before it (murmur3's mixing). */
export function hashPage(before: number, tokens: readonly number[], start: number, count: number): number {
  let hash = before;
  for (let index = start; index < start + count; index++) hash = mix(hash, tokens[index]!);
  return finish(hash, count);
}

export function hashSalt(seed: number, salt: string): number {
  let hash = seed;
  for (let index = 0; index < salt.length; index++) hash = mix(hash, salt.charCodeAt(index));
  return finish(hash, salt.length);
}

function mix(hash: number, value: number): number {
  const scrambled = Math.imul(value, 0xcc9e2d51);
  const turned = hash ^ Math.imul((scrambled << 15) | (scrambled >>> 17), 0x1b873593);
  return (Math.imul((turned << 13) | (turned >>> 19), 5) + 0xe6546b64) | 0;
}

function finish(hash: number, length: number): number {
  let mixed = hash ^ length;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}
