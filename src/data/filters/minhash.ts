/** MinHash signatures of word n-grams, their LSH buckets, and the union of what fell into one bucket.
 *  Always: documents get the numbers 0, 1, ... in order; with b bands of r rows two documents of Jaccard similarity s meet
 *  with probability 1 - (1 - s^r)^b, which for 14 x 8 is one half at 0.685 (datatrove's setting). */
import { PairTable } from "../leak/pair_table.ts";

export interface MinHashSettings {
  bands: number;
  rows: number;
  ngram: number;
  seed: number;
}

export class MinHash {
  private readonly multipliers: Uint32Array;
  private readonly offsets: Uint32Array;
  private readonly signature: Uint32Array;
  private readonly buckets: PairTable[];
  private parents = new Int32Array(1024);
  count = 0;

  constructor(private readonly settings: MinHashSettings) {
    const { bands, rows, seed } = settings;
    let state = seed >>> 0;
    // Numerical Recipes' generator: any fixed odd multipliers do.
    const next = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0);
    this.multipliers = Uint32Array.from({ length: bands * rows }, () => next() | 1);
    this.offsets = Uint32Array.from({ length: bands * rows }, next);
    this.signature = new Uint32Array(bands * rows);
    this.buckets = Array.from({ length: bands }, () => new PairTable());
  }

  /** Adds the next document and joins it with those it meets in a bucket. */
  add(text: string): number {
    const document = this.count++;
    if (document === this.parents.length) {
      const parents = new Int32Array(document * 2);
      parents.set(this.parents);
      this.parents = parents;
    }
    this.parents[document] = document;
    if (this.sign(text)) this.meet(document);
    return document;
  }

  /** The smallest number of the documents that are joined with this one. */
  root(document: number): number {
    const { parents } = this;
    while (parents[document] !== document) {
      parents[document] = parents[parents[document]!]!;
      document = parents[document]!;
    }
    return document;
  }

  /** False for a text without words, which is like no other. */
  private sign(text: string): boolean {
    const hashes = wordsOf(text).map(wordHash);
    if (hashes.length === 0) return false;
    const { signature, multipliers, offsets } = this;
    const { ngram } = this.settings;
    signature.fill(0xffffffff);
    // A text shorter than an n-gram is one n-gram.
    const starts = Math.max(1, hashes.length - ngram + 1);
    for (let start = 0; start < starts; start++) {
      const end = Math.min(start + ngram, hashes.length);
      let hash = 0;
      for (let i = start; i < end; i++) hash = Math.imul(hash, 0x01000193) ^ hashes[i]!;
      hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
      hash ^= hash >>> 12;
      for (let k = 0; k < signature.length; k++) {
        let value = Math.imul(hash, multipliers[k]!) + offsets[k]!;
        value = (value ^ (value >>> 16)) >>> 0;
        if (value < signature[k]!) signature[k] = value;
      }
    }
    return true;
  }

  private meet(document: number): void {
    const { rows } = this.settings;
    this.buckets.forEach((bucket, band) => {
      let first = band;
      let second = ~band;
      for (let row = 0; row < rows; row++) {
        const value = this.signature[band * rows + row]!;
        first = Math.imul(first ^ value, 0x85ebca6b);
        first ^= first >>> 13;
        second = Math.imul(second ^ value, 0xc2b2ae35);
        second ^= second >>> 16;
      }
      first ||= 1; // 0 marks a free slot
      const met = bucket.get(first, second);
      if (met === 0) bucket.add(first, second, document + 1);
      else this.join(met - 1, document);
    });
  }

  private join(a: number, b: number): void {
    const [rootA, rootB] = [this.root(a), this.root(b)];
    this.parents[Math.max(rootA, rootB)] = Math.min(rootA, rootB);
  }
}

/** Runs of letters and digits; signs of scripts without spaces are words of their own. */
function wordsOf(text: string): string[] {
  const lower = text.normalize("NFKC").toLowerCase();
  const pattern = spaceless.test(lower) ? signsAndWords : words;
  return lower.match(pattern) ?? [];
}

const spaceless = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;
const words = /[\p{L}\p{M}\p{N}]+/gu;
const signsAndWords = new RegExp(
  `${spaceless.source}|(?:(?!${spaceless.source})[\\p{L}\\p{M}\\p{N}])+`,
  "gu",
);

/** FNV-1a. */
function wordHash(word: string): number {
  let hash = 2166136261;
  for (let i = 0; i < word.length; i++) hash = Math.imul(hash ^ word.charCodeAt(i), 16777619);
  return hash;
}
