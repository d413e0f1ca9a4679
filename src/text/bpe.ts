/** Byte pair encoding of one piece of text, exact to tokenizers' BPE: the pair of lowest rank merges first, at equal
 *  rank the leftmost. Short pieces are scanned and cached, long ones go through a heap, so no text costs quadratic time.
 *  Always: the cache is bounded (two generations of `cacheSize`); buffers are reused, so a Bpe is not re-entrant. */

export interface BpeOptions {
  /** Piece to id. */
  vocabulary: Map<string, number>;
  /** Id to piece. */
  pieces: readonly (string | undefined)[];
  /** Three ids a merge, by rank: left, right, both together. */
  merges: Int32Array;
  /** Pieces are UTF-8 bytes in GPT-2's alphabet; else they are characters. */
  byteLevel: boolean;
  byteFallback: boolean;
  ignoreMerges: boolean;
  fuseUnk: boolean;
  unkId: number | null;
}

const noRank = 0x7fffffff;
const shortMax = 64;
const cacheSize = 32_768;
const spaceMark = "\u2581";
const textEncoder = new TextEncoder();

export class Bpe {
  private readonly ranksOf: MergeTable;
  private readonly byteIds = new Int32Array(256).fill(-1);
  private readonly bytesComplete: boolean;
  /** No merge result has a space mark behind another character, so a cut before every run of marks changes nothing. */
  private readonly chunked: boolean;
  private young = new Map<string, readonly number[]>();
  private old = new Map<string, readonly number[]>();
  private ids = new Int32Array(256);
  private readonly ranks = new Int32Array(256);

