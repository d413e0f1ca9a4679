/** Pages, readers and the prefix index, with the invariants checked after each change. */
import { describe, expect, test } from "bun:test";
import { hashPage, hashSalt, KvCache, newPageTable } from "../../src/engine/kv_cache.ts";

function range(start: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => start + index);
}

/** A sequence that has computed all its tokens. */
function filled(cache: KvCache, tokens: number[], salt = "") {
  const owner = { table: newPageTable(salt), tokens };
  cache.reuse(owner.table, tokens, Infinity);
  cache.grow(owner.table, tokens.length);
  cache.commit(owner.table, tokens, tokens.length);
  return owner;
}

describe("prefixes", () => {
  test("a second prompt takes the full pages of the first, but never its own last token", () => {
    const cache = new KvCache(16, 4);
    const first = filled(cache, range(0, 10));
    const second = { table: newPageTable(""), tokens: range(0, 8) };
    expect(cache.reuse(second.table, second.tokens, Infinity)).toBe(4);
    expect(second.table.pages).toEqual(first.table.pages.slice(0, 1));
    cache.check([first, second]);
    const third = { table: newPageTable(""), tokens: [...range(0, 8), 99] };
    expect(cache.reuse(third.table, third.tokens, Infinity)).toBe(8);
    cache.check([first, second, third]);
  });

  test("a prefix stays after its owner has left, until its page is needed", () => {
    const cache = new KvCache(4, 4);
    cache.release(filled(cache, range(0, 16)).table);
    expect([cache.freePages, cache.cachedPages]).toEqual([4, 4]);
    const again = { table: newPageTable(""), tokens: range(0, 16) };
    expect(cache.reuse(again.table, again.tokens, Infinity)).toBe(12);
    cache.release(again.table);
    filled(cache, range(100, 4));
    // The tail of the old prefix went first.
    const shorter = { table: newPageTable(""), tokens: range(0, 16) };
    expect(cache.reuse(shorter.table, shorter.tokens, Infinity)).toBe(12);
    expect(cache.cachedPages).toBe(0);
  });

  test("the least recently used prefix is forgotten first", () => {
    const cache = new KvCache(4, 4);
    const old = filled(cache, range(0, 8));
    const recent = filled(cache, range(50, 8));
    cache.release(recent.table);
    cache.release(old.table);
    filled(cache, range(90, 8));
    const probe = (start: number) => cache.reuse(newPageTable(""), [...range(start, 8), 1], Infinity);
    expect([probe(50), probe(0)]).toEqual([0, 8]);
  });

  test("salts do not see each other's prefixes", () => {
    const cache = new KvCache(8, 4);
    filled(cache, range(0, 8), "tenant a");
    expect(cache.reuse(newPageTable("tenant b"), range(0, 9), Infinity)).toBe(0);
    expect(cache.reuse(newPageTable("tenant a"), range(0, 9), Infinity)).toBe(8);
  });

  test("two sequences that computed the same prefix at once end up on one page", () => {
    const cache = new KvCache(8, 4);
    const twins = [0, 1].map(() => ({ table: newPageTable(""), tokens: range(0, 6) }));
    for (const { table } of twins) cache.grow(table, 6);
    expect(cache.freePages).toBe(4);
    for (const { table, tokens } of twins) cache.commit(table, tokens, 6);
    expect(twins[0]!.table.pages[0]).toBe(twins[1]!.table.pages[0]!);
    expect(cache.freePages).toBe(5);
    cache.check(twins);
  });

  test("the same page of tokens behind another prefix is another page", () => {
    const cache = new KvCache(8, 4);
    filled(cache, [...range(0, 4), ...range(50, 4)]);
    filled(cache, range(20, 4));
    expect(cache.reuse(newPageTable(""), [...range(20, 4), ...range(50, 4), 1], Infinity)).toBe(4);
  });

  test("pages of equal hash and different tokens are kept apart", () => {
    const seed = 42;
    const cache = new KvCache(8, 2, seed);
    const [a, b] = collidingPages(seed);
    expect(a).not.toEqual(b);
    const first = filled(cache, a);
    expect(cache.reuse(newPageTable(""), [...b, 1], Infinity)).toBe(0);
    const second = filled(cache, b);
    cache.check([first, second]);
    for (const tokens of [a, b]) {
      const table = newPageTable("");
      cache.reuse(table, [...tokens, 1], Infinity);
      expect(table.pages).toEqual(tokens === a ? first.table.pages : second.table.pages);
      cache.release(table);
    }
    cache.release(first.table);
    cache.release(second.table);
    cache.check([]);
    filled(cache, range(0, 14));
    expect([a, b].map((tokens) => cache.reuse(newPageTable(""), [...tokens, 1], Infinity))).toEqual([0, 2]);
  });
});

describe("a collision of hashes", () => {
  test("behind two prefixes does not mix what follows them", () => {
    const seed = 42;
    const cache = new KvCache(8, 2, seed);
    const [a, b] = collidingPages(seed);
    const owners = [filled(cache, [...a, 7, 8]), filled(cache, b)];
    expect(cache.reuse(newPageTable(""), [...b, 7, 8, 1], Infinity)).toBe(2);
    owners.push(filled(cache, [...b, 7, 8]));
    expect(owners[0]!.table.pages[1]).not.toBe(owners[2]!.table.pages[1]);
  });

  test("of two salts does not mix their tenants", () => {
    const seed = 42;
    const cache = new KvCache(8, 2, seed);
    const [salt, other] = firstCollision(
      (draw) => `tenant ${draw}`,
      (value) => hashSalt(seed, value),
    );
    filled(cache, [1, 2], salt);
    expect(cache.reuse(newPageTable(other), [1, 2, 3], Infinity)).toBe(0);
    expect(cache.reuse(newPageTable(salt), [1, 2, 3], Infinity)).toBe(2);
  });
});

describe("check", () => {
  test("notices a page that is not given back, a stranger's page and a rewritten prefix", () => {
    const cache = new KvCache(8, 4);
    const owner = filled(cache, range(0, 6));
    expect(() => cache.check([])).toThrow("readers");
    const other = filled(cache, range(10, 6));
    const [page] = owner.table.pages;
    owner.table.pages[1] = other.table.pages[1]!;
    expect(() => cache.check([owner, other])).toThrow();
    owner.table.pages[1] = page!;
    expect(() => cache.check([owner, other])).toThrow();
    expect(() => cache.check([{ table: other.table, tokens: range(11, 6) }])).toThrow(
      "holds its reader's tokens",
    );
  });
});

/** Two first pages of two tokens whose hashes are equal. */
function collidingPages(seed: number): [number[], number[]] {
  const start = hashSalt(seed, "");
  return firstCollision(
    (draw) => [Math.imul(draw, 2654435761) >>> 1, draw],
    (page) => hashPage(start, page, 0, 2),
  );
}

/** Draws until the birthday paradox gives two values of equal hash. */
function firstCollision<T>(make: (draw: number) => T, hash: (value: T) => number): [T, T] {
  const seen = new Map<number, T>();
  for (let draw = 0; ; draw++) {
    const value = make(draw);
    const known = seen.get(hash(value));
    if (known !== undefined) return [known, value];
    seen.set(hash(value), value);
  }
}
