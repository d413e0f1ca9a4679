/** Ops at large sizes: how each is called, what it costs, and its float64 formula at some of its places. */
import { Ops } from "../../src/tensor/ops.ts";
import { bytesOf, type Tensor } from "../../src/tensor/tensor.ts";
import { type FloatType, type OpMemory, rounded } from "./op_memory.ts";

export interface OpCase {
  name: string;
  dtype: FloatType;
  flops: number;
  bytes: number;
  call(): void;
  /** What the call wrote, and the formula, at the same places. */
  actual(): number[];
  expected(): number[];
}

const placesMost = 1500;
const pageSize = 32;

/** About `placesMost` places of `size`, spread evenly and not on a power of two. */
const somePlaces = (size: number): number[] =>
  Array.from({ length: Math.min(size, placesMost) }, (_, i) =>
    Math.floor((i * size) / Math.min(size, placesMost)),
  );

/** Where the output was not written it is NaN, and so is the error. */
function sampled(memory: OpMemory, output: Tensor, formula: (place: number) => number) {
  const places = somePlaces(output.size);
  return {
    actual: () => {
      const values = memory.read(output);
      return places.map((place) => values[place] as number);
    },
    expected: () => places.map(formula),
  };
}

export function matmulOp(memory: OpMemory, o: { T: number; N: number; K: number; dtype: FloatType }): OpCase {
  const { T, N, K, dtype } = o;
  const ops = new Ops(memory.device);
  const x = memory.random([T, K], dtype);
  const w = memory.matrix(N, K);
  const y = memory.output([T, N], dtype);
  const input = rounded(x.values);
  return {
    name: `matmul ${T} x ${N} x ${K} ${dtype}`,
    dtype,
    flops: 2 * T * N * K,
    bytes: 2 * N * K + T * (N + K) * bytesOf[dtype],
    call: () => ops.matmul(y, x.tensor, w.packed),
    ...sampled(memory, y, (place) => {
      const [t, n] = [Math.floor(place / N), place % N];
      let sum = 0;
      for (let k = 0; k < K; k++) sum += (input[t * K + k] as number) * (w.values[n * K + k] as number);
      return sum;
    }),
  };
}

export function rmsNormOp(
  memory: OpMemory,
  { T, D, dtype }: { T: number; D: number; dtype: FloatType },
): OpCase {
  const ops = new Ops(memory.device);
  const [x, weight] = [memory.random([T, D], dtype), memory.random([D], dtype)];
  const y = memory.output([T, D], dtype);
  const eps = 1e-5;
  return {
    name: `rms_norm ${T} x ${D} ${dtype}`,
    dtype,
    flops: 4 * T * D,
    bytes: 2 * T * D * bytesOf[dtype],
    call: () => ops.rmsNorm(y, x.tensor, weight.tensor, eps),
    ...sampled(memory, y, (place) => {
      const row = x.values.subarray(place - (place % D), place - (place % D) + D);
      const mean = row.reduce((sum, v) => sum + v * v, 0) / D;
      return ((row[place % D] as number) / Math.sqrt(mean + eps)) * (weight.values[place % D] as number);
    }),
  };
}

export function siluMulOp(
  memory: OpMemory,
  { T, F, dtype }: { T: number; F: number; dtype: FloatType },
): OpCase {
  const ops = new Ops(memory.device);
  const x = memory.random([T, 2 * F], dtype);
  const y = memory.output([T, F], dtype);
  return {
    name: `silu_mul ${T} x ${F} ${dtype}`,
    dtype,
    flops: 5 * T * F,
    bytes: 3 * T * F * bytesOf[dtype],
    call: () => ops.siluMul(y, x.tensor),
    ...sampled(memory, y, (place) => {
      const [t, f] = [Math.floor(place / F), place % F];
      const [gate, up] = [x.values[t * 2 * F + f] as number, x.values[t * 2 * F + F + f] as number];
      return (gate / (1 + Math.exp(-gate))) * up;
    }),
  };
}

interface AttentionShape {
  /** Sequences, each of `context` tokens, of which the last `queries` attend. */
  S: number;
  queries: number;
  context: number;
  H: number;
  G: number;
  E: number;
  dtype: FloatType;
}

/** All sequences hold the same keys and values, in pages of their own. */
export function attentionOp(memory: OpMemory, o: AttentionShape): OpCase {
  const { S, queries, context, H, G, E, dtype } = o;
  const ops = new Ops(memory.device);
  const heads = { H, G, E };
  const width = (H + 2 * G) * E;
  const past = memory.random([context, width], dtype);
  const asked = memory.random([S * queries, width], dtype);
  const y = memory.output([S * queries, H * E], dtype);
  const M = Math.ceil(context / pageSize);
  const cacheBytes = memory.device.cachePageBytes(pageSize, G, E, dtype) * M * S;
  const cache = { keys: memory.bytes(cacheBytes), values: memory.bytes(cacheBytes), dtype };
  for (let s = 0; s < S; s++) {
    const slots = Array.from({ length: context }, (_, token) => s * M * pageSize + token);
    ops.cacheWrite(cache, past.tensor, memory.ints(slots), heads, pageSize);
  }
  const counted = (length: number, value: (i: number) => number) =>
    memory.ints(Array.from({ length }, (_, i) => value(i)));
  const sequences = {
    starts: counted(S + 1, (i) => i * queries),
    lengths: counted(S, () => context),
    pages: counted(S * M, (i) => i).reshape([S, M]),
    pageSize,
  };
  const kept = past.values;
  const pairs = S * queries * (context - (queries - 1) / 2);
  return {
    name: `attention ${S} x ${queries} on ${context}, ${H} heads over ${G} ${dtype}`,
    dtype,
    flops: 4 * pairs * H * E,
    bytes: 2 * S * context * G * E * bytesOf[dtype],
    call: () => ops.attention(y, asked.tensor, cache, sequences, heads, 0, 1 / Math.sqrt(E)),
    ...sampled(memory, y, (place) => {
      const [t, h, e] = [Math.floor(place / (H * E)), Math.floor(place / E) % H, place % E];
      const group = Math.floor(h / (H / G));
      const query = asked.values.subarray(t * width + h * E, t * width + (h + 1) * E);
      const length = context - queries + (t % queries) + 1;
      let [total, sum] = [0, 0];
      for (let j = 0; j < length; j++) {
        const at = j * width + (H + group) * E;
        let score = 0;
        for (let i = 0; i < E; i++) score += (query[i] as number) * (kept[at + i] as number);
        // Scores of numbers below 1 need no shift.
        const weight = Math.exp(score / Math.sqrt(E));
        total += weight;
        sum += weight * (kept[at + G * E + e] as number);
      }
      return sum / total;
    }),
  };
}
