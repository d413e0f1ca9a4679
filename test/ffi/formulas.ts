/** Forward formulas in float64 that several tests share. Row-major arrays. */

export function logSoftmax(
  x: Float64Array,
  targets: number[],
  R: number,
  V: number,
): { logprobs: Float64Array; lse: Float64Array } {
  const lse = Float64Array.from({ length: R }, (_, r) => {
    const row = x.subarray(r * V, (r + 1) * V);
    const top = row.reduce((a, b) => Math.max(a, b), -Infinity);
    return top + Math.log(row.reduce((sum, v) => sum + Math.exp(v - top), 0));
  });
  return { lse, logprobs: lse.map((sum, r) => (targets[r]! < 0 ? 0 : x[r * V + targets[r]!]! - sum)) };
}

export function product(
  x: Float64Array,
  w: Float64Array,
  bias: Float64Array,
  T: number,
  N: number,
  K: number,
): Float64Array {
  return fill(T, N, (t, n) => {
    let sum = bias[n]!;
    for (let k = 0; k < K; k++) sum += x[t * K + k]! * w[n * K + k]!;
    return sum;
  });
}

export function fill(
  rows: number,
  columns: number,
  value: (row: number, column: number) => number,
): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[r * columns + c] = value(r, c);
  return out;
}

export function normalise(
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
    const [weight, scale] = [weightOf(r), 1 / Math.sqrt(squares / D + eps)];
    for (let d = 0; d < D; d++) out[r * D + d] = x[r * D + d]! * scale * weight[d]!;
  }
  return out;
}
