/** A text as a sparse vector: hashed n-grams of characters inside words, single words and pairs of words.
 *  Always: the same text gives the same vector on every machine; letter case and runs of white space do not matter. */

export interface SparseVector {
  /** Ascending. */
  indices: Int32Array;
  /** 1 + log of how often: a word said fifty times must not hide the others. */
  values: Float32Array;
}

export const bucketCount = 2 ** 16;
const gramsFrom = 3;
const gramsTo = 5;
/** Longer words are rarely words. */
const wordMax = 40;

export function features(text: string): SparseVector {
  const counts = new Map<number, number>();
  const add = (hash: number): void => {
    const bucket = mix(hash) & (bucketCount - 1);
    counts.set(bucket, (counts.get(bucket) ?? 0) + 1);
  };
  const words =
    text
      .normalize("NFKC")
      .toLowerCase()
      .match(/[\p{L}\p{N}']+|[^\s\p{L}\p{N}']/gu) ?? [];
  let previous = "";
  for (const whole of words) {
    const word = whole.slice(0, wordMax);
    add(hashOf(`1${word}`, 0, word.length + 1));
    if (previous !== "") add(hashOf(`2${previous} ${word}`, 0, previous.length + word.length + 2));
    addGrams(` ${word} `, add);
    previous = word;
  }
  const indices = Int32Array.from(counts.keys()).sort();
  return { indices, values: Float32Array.from(indices, (index) => 1 + Math.log(counts.get(index)!)) };
}

function addGrams(word: string, add: (hash: number) => void): void {
  for (let length = gramsFrom; length <= gramsTo; length++)
    for (let from = 0; from + length <= word.length; from++) add(hashOf(word, from, from + length));
}

/** Times the rarity of each bucket, to length 1: tf-idf. `idf` has an entry a bucket. */
export function weigh({ indices, values }: SparseVector, idf: ArrayLike<number>): SparseVector {
  const weighed = values.map((value, i) => value * idf[indices[i]!]!);
  const length = Math.sqrt(weighed.reduce((sum, value) => sum + value * value, 0));
  return { indices, values: length === 0 ? weighed : weighed.map((value) => value / length) };
}

/** How rare each bucket is among these texts, in steps of `idfStep`: 1 + log((n + 1) / (texts with it + 1)). */
export function rarity(vectors: readonly SparseVector[]): Uint8Array {
  const texts = new Uint32Array(bucketCount);
  for (const { indices } of vectors) for (const index of indices) texts[index]!++;
  return Uint8Array.from(texts, (count) =>
    Math.min(255, Math.round((1 + Math.log((vectors.length + 1) / (count + 1))) / idfStep)),
  );
}

/** One byte a bucket; up to 12.75, which is 127 000 texts. Its size cancels out in the vector's length. */
const idfStep = 0.05;

/** FNV-1a over UTF-16 units. */
function hashOf(text: string, from: number, to: number): number {
  let hash = 0x811c9dc5;
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash;
}

/** MurmurHash3's last steps: FNV's low bits alone are poor. */
function mix(hash: number): number {
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
