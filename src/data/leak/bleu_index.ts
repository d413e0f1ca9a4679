/** All evaluation queries in one n-gram trie: a text is walked once and gives every query whose sentence BLEU against it
 *  exceeds the threshold. Exact: a query is only left unscored where a bound shows that it cannot reach the threshold.
 *  Always: hypothesis = query, reference = text; words that no query holds are 0 and break n-grams. */
import { bleuOfCounts, maxOrder } from "./bleu.ts";
import { PairTable } from "./pair_table.ts";

export interface BleuHit {
  query: number;
  score: number;
  /** Without smoothing: 0 where any order has no match, which tells chance hits of short queries from copies. */
  unsmoothed: number;
}

/** Rounding of bound and score may differ in the last bits; bounds give way by this much. */
const slack = 1e-6;

export class BleuIndex {
  private readonly vocabulary = new Map<string, number>();
  private readonly trie = new PairTable();
  private readonly lengths: number[];
  /** Shortest and longest texts that can reach the threshold, a query. */
  private readonly shortest: Int32Array;
  private readonly longest: Int32Array;
  /** Count of each n-gram (trie node) of each query. */
  private readonly counts: Map<number, number>[] = [];
  /** Order of each node's n-gram, from 0. */
  private readonly orders: Uint8Array;
  /** Queries for which a node is a witness: postings[from[node]] to postings[from[node + 1]]. */
  private readonly from: Int32Array;
  private readonly postings: Int32Array;

  private readonly seen: Int32Array;
  private readonly textCounts: Int32Array;
  private touched = new Int32Array(1024);
  private ids = new Int32Array(1024);
  private candidates: Int32Array;
  private round = 0;
  private readonly matches = [0, 0, 0, 0];

  constructor(
    queries: readonly (readonly string[])[],
    readonly threshold: number,
  ) {
    for (const words of queries)
      for (const word of words)
        if (!this.vocabulary.has(word)) this.vocabulary.set(word, this.vocabulary.size + 1);
    this.lengths = queries.map((words) => words.length);
    const orders = [...Array(this.vocabulary.size + 1).fill(0)] as number[];
    for (const words of queries) this.counts.push(this.insert(words, orders));
    this.orders = Uint8Array.from(orders);
    this.shortest = Int32Array.from(this.lengths, (length) => shortestText(length, threshold));
    this.longest = Int32Array.from(this.lengths, (length) => longestText(length, threshold));
    [this.from, this.postings] = this.witnesses();
    this.seen = new Int32Array(queries.length);
    this.candidates = new Int32Array(queries.length);
    this.textCounts = new Int32Array(orders.length);
  }

  get nodeCount(): number {
    return this.orders.length;
  }

  /** Queries above the threshold, by `words[0..count)` of a text. */
  check(words: readonly string[], count: number): BleuHit[] {
    const found = this.walk(words, count);
    const hits: BleuHit[] = [];
    for (let i = 0; i < found.candidates; i++) {
      const query = this.candidates[i]!;
      this.countMatches(query, found.touched);
      const length = this.lengths[query]!;
      const score = bleuOfCounts(this.matches, length, count);
      if (score > this.threshold)
        hits.push({ query, score, unsmoothed: bleuOfCounts(this.matches, length, count, false) });
    }
    for (let i = 0; i < found.touched; i++) this.textCounts[this.touched[i]!] = 0;
    return hits;
  }

  /** Counts the text's n-grams that are in the trie, and notes the queries that they are witnesses for. */
  private walk(words: readonly string[], count: number): { candidates: number; touched: number } {
    const { trie, from, postings, textCounts, seen, shortest, longest } = this;
    const ids = this.idsOf(words, count);
    const { touched } = this;
    this.round++;
    let candidates = 0;
    let touchedCount = 0;
    for (let i = 0; i < count; i++) {
      let node = ids[i]!;
      for (let order = 0; node !== 0;) {
        if (textCounts[node]!++ === 0) {
          touched[touchedCount++] = node;
          for (let k = from[node]!; k < from[node + 1]!; k++) {
            const query = postings[k]!;
            if (seen[query] === this.round) continue;
            seen[query] = this.round;
            if (count >= shortest[query]! && count <= longest[query]!) this.candidates[candidates++] = query;
          }
        }
        if (++order === maxOrder || i + order >= count || ids[i + order] === 0) break;
        node = trie.get(node, ids[i + order]!);
      }
    }
    return { candidates, touched: touchedCount };
  }

