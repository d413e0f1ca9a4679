import { describe, expect, test } from "bun:test";
import { fillRatio, packDataset, packRows } from "../../src/data/pack.ts";
import { random } from "../text/corpus.ts";

/** Many short documents and a few long ones, as conversations are. */
function someLengths(count: number, sequenceLength: number): Uint32Array {
  const draw = random(7);
  return Uint32Array.from({ length: count }, () => 1 + Math.floor(draw() ** 3 * sequenceLength));
}

const lengths = someLengths(20_000, 512);
const options = { sequenceLength: 512, seed: 3, epoch: 0 };
const rows = packRows(lengths, options);
const plain = (packed: Uint32Array[]): number[][] => packed.map((row) => [...row]);

test("every document stands in one row and no row is too long", () => {
  const documents = rows.flatMap((row) => [...row]).sort((a, b) => a - b);
  expect(documents).toEqual(Array.from(lengths.keys()));
  const longest = Math.max(...rows.map((row) => row.reduce((sum, i) => sum + lengths[i]!, 0)));
  expect(longest).toBeLessThanOrEqual(512);
});

test("rows are nearly full, also for lengths that fit badly", () => {
  expect(fillRatio(rows, lengths, 512)).toBeGreaterThan(0.99);
  // Three of 300 never share a row of 512: the best that can be is 300 + 200.
  const awkward = Uint32Array.from({ length: 3000 }, (_, i) => (i % 2 === 0 ? 300 : 200));
  expect(fillRatio(packRows(awkward, options), awkward, 512)).toBeCloseTo(500 / 512, 10);
});

test("a window is packed as a plain best-fit-decreasing search packs it", () => {
  const few = someLengths(400, 64);
  const rooms: number[] = [];
  for (const length of [...few].sort((a, b) => b - a)) {
    const fits = rooms.flatMap((room, i) => (room >= length ? [i] : []));
    const best = fits.reduce((least, i) => (least < 0 || rooms[i]! < rooms[least]! ? i : least), -1);
    if (best < 0) rooms.push(64 - length);
    else rooms[best]! -= length;
  }
  const packed = packRows(few, { ...options, sequenceLength: 64 });
  const left = packed.map((row) => 64 - row.reduce((sum, i) => sum + few[i]!, 0));
  expect(left.sort((a, b) => a - b)).toEqual(rooms.sort((a, b) => a - b));
});

test("the same inputs give the same rows; seed and epoch give others", () => {
  expect(plain(packRows(Array.from(lengths), options))).toEqual(plain(rows));
  expect(plain(packRows(lengths, { ...options, epoch: 1 }))).not.toEqual(plain(rows));
  expect(plain(packRows(lengths, { ...options, seed: 4 }))).not.toEqual(plain(rows));
});

test("the order mixes: the first half of the rows has about half of the long documents", () => {
  const half = rows.slice(0, rows.length / 2);
  const long = (packed: Uint32Array[]): number =>
    packed.reduce((sum, row) => sum + row.filter((i) => lengths[i]! > 256).length, 0);
  expect(long(half) / long(rows)).toBeCloseTo(0.5, 1);
});

test("pairs stay together in one row", () => {
  const dataset = { lengths: someLengths(2000, 200), pairs: true };
  const packed = packDataset(dataset, options);
  for (const row of packed)
    for (let i = 0; i < row.length; i += 2) {
      expect(row[i]! % 2).toBe(0);
      expect(row[i + 1]!).toBe(row[i]! + 1);
    }
  expect(packed.flatMap((row) => [...row]).sort((a, b) => a - b)).toEqual(
    Array.from({ length: 2000 }, (_, i) => i),
  );
});

describe("lengths that no row can hold", () => {
  test.each([513, 0])("%d is refused with the document's number", (length) => {
    expect(() => packRows([5, length], options)).toThrow(`Document 1 has ${length} tokens`);
  });

  test("no documents are no rows", () => {
    expect(packRows([], options)).toEqual([]);
  });
});