  constructor(private readonly options: BpeOptions) {
    const { vocabulary, merges, byteLevel, ignoreMerges, pieces } = options;
    this.ranksOf = new MergeTable(merges);
    for (let byte = 0; byte < 256; byte++) {
      const name = byteLevel
        ? byteAlphabet[byte]!
        : `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
      this.byteIds[byte] = vocabulary.get(name) ?? -1;
    }
    this.bytesComplete = this.byteIds.every((byteId) => byteId >= 0);
    this.chunked = !byteLevel && !ignoreMerges && vocabulary.has(spaceMark) && !marksInside(merges, pieces);
  }

  /** Appends the ids of one pre-token. */
  encode(text: string, out: number[]): void {
    if (!this.chunked) return this.encodeChunk(text, out);
    const end = text.length;
    for (let from = 0; from < end;) {
      let to = from;
      while (to < end && text.charCodeAt(to) === 0x2581) to++;
      while (to < end && text.charCodeAt(to) !== 0x2581) to++;
      this.encodeChunk(from === 0 && to === end ? text : text.slice(from, to), out);
      from = to;
    }
  }

  private encodeChunk(chunk: string, out: number[]): void {
    const cacheable = chunk.length <= shortMax;
    const cached = cacheable ? this.lookUp(chunk) : undefined;
    if (cached) {
      for (const id of cached) out.push(id);
      return;
    }
    const start = out.length;
    const whole = this.options.ignoreMerges ? this.whole(chunk) : undefined;
    if (whole !== undefined) out.push(whole);
    else this.mergeAll(this.symbols(chunk), out);
    if (cacheable) this.remember(chunk, out.slice(start));
  }

  private whole(chunk: string): number | undefined {
    const { byteLevel, vocabulary } = this.options;
    return vocabulary.get(byteLevel ? bytesToAlphabet(textEncoder.encode(chunk)) : chunk);
  }

  private lookUp(chunk: string): readonly number[] | undefined {
    const hit = this.young.get(chunk);
    if (hit) return hit;
    const aged = this.old.get(chunk);
    if (aged) this.remember(chunk, aged);
    return aged;
  }

  private remember(chunk: string, ids: readonly number[]): void {
    if (this.young.size >= cacheSize) {
      this.old = this.young;
      this.young = new Map();
    }
    this.young.set(chunk, ids);
  }

  /** Fills `this.ids` with the symbols before any merge; returns how many. */
  private symbols(chunk: string): number {
    if (this.ids.length < chunk.length * 4) this.ids = new Int32Array(chunk.length * 8);
    return this.options.byteLevel ? this.byteSymbols(chunk) : this.characterSymbols(chunk);
  }

  private byteSymbols(chunk: string): number {
    const { fuseUnk, unkId } = this.options;
    const bytes = textEncoder.encode(chunk);
    let count = 0;
    let afterUnk = false;
    for (const byte of bytes) {
      const id = this.byteIds[byte]!;
      if (id < 0 && (unkId === null || (afterUnk && fuseUnk))) continue;
      this.ids[count++] = id < 0 ? unkId! : id;
      afterUnk = id < 0;
    }
    return count;
  }

  private characterSymbols(chunk: string): number {
    const { vocabulary, byteFallback, fuseUnk, unkId } = this.options;
    let count = 0;
    // As in tokenizers, a pending unknown is written when the next known character comes, behind bytes in between.
    let pendingUnk = false;
    for (const character of chunk) {
      const id = vocabulary.get(character);
      if (id !== undefined) {
        if (pendingUnk) this.ids[count++] = unkId!;
        pendingUnk = false;
        this.ids[count++] = id;
        continue;
      }
      const bytes = byteFallback ? textEncoder.encode(character) : null;
      if (bytes && (this.bytesComplete || bytes.every((byte) => this.byteIds[byte]! >= 0))) {
        for (const byte of bytes) this.ids[count++] = this.byteIds[byte]!;
      } else if (unkId !== null) {
        if (pendingUnk && !fuseUnk) this.ids[count++] = unkId;
        pendingUnk = true;
      }
    }
    if (pendingUnk) this.ids[count++] = unkId!;
    return count;
  }

  private mergeAll(count: number, out: number[]): void {
    if (count <= shortMax * 2) this.mergeShort(count, out);
    else this.mergeLong(count, out);
  }

  private rankAt(left: number, right: number): number {
    return this.ranksOf.rank(this.ids[left]!, this.ids[right]!);
  }

  private mergeShort(symbolCount: number, out: number[]): void {
    const { ids, ranks } = this;
    let count = symbolCount;
    for (let i = 0; i + 1 < count; i++) ranks[i] = this.rankAt(i, i + 1);
    while (count > 1) {
      let best = noRank;
      let at = -1;
      for (let i = 0; i + 1 < count; i++) {
        if (ranks[i]! < best) {
          best = ranks[i]!;
          at = i;
        }
      }
      if (at < 0) break;
      ids[at] = this.options.merges[best * 3 + 2]!;
      ids.copyWithin(at + 1, at + 2, count);
      ranks.copyWithin(at + 1, at + 2, count - 1);
      count--;
      if (at > 0) ranks[at - 1] = this.rankAt(at - 1, at);
      if (at + 1 < count) ranks[at] = this.rankAt(at, at + 1);
    }
    for (let i = 0; i < count; i++) out.push(ids[i]!);
  }

  /** Pairs wait in a heap by (rank, position); one that a neighbour's merge has changed is recognised when it surfaces. */
  private mergeLong(count: number, out: number[]): void {
    const { ids } = this;
    const next = new Int32Array(count + 1);
    const previous = new Int32Array(count + 1);
    for (let i = 0; i < count; i++) {
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    const heap = new PairHeap(count * 3);
    const offer = (at: number): void => {
      if (at < 0 || next[at]! >= count) return;
      const rank = this.rankAt(at, next[at]!);
      if (rank !== noRank) heap.push(rank, at);
    };
    for (let i = 0; i < count; i++) offer(i);
    while (heap.size > 0) {
      const { rank, at } = heap.pop();
      const right = next[at]!;
      if (ids[at]! < 0 || right >= count || this.rankAt(at, right) !== rank) continue;
      ids[at] = this.options.merges[rank * 3 + 2]!;
      ids[right] = -1;
      next[at] = next[right]!;
      previous[next[at]!] = at;
      offer(previous[at]!);
      offer(at);
    }
    for (let i = 0; i < count; i = next[i]!) out.push(ids[i]!);
  }
}

/** (left id, right id) to rank: open addressing in one Int32Array, since a Map of 280,000 pairs costs three times the memory. */
class MergeTable {
  private readonly slots: Int32Array;
  private readonly mask: number;

  constructor(merges: Int32Array) {
    let size = 16;
    while (size < (merges.length / 3) * 2) size *= 2;
    this.mask = size - 1;
    this.slots = new Int32Array(size * 3).fill(-1);
    for (let i = 0; i < merges.length; i += 3) {
      const slot = this.find(merges[i]!, merges[i + 1]!);
      this.slots[slot] = merges[i]!;
      this.slots[slot + 1] = merges[i + 1]!;
      // A pair that stands twice keeps its last rank, as in tokenizers.
      this.slots[slot + 2] = i / 3;
    }
  }

  rank(left: number, right: number): number {
    const rank = this.slots[this.find(left, right) + 2]!;
    return rank < 0 ? noRank : rank;
  }

  private find(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    for (let i = hash & this.mask; ; i = (i + 1) & this.mask) {
      const slot = i * 3;
      if (this.slots[slot]! < 0 || (this.slots[slot] === left && this.slots[slot + 1] === right)) return slot;
    }
  }
}

/** A binary heap of rank * 2^32 + position: one number orders by rank, then by place. */
class PairHeap {
  size = 0;
  private readonly keys: Float64Array;

  constructor(capacity: number) {
    this.keys = new Float64Array(capacity + 1);
  }

  push(rank: number, at: number): void {
    const { keys } = this;
    const key = rank * 0x1_0000_0000 + at;
    let i = this.size++;
    for (let parent = (i - 1) >> 1; i > 0 && keys[parent]! > key; parent = (i - 1) >> 1) {
      keys[i] = keys[parent]!;
      i = parent;
    }
    keys[i] = key;
  }

  pop(): { rank: number; at: number } {
    const { keys } = this;
    const top = keys[0]!;
    const last = keys[--this.size]!;
    let i = 0;
    for (let child = 1; child < this.size; child = 2 * i + 1) {
      if (child + 1 < this.size && keys[child + 1]! < keys[child]!) child++;
      if (keys[child]! >= last) break;
      keys[i] = keys[child]!;
      i = child;
    }
    keys[i] = last;
    return { rank: Math.floor(top / 0x1_0000_0000), at: top % 0x1_0000_0000 };
  }
}

/** GPT-2's alphabet: a printable character for each byte. */
export const byteAlphabet: readonly string[] = (() => {
  let shifted = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCodePoint(printable ? byte : shifted++);
  });
})();

const alphabetBytes = new Map(byteAlphabet.map((character, byte) => [character, byte]));

/** The bytes of a piece in GPT-2's alphabet; null where it uses another character. */
export function alphabetToBytes(piece: string): Uint8Array | null {
  const bytes: number[] = [];
  for (const character of piece) {
    const byte = alphabetBytes.get(character);
    if (byte === undefined) return null;
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

function bytesToAlphabet(bytes: Uint8Array): string {
  let piece = "";
  for (const byte of bytes) piece += byteAlphabet[byte]!;
  return piece;
}

/** Whether some merge makes a piece with a space mark behind another character. */
function marksInside(merges: Int32Array, pieces: readonly (string | undefined)[]): boolean {
  for (let i = 2; i < merges.length; i += 3) if (/[^\u2581]\u2581/u.test(pieces[merges[i]!]!)) return true;
  return false;
}
