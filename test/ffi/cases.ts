/** The op case table: for each op its inputs, its float64 formula, and what it costs.
 *
 *  One table serves correctness (ops.test.ts: result against formula, by normalised mean square error) and speed
 *  (bench/ops.bench.ts: the same cases at a model's sizes). A formula reads the inputs after they were rounded to their
 *  element types, so that only the op's own arithmetic is judged. */
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { check, decode, encode, native, Random, zeros, type FloatType } from "./target.ts";

import { attentionCase } from "./attention_cases.ts";
import { bytesOf, fill, normalised, simple, TOLERANCE, type Case } from "./case.ts";
import { dequantised, isQuantised, weightBytes, type WeightType } from "./quantise.ts";

export function matmulCase(o: {
  T: number;
  N: number;
  K: number;
  wtype: WeightType;
  dtype: FloatType;
  stype?: FloatType;
  bias?: boolean;
  accumulate?: boolean;
  copies?: number;
}): Case {
  const {
    T,
    N,
    K,
    wtype,
    dtype,
    stype = isQuantised(wtype) ? "f32" : wtype,
    bias = false,
    accumulate = false,
    copies = 1,
  } = o;
  return {
    name: `matmul T=${T} N=${N} K=${K} ${dtype} x ${wtype}${stype === wtype ? "" : ` from ${stype}`}${bias ? " + bias" : ""}${accumulate ? " + y" : ""}`,
    flops: 2 * T * N * K,
    bytes: N * K * weightBytes[wtype] + T * (N + K) * bytesOf(dtype),
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
              dtypeCode[wtype],
              dtypeCode[dtype],
            ),
          ),
        actual: () => decode(y, dtype),
        expected() {
          const rounded = (v: Float64Array, type: FloatType) => decode(encode(v, type), type);
          const held = decode(weight, stype);
          const w = isQuantised(wtype) ? dequantised(held, wtype) : rounded(held, wtype);
          const [b, old] = [decode(added, dtype), decode(before, dtype)];
          const narrow = wtype === "bf16" || isQuantised(wtype);
          const a = narrow ? rounded(decode(x, dtype), "bf16") : decode(x, dtype);
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
      const pointer = target.at(bytes, bytesOf(ttype));
      const [py, pt] = [target.at(y), target.at(tokens)];
      return {
        call: () =>
          check(
            native.koala_embed(target.device, py, pointer, pt, T, D, V, dtypeCode[ttype], dtypeCode[dtype]),
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
        call: () => check(native.koala_rms_norm(target.device, py, px, pw, T, D, eps, dtypeCode[dtype])),
        y,
        formula: () => normalised(decode(x, dtype), () => decode(weight, dtype), T, D, Math.fround(eps)),
      };
    },
  );
}

/** What it writes: the sum, then its norm. */
export function addRmsNormCase(o: { T: number; D: number; dtype: FloatType }): Case {
  const { T, D, dtype } = o;
  const eps = 1e-5;
  return {
    name: `add_rms_norm T=${T} D=${D} ${dtype}`,
    flops: 5 * T * D,
    bytes: 4 * T * D * bytesOf(dtype),
    tolerance: TOLERANCE[dtype],
    prepare(target) {
      const random = new Random(T + D);
      const [before, delta, weight] = [
        encode(random.normals(T * D, 3), dtype),
        encode(random.normals(T * D, 2), dtype),
        encode(random.normals(D), dtype),
      ];
      const [x, y] = [before.slice(), zeros(T * D, dtype)];
      const [py, px, pd, pw] = [target.at(y), target.at(x), target.at(delta), target.at(weight)];
      return {
        call: () =>
          check(native.koala_add_rms_norm(target.device, py, px, pd, pw, T, D, eps, dtypeCode[dtype])),
        actual: () => Float64Array.of(...decode(x, dtype), ...decode(y, dtype)),
        expected() {
          const more = decode(delta, dtype);
          const exact = decode(before, dtype).map((value, i) => value + more[i]!);
          const sum = decode(encode(exact, dtype), dtype);
          const norm = normalised(sum, () => decode(weight, dtype), T, D, Math.fround(eps));
          return Float64Array.of(...sum, ...norm);
        },
      };
    },
  };
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
          check(native.koala_qk_norm(target.device, py, pq, pk, T, H, G, E, 1e-6, dtypeCode[dtype])),
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
        call: () => check(native.koala_rope(target.device, py, pt, pp, T, H, G, E, dtypeCode[dtype])),
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
        call: () => check(native.koala_silu_mul(target.device, py, px, T, F, dtypeCode[dtype])),
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
        call: () => check(native.koala_gather_rows(target.device, py, px, pr, R, D, dtypeCode[dtype])),
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
        call: () => check(native.koala_sum_rows(target.device, py, px, ps, S, D, dtypeCode[dtype])),
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
        matmulCase({ T: 130, N: 72, K: 40, wtype, dtype, bias: true }),
        matmulCase({ T: 200, N: 520, K: 44, wtype, dtype, accumulate: true }),
      );
    }
    for (const wtype of dtype === "f64" ? [] : (["q8", "q4"] as const))
      cases.push(
        matmulCase({ T: 1, N: 64, K: 96, wtype, dtype, stype: "bf16" }),
        matmulCase({ T: 5, N: 45, K: 32, wtype, dtype, bias: true, stype: "f16" }),
        matmulCase({ T: 13, N: 100, K: 416, wtype, dtype, accumulate: true, stype: "f64" }),
        matmulCase({ T: 2, N: 33, K: 3424, wtype, dtype, bias: true, accumulate: true }),
        matmulCase({ T: 30, N: 71, K: 288, wtype, dtype }),
        matmulCase({ T: 130, N: 72, K: 64, wtype, dtype, bias: true }),
        matmulCase({ T: 200, N: 520, K: 96, wtype, dtype, accumulate: true }),
      );
    for (const ttype of ["f32", "bf16", "f16", "f64"] as const)
      cases.push(embedCase({ T: 7, D: 37, V: 11, ttype, dtype }));
    cases.push(rmsNormCase({ T: 1, D: 64, dtype }), rmsNormCase({ T: 9, D: 77, dtype }));
    cases.push(addRmsNormCase({ T: 1, D: 64, dtype }), addRmsNormCase({ T: 9, D: 2309, dtype }));
    for (const E of [8, 16, 48, 128]) {
      cases.push(qkNormCase({ T: 5, H: 4, G: 2, E, dtype }), ropeCase({ T: 6, H: 4, G: 2, E, dtype }));
    }
    cases.push(siluMulCase({ T: 1, F: 172, dtype }), siluMulCase({ T: 5, F: 2049, dtype }));
    cases.push(
      gatherRowsCase({ T: 9, R: 5, D: 35, dtype }),
      sumRowsCase({ starts: [0, 3, 3, 10], D: 21, dtype }),
    );
    for (const ctype of dtype === "f64" ? types : (["f32", "bf16", "f8"] as const)) {
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
  // Head sizes that GPUs attend with on tensor cores: prompts and single queries, several tiles of keys, a window.
  for (const [E, window] of [
    [64, 0],
    [64, 50],
    [128, 0],
  ] as const)
    for (const ctype of ["bf16", "f8"] as const)
      cases.push(
        attentionCase({
          sequences: [
            {
              queries: 70,
              length: 150,
            },
            {
              queries: 1,
              length: 300,
            },
            {
              queries: 3,
              length: 3,
            },
          ],
          H: 4,
          G: 2,
          E,
          P: 32,
          window,
          ctype,
          dtype: "bf16",
        }),
      );
  return cases;
}