  private idsOf(words: readonly string[], count: number): Int32Array {
    if (this.ids.length < count) {
      this.ids = new Int32Array(count * 2);
      this.touched = new Int32Array(count * 2 * maxOrder);
    } else if (this.touched.length < count * maxOrder) this.touched = new Int32Array(count * 2 * maxOrder);
    for (let i = 0; i < count; i++) this.ids[i] = this.vocabulary.get(words[i]!) ?? 0;
    return this.ids;
  }

  /** Clipped matches of each order, over the shorter of the two sides' n-grams. */
  private countMatches(query: number, touchedCount: number): void {
    const { matches, orders, textCounts } = this;
    const counts = this.counts[query]!;
    matches.fill(0);
    if (counts.size < touchedCount) {
      for (const [node, count] of counts) matches[orders[node]!]! += Math.min(count, textCounts[node]!);
      return;
    }
    for (let i = 0; i < touchedCount; i++) {
      const node = this.touched[i]!;
      const count = counts.get(node);
      if (count !== undefined) matches[orders[node]!]! += Math.min(count, textCounts[node]!);
    }
  }

  private insert(words: readonly string[], orders: number[]): Map<number, number> {
    const counts = new Map<number, number>();
    for (let i = 0; i < words.length; i++) {
      let node = this.vocabulary.get(words[i]!)!;
      counts.set(node, (counts.get(node) ?? 0) + 1);
      for (let order = 1; order < maxOrder && i + order < words.length; order++) {
        const word = this.vocabulary.get(words[i + order]!)!;
        let next = this.trie.get(node, word);
        if (next === 0) {
          next = orders.push(order) - 1;
          this.trie.add(node, word, next);
        }
        node = next;
        counts.set(node, (counts.get(node) ?? 0) + 1);
      }
    }
    return counts;
  }

  private witnesses(): [from: Int32Array, postings: Int32Array] {
    const lists: number[][] = Array.from({ length: this.orders.length }, () => []);
    this.counts.forEach((counts, query) => {
      const required = requiredOrder(this.lengths[query]!, this.threshold) - 1;
      for (const node of counts.keys()) if (this.orders[node] === required) lists[node]!.push(query);
    });
    const from = new Int32Array(lists.length + 1);
    lists.forEach((list, node) => (from[node + 1] = from[node]! + list.length));
    return [from, Int32Array.from(lists.flat())];
  }
}

/** The longest n-gram that a text must share with a query of `length` words: without any of that order, even all shorter
 *  n-grams and no brevity penalty stay at or below the threshold. */
export function requiredOrder(length: number, threshold: number): number {
  for (let order = Math.min(maxOrder, length); order > 1; order--) {
    const matches = Array.from({ length: maxOrder }, (_, n) => (n < order - 1 ? Math.max(0, length - n) : 0));
    if (bleuOfCounts(matches, length, length) <= threshold - slack) return order;
  }
  return 1;
}

/** Words that a text needs at least: r words hold at most r - n + 1 n-grams. */
function shortestText(length: number, threshold: number): number {
  for (let words = 1; words < length; words++) {
    const matches = Array.from({ length: maxOrder }, (_, n) => Math.max(0, Math.min(length - n, words - n)));
    if (bleuOfCounts(matches, length, words) > threshold - slack) return words;
  }
  return length;
}

/** Words from which on the brevity penalty alone keeps the score down. */
const longestText = (length: number, threshold: number): number =>
  Math.ceil(length * (1 - Math.log(Math.max(threshold - slack, 1e-3) / 100)));
