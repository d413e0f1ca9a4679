/** A hash table from two 32-bit integers to a third in flat arrays: the edges of an n-gram trie.
 *  Always: the first key is above 0; a value of 0 means "absent"; open addressing, never more than half full. */
export class PairTable {
  private first = new Int32Array(64);
  private second = new Int32Array(64);
  private values = new Int32Array(64);
  private mask = 63;
  size = 0;

  get(a: number, b: number): number {
    for (let slot = mix(a, b) & this.mask; ; slot = (slot + 1) & this.mask) {
      const found = this.first[slot]!;
      if (found === 0) return 0;
      if (found === a && this.second[slot] === b) return this.values[slot]!;
    }
  }

  /** Of a pair that is not in the table yet. */
  add(a: number, b: number, value: number): void {
    if (++this.size * 2 > this.mask) this.grow();
    this.put(a, b, value);
  }

  private put(a: number, b: number, value: number): void {
    let slot = mix(a, b) & this.mask;
    while (this.first[slot] !== 0) slot = (slot + 1) & this.mask;
    this.first[slot] = a;
    this.second[slot] = b;
    this.values[slot] = value;
  }

  private grow(): void {
    const { first, second, values } = this;
    const length = first.length * 2;
    this.first = new Int32Array(length);
    this.second = new Int32Array(length);
    this.values = new Int32Array(length);
    this.mask = length - 1;
    for (let i = 0; i < first.length; i++) if (first[i] !== 0) this.put(first[i]!, second[i]!, values[i]!);
  }
}

/** murmur3's finalizer over both keys. */
function mix(a: number, b: number): number {
  let hash = (Math.imul(a, 0x9e3779b1) + b) | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
