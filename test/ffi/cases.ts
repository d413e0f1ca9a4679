/** The op case table: for each op its inputs, its float64 formula, and what it costs.
 *
 *  One table serves correctness (ops.test.ts: result against formula, by normalised mean square error) and speed
 *  (bench/ops.bench.ts: the same cases at a model's sizes). A formula reads the inputs after they were rounded to their
 *  element types, so that only the op's own arithmetic is judged. */
import { ptr, type Pointer } from "bun:ffi";
import { NativeType } from "../../src/tensor/native.ts";
import {
  check,
  decode,
  encode,
  native,
  Random,
  zeros,
  type Elements,
  type FloatType,
  type Target,
} from "./target.ts";

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
const TOLERANCE = { f32: 1e-11, bf16: 1e-5, f64: 1e-26, f16: 1e-11 } as const;

const bytesOf = (type: FloatType) => (type === "f64" ? 8 : type === "f32" ? 4 : 2);

export function matmulCase(o: {
  T: number;
  N: number;
  K: number;
  wtype: FloatType;
  dtype: FloatType;
  stype?: FloatType;
  bias?: boolean;
  accumulate?: boolean;
  copies?: number;
}): Case {
  const { T, N, K, wtype, dtype, stype = wtype, bias = false, accumulate = false, copies = 1 } = o;
  return {
    name: `matmul T=${T} N=${N} K=${K} ${dtype} x ${wtype}${stype === wtype ? "" : ` from ${stype}`}${bias ? " + bias" : ""}${accumulate ? " + y" : ""}`,
    flops: 2 * T * N * K,
    bytes: N * K * bytesOf(wtype) + T * (N + K) * bytesOf(dtype),
    tolerance: wtype === "bf16" && dtype === "f64" ? 1e-12 : TOLERANCE[dtype],
    prepare(target) {
      const random = new Random(T + 7 * N + 13 * K);
      const weight = encode(random.normals(N * K), stype);
      const x = encode(random.normals(T * K), dtype);
      const added = encode(random.normals(N), dtype);
      const before = encode(random.normals(T * N), dtype);
      const y = before.slice();
      const weights = target.pack(weight, stype, wtype, N, K, copies);
      let turn = 0;
      const [py, px, pb] = [target.at(y), target.at(x), bias ? target.at(added) : null];
      return {
        call: () =>
          check(
            native.koala_matmul(
              target.device,
              py,
              px,
              weights.copies[turn++ % copies]!,
              pb,
              T,
              N,
              K,
              accumulate ? 1 : 0,
              NativeType[wtype],
              NativeType[dtype],
            ),
          ),
        actual: () => decode(y, dtype),
        expected() {
          const rounded = (v: Float64Array) => decode(encode(v, wtype), wtype);
          const [w, b, old] = [rounded(decode(weight, stype)), decode(added, dtype), decode(before, dtype)];
          const a = wtype === "bf16" ? rounded(decode(x, dtype)) : decode(x, dtype);
          return fill(T, N, (t, n) => {
            let sum = (bias ? b[n]! : 0) + (accumulate ? old[t * N + n]! : 0);
            for (let k = 0; k < K; k++) sum += a[t * K + k]! * w[n * K + k]!;
            return sum;
          });
        },
        release: weights.release,
      };
    },
  };
}

export function embedCase(o: { T: number; D: number; V: number; ttype: FloatType; dtype: FloatType }): Case {
  const { T, D, V, ttype, dtype } = o;
  return simple(
    `embed T=${T} D=${D} V=${V} ${ttype} -> ${dtype}`,
    dtype,
    { flops: 0, bytes: T * D * (bytesOf(ttype) + bytesOf(dtype)) },
    (target, random) => {
      const table = encode(random.normals(V * D), ttype);
      const tokens = Int32Array.from({ length: T }, () => random.below(V));
      const y = zeros(T * D, dtype);
      // One element off: tables are read straight from a mapped file.
      const bytes = new Uint8Array(table.byteLength + 64);
      bytes.set(new Uint8Array(table.buffer), bytesOf(ttype));
      const pointer = (Number(target.at(bytes)) + bytesOf(ttype)) as Pointer;
      const [py, pt] = [target.at(y), target.at(tokens)];
      return {
        call: () =>
          check(
            native.koala_embed(target.device, py, pointer, pt, T, D, V, NativeType[ttype], NativeType[dtype]),
          ),
        y,
        formula: () => fill(T, D, (t, d) => decode(table, ttype)[tokens[t]! * D + d]!),
      };
    },
  );
}

