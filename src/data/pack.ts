/** Packing of documents into rows: best-fit-decreasing inside shuffled windows.
 *  Always: a pure function of (lengths, sequenceLength, seed, epoch); every document stands in exactly one row; no row is
 *  longer than `sequenceLength`. The cursor of a training run is therefore a step number and nothing else. */
import { UsageError } from "../util/errors.ts";
import { philox4x32 } from "../util/rng.ts";

export interface PackOptions {
  sequenceLength: number;
  seed: number;
  epoch: number;
  /** Documents that are packed together (default 8192): more fill rows better, fewer mix lengths better over time. */
  window?: number;
}

/** The documents of each row. */
export function packRows(lengths: ArrayLike<number>, options: PackOptions): Uint32Array[] {
  const { sequenceLength, window = 8192 } = options;
  checkLengths(lengths, sequenceLength);
  const random = new RandomStream(options.seed, options.epoch);
  const order = Uint32Array.from({ length: lengths.length }, (_, i) => i);
  shuffle(order, random);
  const packer = new WindowPacker(lengths, sequenceLength);
  const rows: Uint32Array[] = [];
  for (let from = 0; from < order.length; from += window) {
    const packed = packer.pack(order.subarray(from, from + window));
    // Rows come out with the longest documents first; steps must not.
    shuffle(packed, random);
    for (const row of packed) rows.push(Uint32Array.from(row));
  }
  return rows;
}

/** Rows of a dataset: pairs (documents 2i and 2i+1) stay in one row. */
export function packDataset(
  dataset: { lengths: Uint32Array; pairs: boolean },
  options: PackOptions,
): Uint32Array[] {
  const { lengths, pairs } = dataset;
  if (!pairs) return packRows(lengths, options);
  const sums = Uint32Array.from(
    { length: lengths.length / 2 },
    (_, i) => lengths[2 * i]! + lengths[2 * i + 1]!,
  );
  return packRows(sums, options).map((row) =>
    Uint32Array.from({ length: 2 * row.length }, (_, i) => 2 * row[i >> 1]! + (i & 1)),
  );
}

/** Tokens in rows of the whole room that the rows have, from 0 to 1. */
export function fillRatio(
  rows: readonly Uint32Array[],
  lengths: ArrayLike<number>,
  sequenceLength: number,
): number {
  let tokens = 0;
  for (const row of rows) for (const document of row) tokens += lengths[document]!;
  return rows.length === 0 ? 1 : tokens / (rows.length * sequenceLength);
}

function checkLengths(lengths: ArrayLike<number>, sequenceLength: number): void {
  for (let i = 0; i < lengths.length; i++) {
    if (lengths[i]! >= 1 && lengths[i]! <= sequenceLength) continue;
    throw new UsageError(
      `Document ${i} has ${lengths[i]} tokens, and a row holds 1 to ${sequenceLength}. Prepare the data again with this sequence length.`,
    );
  }
}

/** Best fit: the fullest row in which a document still has room. Rows are filed by the room they have left. */
class WindowPacker {
  private readonly rooms: RoomIndex;
  private readonly rowsWithRoom: number[][] = [];

  constructor(
    private readonly lengths: ArrayLike<number>,
    private readonly sequenceLength: number,
  ) {
    this.rooms = new RoomIndex(sequenceLength + 1);
  }

  pack(documents: Uint32Array): number[][] {
    const { lengths } = this;
    // Equal lengths stay in shuffled order: the sort is stable.
    const decreasing = documents.slice().sort((a, b) => lengths[b]! - lengths[a]!);
    const rows: number[][] = [];
    for (const document of decreasing) {
      const length = lengths[document]!;
      const room = this.rooms.firstAtLeast(length);
      const row = room < 0 ? rows.push([]) - 1 : this.take(room);
      rows[row]!.push(document);
      this.file(row, (room < 0 ? this.sequenceLength : room) - length);
    }
    this.rooms.clear();
    this.rowsWithRoom.length = 0;
    return rows;
  }

  private take(room: number): number {
    const rows = this.rowsWithRoom[room]!;
    const row = rows.pop()!;
    if (rows.length === 0) this.rooms.remove(room);
    return row;
  }

  private file(row: number, room: number): void {
    (this.rowsWithRoom[room] ??= []).push(row);
    this.rooms.add(room);
  }
}

/** A set of whole numbers that finds its least member from a number on: bits, and bits over words of bits. */
class RoomIndex {
  private readonly levels: Int32Array[] = [];

  constructor(size: number) {
    do {
      size = Math.ceil(size / 32);
      this.levels.push(new Int32Array(size));
    } while (size > 1);
  }

  add(value: number): void {
    for (const level of this.levels) {
      level[value >> 5]! |= 1 << (value & 31);
      value >>= 5;
    }
  }

  remove(value: number): void {
    for (const level of this.levels) {
      level[value >> 5]! &= ~(1 << (value & 31));
      if (level[value >> 5] !== 0) return;
      value >>= 5;
    }
  }

  /** -1 when there is none. */
  firstAtLeast(value: number): number {
    for (let depth = 0; depth < this.levels.length; depth++) {
      const word = this.levels[depth]![value >> 5] ?? 0;
      const later = word & (-1 << (value & 31));
      if (later !== 0) return this.descend(depth, (value & ~31) | lowestBit(later));
      value = (value >> 5) + 1;
    }
    return -1;
  }

  private descend(depth: number, value: number): number {
    for (let level = depth - 1; level >= 0; level--)
      value = (value << 5) | lowestBit(this.levels[level]![value]!);
    return value;
  }

  clear(): void {
    for (const level of this.levels) level.fill(0);
  }
}

const lowestBit = (word: number): number => 31 - Math.clz32(word & -word);

/** Fisher and Yates; in place. */
function shuffle(values: { length: number; [index: number]: unknown }, random: RandomStream): void {
  for (let i = values.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [values[i], values[j]] = [values[j], values[i]];
  }
}

/** Second key word of this use of a seed. */
const STREAM_PACKING = 0x7061636b;

/** Words of Philox under (seed, STREAM_PACKING), the epoch in the counter: four a round. */
class RandomStream {
  private index = 0;
  private words: number[] = [];

  constructor(
    private readonly seed: number,
    private readonly epoch: number,
  ) {}

  /** Uniform below `limit`; the bias of at most limit / 2^32 is far below what an order could show. */
  below(limit: number): number {
    if ((this.index & 3) === 0)
      this.words = philox4x32([this.seed, STREAM_PACKING], [this.index >>> 2, this.epoch, 0, 0]);
    return Math.floor((this.words[this.index++ & 3]! / 2 ** 32) * limit);
  }
}
