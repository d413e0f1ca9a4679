/** One case of the op table: what it calls, what it costs, what its float64 formula says; and the pieces that cases are made of. */

import { decode, Random, zeros, type Elements, type FloatType, type Target } from "./target.ts";

export interface Case {
  name: string;
  /** Floating-point operations and bytes that must be read or written, of one call. */
  flops: number;
  bytes: number;
  /** Largest normalised mean square error. */
  tolerance: number;
  prepare(target: Target): Prepared;
}

export interface Prepared {
  call(): void;
  /** What the call wrote. */
  actual(): Float64Array;
  expected(): Float64Array;
  /** Gives back memory that is not the garbage collector's. */
  release?(): void;
}

/** Errors by what the results are rounded to: float32 sums, bf16 results, float64 throughout. */
export const TOLERANCE = { f32: 1e-11, bf16: 1e-5, f64: 1e-26, f16: 1e-11 } as const;

export const bytesOf = (type: FloatType) => (type === "f64" ? 8 : type === "f32" ? 4 : 2);

/** A case of one output array. */
export function simple(
  name: string,
  dtype: FloatType,
  cost: { flops: number; bytes: number },
  make: (target: Target, random: Random) => { call(): void; y: Elements; formula(): Float64Array },
): Case {
  return {
    name,
    ...cost,
    tolerance: TOLERANCE[dtype],
    prepare(target) {
      const { call, y, formula } = make(target, new Random(name.length));
      return { call, actual: () => decode(y, dtype), expected: formula };
    },
  };
}

export function fill(
  rows: number,
  columns: number,
  value: (row: number, column: number) => number,
): Float64Array {
  return Float64Array.from({ length: rows * columns }, (_, i) => value(Math.floor(i / columns), i % columns));
}

export function normalised(
  x: Float64Array,
  weightOf: (row: number) => Float64Array,
  rows: number,
  D: number,
  eps: number,
): Float64Array {
  const out = new Float64Array(rows * D);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let d = 0; d < D; d++) squares += x[r * D + d]! ** 2;
    const weight = weightOf(r);
    for (let d = 0; d < D; d++) out[r * D + d] = (x[r * D + d]! / Math.sqrt(squares / D + eps)) * weight[d]!;
  }
  return out;
}

export function shuffled(n: number, random: Random): number[] {
  const list = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}

export function concatenate(parts: Elements[], type: FloatType): Elements {
  const out = zeros(
    parts.reduce((sum, part) => sum + part.length, 0),
    type,
  );
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