export function rmsNormCase(o: { T: number; D: number; dtype: FloatType }): Case {
  const { T, D, dtype } = o;
  const eps = 1e-5;
  return simple(
    `rms_norm T=${T} D=${D} ${dtype}`,
    dtype,
    { flops: 4 * T * D, bytes: 2 * T * D * bytesOf(dtype) },
    (target, random) => {
      const [x, weight, y] = [
        encode(random.normals(T * D, 3), dtype),
        encode(random.normals(D), dtype),
        zeros(T * D, dtype),
      ];
      const [py, px, pw] = [target.at(y), target.at(x), target.at(weight)];
      return {
        call: () => check(native.koala_rms_norm(target.device, py, px, pw, T, D, eps, NativeType[dtype])),
        y,
        formula: () => normalised(decode(x, dtype), () => decode(weight, dtype), T, D, Math.fround(eps)),
      };
    },
  );
}

export interface Heads {
  T: number;
  H: number;
  G: number;
  E: number;
  dtype: FloatType;
}

export function qkNormCase({ T, H, G, E, dtype }: Heads): Case {
  const width = (H + 2 * G) * E;
  return simple(
    `qk_norm T=${T} H=${H} G=${G} E=${E} ${dtype}`,
    dtype,
    { flops: 4 * T * (H + G) * E, bytes: 2 * T * (H + G) * E * bytesOf(dtype) },
    (target, random) => {
      const before = encode(random.normals(T * width), dtype);
      const [q, k] = [encode(random.normals(E), dtype), encode(random.normals(E), dtype)];
      const y = before.slice();
      const [py, pq, pk] = [target.at(y), target.at(q), target.at(k)];
      return {
        call: () =>
          check(native.koala_qk_norm(target.device, py, pq, pk, T, H, G, E, 1e-6, NativeType[dtype])),
        y,
        formula() {
          const x = decode(before, dtype);
          const norm = normalised(
            x,
            (row) => decode(row % (H + 2 * G) < H ? q : k, dtype),
            T * (H + 2 * G),
            E,
            Math.fround(1e-6),
          );
          return x.map((v, i) => (i % width < (H + G) * E ? norm[i]! : v));
        },
      };
    },
  );
}

export function ropeCase({ T, H, G, E, dtype }: Heads): Case {
  const [width, positionsMax] = [(H + 2 * G) * E, 300];
  return simple(
    `rope T=${T} H=${H} G=${G} E=${E} ${dtype}`,
    dtype,
    { flops: 3 * T * (H + G) * E, bytes: 2 * T * (H + G) * E * bytesOf(dtype) },
    (target, random) => {
      const before = encode(random.normals(T * width), dtype);
      const table = Float32Array.from({ length: positionsMax * E }, (_, i) => {
        const angle = Math.floor(i / E) * 10000 ** (-(((i % E) >> 1) * 2) / E);
        return i % 2 ? Math.sin(angle) : Math.cos(angle);
      });
      const positions = Int32Array.from({ length: T }, () => random.below(positionsMax));
      const y = before.slice();
      const [py, pt, pp] = [target.at(y), target.at(table), target.at(positions)];
      return {
        call: () => check(native.koala_rope(target.device, py, pt, pp, T, H, G, E, NativeType[dtype])),
        y,
        formula() {
          const x = decode(before, dtype);
          return x.map((v, at) => {
            const [t, e] = [Math.floor(at / width), (at % width) % E];
            if (at % width >= (H + G) * E) return v;
            const i = e % (E / 2);
            const [c, s] = [table[positions[t]! * E + 2 * i]!, table[positions[t]! * E + 2 * i + 1]!];
            return e < E / 2 ? v * c - x[at + E / 2]! * s : v * c + x[at - E / 2]! * s;
          });
        },
      };
    },
  );
}

