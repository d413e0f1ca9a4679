/** Which share of a query's n-grams of words stands in one text: it finds the copies inside a longer text that BLEU's brevity
 *  penalty hides. Always: words are lower-case and hold a letter or digit; a query shorter than n counts only where the
 *  whole text is that query, since "What is love" stands in many texts by chance. */
import { PairTable } from "./pair_table.ts";

export interface ContainmentHit {
  query: number;
  /** From 0 to 1. */
  share: number;
}

export class ContainmentIndex {
  private readonly trie = new PairTable();
  private readonly vocabulary = new Map<string, number>();
  /** Distinct n-grams of each query; 0 for those that are compared as a whole. */
  private readonly totals: number[] = [];
  /** By n-gram. */
  private readonly queriesOf: number[][] = [[]];
  /** Whole texts of the short queries. */
  private readonly short = new Map<string, number[]>();
  private readonly seen: Int32Array;
  private readonly found: Int32Array;
  private round = 0;

  constructor(
    queries: readonly (readonly string[])[],
    readonly n: number,
  ) {
    queries.forEach((words, query) => this.insert(words.filter(isWord), query));
    this.seen = new Int32Array(this.queriesOf.length);
    this.found = new Int32Array(queries.length);
  }

  /** Every query that shares an n-gram with the text of the lower-case tokens `words[0..count)`. */
  check(words: readonly string[], count: number): ContainmentHit[] {
    const hits = this.wholeMatches(words, count);
    const touched: number[] = [];
    this.round++;
    const ids: number[] = [];
    for (let i = 0; i < count; i++) if (isWord(words[i]!)) ids.push(this.vocabulary.get(words[i]!) ?? 0);
    let known = 0;
    for (let end = 0; end < ids.length; end++) {
      known = ids[end] === 0 ? 0 : known + 1;
      if (known < this.n) continue;
      const ngram = this.find(ids, end - this.n + 1);
      if (ngram === 0 || this.seen[ngram] === this.round) continue;
      this.seen[ngram] = this.round;
      for (const query of this.queriesOf[ngram]!) if (this.found[query]!++ === 0) touched.push(query);
    }
    for (const query of touched) {
      hits.push({ query, share: this.found[query]! / this.totals[query]! });
      this.found[query] = 0;
    }
    return hits;
  }

  private wholeMatches(words: readonly string[], count: number): ContainmentHit[] {
    // A short query has fewer than n words, and punctuation may stand beside each.
    if (count > 4 * this.n || this.short.size === 0) return [];
    const text = words.slice(0, count).filter(isWord).join(" ");
    return (this.short.get(text) ?? []).map((query) => ({ query, share: 1 }));
  }

  private insert(words: string[], query: number): void {
    this.totals.push(0);
    if (words.length < this.n) {
      if (words.length > 0) push(this.short, words.join(" "), query);
      return;
    }
    for (const word of words)
      if (!this.vocabulary.has(word)) this.vocabulary.set(word, this.vocabulary.size + 1);
    const ids = words.map((word) => this.vocabulary.get(word)!);
    for (let i = 0; i + this.n <= ids.length; i++) {
      const list = this.queriesOf[this.findOrAdd(ids, i)]!;
      if (list.at(-1) === query) continue;
      list.push(query);
      this.totals[query]!++;
    }
  }

  /** A chain of pairs: (id of the first k words, word k + 1) -> id of the first k + 1 words. */
  private find(ids: readonly number[], start: number): number {
    let node = this.root(ids[start]!);
    for (let i = start + 1; i < start + this.n && node !== 0; i++) node = this.trie.get(node, ids[i]!);
    return node;
  }

  private findOrAdd(ids: readonly number[], start: number): number {
    let node = this.root(ids[start]!, true);
    for (let i = start + 1; i < start + this.n; i++) {
      let next = this.trie.get(node, ids[i]!);
      if (next === 0) {
        next = this.queriesOf.push([]) - 1;
        this.trie.add(node, ids[i]!, next);
      }
      node = next;
    }
    return node;
  }

  private readonly roots = new Map<number, number>();

  private root(word: number, add = false): number {
    const found = this.roots.get(word);
    if (found !== undefined || !add) return found ?? 0;
    const node = this.queriesOf.push([]) - 1;
    this.roots.set(word, node);
    return node;
  }
}

/** ASCII decides at the first unit in nearly all cases. */
function isWord(token: string): boolean {
  const code = token.charCodeAt(0);
  if ((code >= 97 && code <= 122) || (code >= 48 && code <= 57)) return true;
  return /[\p{L}\p{N}]/u.test(token);
}

function push(map: Map<string, number[]>, key: string, value: number): void {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}
