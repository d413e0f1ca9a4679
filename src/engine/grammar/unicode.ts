/** Sets of Unicode code points, and the well-formed UTF-8 that spells them. Surrogates are never spelled. */
import type { Pattern, ProgramBuilder } from "./program.ts";

/** Sorted, disjoint, inclusive. */
export type CodePoints = readonly (readonly [low: number, high: number])[];

export const anyCodePoint: CodePoints = [[0, 0x10ffff]];

/** Sorts and joins. */
export function union(...sets: CodePoints[]): CodePoints {
  const all = sets.flat().toSorted((x, y) => x[0] - y[0]);
  const result: [number, number][] = [];
  for (const [low, high] of all) {
    const last = result.at(-1);
    if (last !== undefined && low <= last[1] + 1) last[1] = Math.max(last[1], high);
    else result.push([low, high]);
  }
  return result;
}

export function complement(set: CodePoints): CodePoints {
  const result: [number, number][] = [];
  let from = 0;
  for (const [low, high] of set) {
    if (low > from) result.push([from, low - 1]);
    from = high + 1;
  }
  if (from <= 0x10ffff) result.push([from, 0x10ffff]);
  return result;
}

export function without(set: CodePoints, removed: CodePoints): CodePoints {
  return complement(union(complement(set), removed));
}

export function intersection(x: CodePoints, y: CodePoints): CodePoints {
  const result: [number, number][] = [];
  for (let i = 0, j = 0; i < x.length && j < y.length;) {
    const low = Math.max(x[i]![0], y[j]![0]);
    const high = Math.min(x[i]![1], y[j]![1]);
    if (low <= high) result.push([low, high]);
    if (x[i]![1] < y[j]![1]) i++;
    else j++;
  }
  return result;
}

export function has(set: CodePoints, codePoint: number): boolean {
  return set.some(([low, high]) => low <= codePoint && codePoint <= high);
}

/** One code point of the set, in UTF-8. */
export function utf8(set: CodePoints): Pattern {
  return (build, next) => {
    const tails = new Map<string, number>();
    const ascii = set
      .filter(([low]) => low < 0x80)
      .map(([low, high]) => [low, Math.min(high, 0x7f)] as const);
    let entry = ascii.length > 0 ? build.byte(ascii, next) : -1;
    for (const [low, high] of set) {
      for (const part of splitByLength(low, high)) {
        for (const ranges of byteRanges(part[0], part[1])) {
          const state = emitRanges(build, { ranges, next, tails });
          entry = entry < 0 ? state : build.split(state, entry);
        }
      }
    }
    return entry < 0 ? build.byte([], next) : entry;
  };
}

/** Equal tails share their states: "any code point" takes about a dozen. */
function emitRanges(
  build: ProgramBuilder,
  at: { ranges: [number, number][]; next: number; tails: Map<string, number> },
): number {
  let { next } = at;
  for (let i = at.ranges.length - 1; i >= 0; i--) {
    const range = at.ranges[i]!;
    const key = `${range[0]},${range[1]},${next}`;
    const known = at.tails.get(key);
    next = known ?? build.byte([range], next);
    if (known === undefined) at.tails.set(key, next);
  }
  return next;
}

/** Ranges within one encoded length of two bytes or more, surrogates left out. */
function splitByLength(low: number, high: number): [number, number][] {
  const spans = [
    [0x80, 0x7ff],
    [0x800, 0xd7ff],
    [0xe000, 0xffff],
    [0x10000, 0x10ffff],
  ] as const;
  return spans
    .map(([from, to]): [number, number] => [Math.max(low, from), Math.min(high, to)])
    .filter(([from, to]) => from <= to);
}

/** Sequences of byte ranges whose products cover [low, high]; both have the same encoded length. */
function byteRanges(low: number, high: number): [number, number][][] {
  const length = low < 0x800 ? 2 : low < 0x10000 ? 3 : 4;
  for (let i = 1; i < length; i++) {
    const rest = (1 << (6 * i)) - 1;
    if ((low & ~rest) === (high & ~rest)) continue;
    if ((low & rest) !== 0) return [...byteRanges(low, low | rest), ...byteRanges((low | rest) + 1, high)];
    if ((high & rest) !== rest)
      return [...byteRanges(low, (high & ~rest) - 1), ...byteRanges(high & ~rest, high)];
  }
  const lowBytes = encode(low, length);
  const highBytes = encode(high, length);
  return [lowBytes.map((x, i): [number, number] => [x, highBytes[i]!])];
}

function encode(codePoint: number, length: number): number[] {
  const result: number[] = [];
  for (let i = length - 1; i > 0; i--) {
    result.unshift(0x80 | (codePoint & 63));
    codePoint >>= 6;
  }
  return [((0xff00 >> length) & 0xff) | codePoint, ...result];
}