export function siluMulCase({ T, F, dtype }: { T: number; F: number; dtype: FloatType }): Case {
  return simple(
    `silu_mul T=${T} F=${F} ${dtype}`,
    dtype,
    { flops: 5 * T * F, bytes: 3 * T * F * bytesOf(dtype) },
    (target, random) => {
      const [x, y] = [encode(random.normals(2 * T * F, 4), dtype), zeros(T * F, dtype)];
      const [py, px] = [target.at(y), target.at(x)];
      return {
        call: () => check(native.koala_silu_mul(target.device, py, px, T, F, NativeType[dtype])),
        y,
        formula() {
          const v = decode(x, dtype);
          return fill(
            T,
            F,
            (t, f) => (v[t * 2 * F + f]! / (1 + Math.exp(-v[t * 2 * F + f]!))) * v[t * 2 * F + F + f]!,
          );
        },
      };
    },
  );
}

export function gatherRowsCase({
  T,
  R,
  D,
  dtype,
}: {
  T: number;
  R: number;
  D: number;
  dtype: FloatType;
}): Case {
  return simple(
    `gather_rows R=${R} D=${D} ${dtype}`,
    dtype,
    { flops: 0, bytes: 2 * R * D * bytesOf(dtype) },
    (target, random) => {
      const [x, y] = [encode(random.normals(T * D), dtype), zeros(R * D, dtype)];
      const rows = Int32Array.from({ length: R }, () => random.below(T));
      const [py, px, pr] = [target.at(y), target.at(x), target.at(rows)];
      return {
        call: () => check(native.koala_gather_rows(target.device, py, px, pr, R, D, NativeType[dtype])),
        y,
        formula: () => fill(R, D, (r, d) => decode(x, dtype)[rows[r]! * D + d]!),
      };
    },
  );
}

export function sumRowsCase({ starts, D, dtype }: { starts: number[]; D: number; dtype: FloatType }): Case {
  const [S, T] = [starts.length - 1, starts.at(-1)!];
  return simple(
    `sum_rows S=${S} T=${T} D=${D} ${dtype}`,
    "f64",
    { flops: T * D, bytes: T * D * bytesOf(dtype) },
    (target, random) => {
      const x = encode(random.normals(T * D), dtype);
      const before = random.normals(S * D);
      const y = before.slice();
      const [py, px, ps] = [target.at(y), target.at(x), target.i32(starts)];
      return {
        call: () => check(native.koala_sum_rows(target.device, py, px, ps, S, D, NativeType[dtype])),
        y,
        formula() {
          const v = decode(x, dtype);
          return fill(S, D, (s, d) => {
            let sum = before[s * D + d]!;
            for (let t = starts[s]!; t < starts[s + 1]!; t++) sum += v[t * D + d]!;
            return sum;
          });
        },
      };
    },
  );
}

export interface AttentionShape {
  /** Queries and total length (past included) of each sequence. */
  sequences: { queries: number; length: number }[];
  H: number;
  G: number;
  E: number;
  P: number;
  window?: number;
  ctype: FloatType;
  dtype: FloatType;
}

/** Keys and values of all sequences go through koala_cache_write into shuffled pages of NaN; then the last `queries`
 *  tokens of each attend. */
export function attentionCase(o: AttentionShape): Case {
  const { sequences, H, G, E, ctype, dtype, window = 0 } = o;
  const pairs = sequences.reduce((sum, s) => sum + s.queries * (s.length - (s.queries - 1) / 2), 0);
  const keys = sequences.reduce((sum, s) => sum + s.length, 0);
  return {
    name: `attention ${sequences.length > 4 ? `${sequences.length} of` : ""} ${sequences
      .slice(0, sequences.length > 4 ? 1 : 4)
      .map((s) => `${s.queries}/${s.length}`)
      .join(" ")} H=${H} G=${G} E=${E} P=${o.P}${window ? ` window ${window}` : ""} ${dtype} cache ${ctype}`,
    flops: 4 * pairs * H * E,
    bytes: 2 * keys * G * E * bytesOf(ctype),
    tolerance: ctype === "bf16" ? 2e-5 : TOLERANCE[dtype],
    prepare(target) {
      const run = new AttentionRun(target, o, new Random(keys + H));
      return {
        call: () => run.attend(),
        actual: () => run.result(),
        expected: () => run.formula(),
        release: () => run.release(),
      };
    },
  };
}

export class AttentionRun {
  readonly qkv: Elements[];
  readonly y: Elements;
  private readonly pages: number[][] = [];
  private readonly M: number;
  private readonly cacheBytes: number;
  private readonly cache: { keys: Pointer; values: Pointer };
  private readonly inputs: { qkv: Pointer; starts: Pointer; lengths: Pointer; pages: Pointer; y: Pointer };

  /** `first`: tokens of the first sequence, at least as many as it is long; the rest comes from `random`. */
  constructor(
    readonly target: Target,
    readonly o: AttentionShape,
    random: Random,
    first?: Elements,
  ) {
    const { sequences, H, G, E, P, ctype, dtype } = o;
    const width = (H + 2 * G) * E;
    this.qkv = sequences.map((s, i) =>
      i === 0 && first ? first.slice(0, s.length * width) : encode(random.normals(s.length * width), dtype),
    );
    this.M = Math.max(...sequences.map((s) => Math.ceil(s.length / P))) + 1;
    const free = shuffled(sequences.length * this.M, random);
    for (const s of sequences) this.pages.push(free.splice(0, Math.ceil(s.length / P)));
    const bytes = target.size((out) =>
      native.koala_cache_page_bytes(target.device, out, P, G, E, NativeType[ctype]),
    );
    this.cacheBytes = bytes * sequences.length * this.M;
    this.cache = { keys: target.allocate(this.cacheBytes), values: target.allocate(this.cacheBytes) };
    // 0xff bytes are NaN in every type: whatever no one wrote must not be seen.
    const garbage = new Uint8Array(this.cacheBytes).fill(0xff);
    for (const memory of [this.cache.keys, this.cache.values])
      check(native.koala_memory_copy(target.device, memory, ptr(garbage), this.cacheBytes));
    sequences.forEach((s, i) => this.write(i, 0, s.length));
    const starts = [0];
    for (const s of sequences) starts.push(starts.at(-1)! + s.queries);
    this.y = zeros(starts.at(-1)! * H * E, dtype);
    this.inputs = {
      qkv: target.at(
        concatenate(
          sequences.map((s, i) => this.qkv[i]!.slice((s.length - s.queries) * width)),
          dtype,
        ),
      ),
      starts: target.i32(starts),
      lengths: target.i32(sequences.map((s) => s.length)),
      pages: target.i32(
        this.pages.flatMap((list) => [...list, ...Array.from({ length: this.M - list.length }, () => -1)]),
      ),
      y: target.at(this.y),
    };
  }

  /** Stores tokens [from, to) of one sequence. */
  private write(sequence: number, from: number, to: number): void {
    const { H, G, E, P, ctype, dtype } = this.o;
    const slots = Array.from(
      { length: to - from },
      (_, i) => this.pages[sequence]![Math.floor((from + i) / P)]! * P + ((from + i) % P),
    );
    const rows = this.qkv[sequence]!.slice(from * (H + 2 * G) * E, to * (H + 2 * G) * E);
    check(
      native.koala_cache_write(
        this.target.device,
        this.cache.keys,
        this.cache.values,
        ptr(rows),
        this.target.i32(slots),
        to - from,
        H,
        G,
        E,
        P,
        NativeType[ctype],
        NativeType[dtype],
      ),
    );
  }

  release(): void {
    for (const memory of [this.cache.keys, this.cache.values])
      check(native.koala_memory_free(this.target.device, memory, this.cacheBytes));
  }

  attend(): void {
    const { sequences, H, G, E, P, ctype, dtype, window = 0 } = this.o;
    const { qkv, starts, lengths, pages, y } = this.inputs;
    check(
      native.koala_attention(
        this.target.device,
        y,
        qkv,
        this.cache.keys,
        this.cache.values,
        starts,
        lengths,
        pages,
        sequences.length,
        this.M,
        P,
        H,
        G,
        E,
        window,
        1 / Math.sqrt(E),
        NativeType[ctype],
        NativeType[dtype],
      ),
    );
  }

  result(): Float64Array {
    return decode(this.y, this.o.dtype);
  }

  formula(): Float64Array {
    const { sequences, H, G, E, ctype, dtype, window = 0 } = this.o;
    const width = (H + 2 * G) * E;
    const out: number[] = [];
    sequences.forEach((s, index) => {
      const q = decode(this.qkv[index]!, dtype);
      const cached = decode(encode(q, ctype), ctype);
      for (let i = s.length - s.queries; i < s.length; i++)
        for (let h = 0; h < H; h++) {
          const g = Math.floor(h / (H / G));
          const first = window > 0 ? Math.max(0, i - window + 1) : 0;
          const scores: number[] = [];
          for (let j = first; j <= i; j++) {
            let dot = 0;
            for (let e = 0; e < E; e++)
              dot += q[i * width + h * E + e]! * cached[j * width + (H + g) * E + e]!;
            scores.push(dot * Math.fround(1 / Math.sqrt(E)));
          }
          const top = Math.max(...scores);
          const weights = scores.map((x) => Math.exp(x - top));
          const sum = weights.reduce((a, b) => a + b, 0);
          for (let e = 0; e < E; e++)
            out.push(
              weights.reduce((acc, p, n) => acc + p * cached[(first + n) * width + (H + G + g) * E + e]!, 0) /
                sum,
            );
        }
    });
    return Float64Array.from(out);
  }
}

/** Cases at odd and even sizes, small enough to compare with the formulas. */
export function smallCases(): Case[] {
  const types = ["f32", "bf16", "f64"] as const;
  const cases: Case[] = [];
  for (const dtype of types) {
    for (const wtype of dtype === "f64" ? types : (["f32", "bf16"] as const)) {
      cases.push(
        matmulCase({ T: 1, N: 64, K: 48, wtype, dtype }),
        matmulCase({ T: 5, N: 45, K: 33, wtype, dtype, bias: true }),
        matmulCase({ T: 13, N: 100, K: 172, wtype, dtype, accumulate: true }),
        matmulCase({ T: 3, N: 8, K: 1, wtype, dtype, bias: true, accumulate: true, stype: "f16" }),
        matmulCase({ T: 2, N: 33, K: 3400, wtype, dtype }),
      );
    }
    for (const ttype of ["f32", "bf16", "f16", "f64"] as const)
      cases.push(embedCase({ T: 7, D: 37, V: 11, ttype, dtype }));
    cases.push(rmsNormCase({ T: 1, D: 64, dtype }), rmsNormCase({ T: 9, D: 77, dtype }));
    for (const E of [8, 16, 48, 128]) {
      cases.push(qkNormCase({ T: 5, H: 4, G: 2, E, dtype }), ropeCase({ T: 6, H: 4, G: 2, E, dtype }));
    }
    cases.push(siluMulCase({ T: 1, F: 172, dtype }), siluMulCase({ T: 5, F: 2049, dtype }));
    cases.push(
      gatherRowsCase({ T: 9, R: 5, D: 35, dtype }),
      sumRowsCase({ starts: [0, 3, 3, 10], D: 21, dtype }),
    );
    for (const ctype of dtype === "f64" ? types : (["f32", "bf16"] as const)) {
      const common = { ctype, dtype } as const;
      cases.push(
        attentionCase({ sequences: [{ queries: 1, length: 1 }], H: 2, G: 2, E: 8, P: 32, ...common }),
        attentionCase({
          sequences: [
            { queries: 1, length: 67 },
            { queries: 5, length: 5 },
            { queries: 11, length: 40 },
          ],
          H: 6,
          G: 2,
          E: 16,
          P: 32,
          ...common,
        }),
        attentionCase({ sequences: [{ queries: 3, length: 131 }], H: 4, G: 1, E: 40, P: 64, ...common }),
        attentionCase({
          sequences: [
            { queries: 2, length: 1100 },
            { queries: 1, length: 513 },
          ],
          H: 2,
          G: 1,
          E: 32,
          P: 96,
          ...common,
        }),
        attentionCase({
          sequences: [
            { queries: 20, length: 90 },
            { queries: 1, length: 600 },
          ],
          H: 2,
          G: 2,
          E: 8,
          P: 32,
          window: 37,
          ...common,
        }),
      );
    }
  }
  return cases;
}

/** A case of one output array. */
function simple(
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

function fill(rows: number, columns: number, value: (row: number, column: number) => number): Float64Array {
  return Float64Array.from({ length: rows * columns }, (_, i) => value(Math.floor(i / columns), i % columns));
}

function normalised(
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

function shuffled(n: number, random: Random): number[] {
  const list = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}

function concatenate(parts: Elements[], type: FloatType): Elements {
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
