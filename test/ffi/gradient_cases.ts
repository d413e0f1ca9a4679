/** The case table of the backward ops: for each its inputs, the float64 formula of its FORWARD op, and the native call.
 *
 *  Nothing here knows a derivative: gradients.test.ts differentiates the formula by central differences. Inputs are
 *  numbers that bf16 holds, so the same case serves f64, f32 and bf16. The loss is the sum of dy times the output. */
import { ptr, type Pointer } from "bun:ffi";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { fill, logSoftmax, normalise, product } from "./formulas.ts";
import { attentionFormula, DocumentAttention, type DocumentShape } from "./document_attention.ts";
import {
  check,
  decode,
  encode,
  native,
  onGpu,
  Random,
  zeros,
  type Elements,
  type FloatType,
  type Target,
} from "./target.ts";

export interface GradientCase {
  name: string;
  dtypes: readonly FloatType[];
  /** Products in this type: bf16 gets bf16's tolerance. */
  compute?: FloatType;
  inputs: Float64Array[];
  dy: Float64Array;
  forward(inputs: Float64Array[]): Float64Array;
  /** The gradients of `inputs` that the native ops give, in their order. */
  run(target: Target, dtype: FloatType): Float64Array[];
}

const ALL = ["f64", "f32", "bf16"] as const;
const rounded = (values: Float64Array) => decode(encode(values, "bf16"), "bf16");
const numbers = (random: Random, n: number, scale = 1) => rounded(random.normals(n, scale));
/** Parameter gradients, row sums: f32, f64 beside f64. */
const sumType = (dtype: FloatType): FloatType => (dtype === "f64" ? "f64" : "f32");
const code = (type: FloatType) => dtypeCode[type];

/** A gradient that the op adds to: starts from numbers that are taken away again. */
class Added {
  readonly before: Elements;
  readonly array: Elements;
  readonly at: Pointer;
  constructor(
    target: Target,
    n: number,
    readonly type: FloatType,
  ) {
    this.before = encode(numbers(new Random(n), n, 0.25), type);
    this.array = this.before.slice();
    this.at = target.at(this.array);
  }
  value(): Float64Array {
    const start = decode(this.before, this.type);
    return decode(this.array, this.type).map((v, i) => v - start[i]!);
  }
}

export function matmulGradientCase({
  T,
  N,
  K,
  compute,
}: {
  T: number;
  N: number;
  K: number;
  compute: FloatType;
}): GradientCase {
  const random = new Random(T + N + K);
  const [x, w, bias] = [numbers(random, T * K), numbers(random, N * K), numbers(random, N)];
  const dy = numbers(random, T * N);
  return {
    name: `matmul T=${T} N=${N} K=${K} in ${compute}`,
    dtypes: compute === "f64" ? ["f64"] : compute === "f32" ? ["f32", "f64"] : ["f32", "bf16", "f64"],
    compute,
    inputs: [x, w, bias],
    dy,
    forward: ([a, b, c]) => product(a!, b!, c!, T, N, K),
    run(target, dtype) {
      const packedBytes = target.size((out) =>
        native.koala_matmul_pack_bytes(target.device, out, K, N, code(compute)),
      );
      const packed = target.allocate(packedBytes);
      const [pw, pdy, px] = [
        target.at(encode(w, "f32")),
        target.at(encode(dy, dtype)),
        target.at(encode(x, dtype)),
      ];
      check(
        native.koala_matmul_pack_transposed(target.device, packed, pw, N, K, code(compute), dtypeCode.f32),
      );
      const dx = zeros(T * K, dtype);
      check(
        native.koala_matmul(
          target.device,
          ptr(dx),
          pdy,
          packed,
          null,
          T,
          K,
          N,
          0,
          code(compute),
          code(dtype),
        ),
      );
      check(native.koala_memory_free(target.device, packed, packedBytes));
      const dw = new Added(target, N * K, sumType(dtype));
      check(
        native.koala_matmul_weight_gradient(
          target.device,
          dw.at,
          pdy,
          px,
          T,
          N,
          K,
          code(compute),
          code(dtype),
        ),
      );
      const db = new Added(target, N, sumType(dtype));
      check(native.koala_bias_gradient(target.device, db.at, pdy, T, N, code(dtype)));
      return [decode(dx, dtype), dw.value(), db.value()];
    },
  };
}

export function embedGradientCase({ T, D, V }: { T: number; D: number; V: number }): GradientCase {
  const random = new Random(T + D);
  const tokens = Array.from({ length: T }, () => random.below(V));
  const order = tokens.map((_, i) => i).sort((a, b) => tokens[a]! - tokens[b]! || a - b);
  const dy = numbers(random, T * D);
  return {
    name: `embed T=${T} D=${D} V=${V}`,
    dtypes: ALL,
    inputs: [numbers(random, V * D)],
    dy,
    forward: ([table]) => fill(T, D, (t, d) => table![tokens[t]! * D + d]!),
    run(target, dtype) {
      const dtable = new Added(target, V * D, sumType(dtype));
      check(
        native.koala_embed_backward(
          target.device,
          dtable.at,
          target.at(encode(dy, dtype)),
          target.i32(tokens),
          target.i32(order),
          T,
          D,
          V,
          code(dtype),
        ),
      );
      return [dtable.value()];
    },
  };
}

export function rmsNormGradientCase({
  T,
  D,
  accumulate,
}: {
  T: number;
  D: number;
  accumulate: boolean;
}): GradientCase {
  const random = new Random(T * D);
  const [x, weight, dy] = [numbers(random, T * D, 2), numbers(random, D), numbers(random, T * D)];
  const eps = Math.fround(1e-3);
  return {
    name: `rms_norm T=${T} D=${D}${accumulate ? " + dx" : ""}`,
    dtypes: ALL,
    inputs: [x, weight],
    dy,
    forward: ([a, w]) => normalise(a!, () => w!, T, D, eps),
    run(target, dtype) {
      const dx = new Added(target, T * D, dtype);
      const dweight = new Added(target, D, sumType(dtype));
      check(
        native.koala_rms_norm_backward(
          target.device,
          dx.at,
          dweight.at,
          target.at(encode(dy, dtype)),
          target.at(encode(x, dtype)),
          target.at(encode(weight, dtype)),
          T,
          D,
          eps,
          accumulate ? 1 : 0,
          code(dtype),
        ),
      );
      return [accumulate ? dx.value() : decode(dx.array, dtype), dweight.value()];
    },
  };
}

export interface HeadShape {
  T: number;
  H: number;
  G: number;
  E: number;
}

export function qkNormGradientCase({ T, H, G, E }: HeadShape): GradientCase {
  const random = new Random(T + E);
  const width = (H + 2 * G) * E;
  const [qkv, q, k, dy] = [
    numbers(random, T * width),
    numbers(random, E),
    numbers(random, E),
    numbers(random, T * width),
  ];
  const eps = Math.fround(1e-3);
  return {
    name: `qk_norm T=${T} H=${H} G=${G} E=${E}`,
    dtypes: ALL,
    inputs: [qkv, q, k],
    dy,
    forward([x, qw, kw]) {
      const norm = normalise(x!, (row) => (row % (H + 2 * G) < H ? qw! : kw!), T * (H + 2 * G), E, eps);
      return x!.map((v, i) => (i % width < (H + G) * E ? norm[i]! : v));
    },
    run(target, dtype) {
      const dqkv = encode(dy, dtype);
      const [dq, dk] = [new Added(target, E, sumType(dtype)), new Added(target, E, sumType(dtype))];
      check(
        native.koala_qk_norm_backward(
          target.device,
          ptr(dqkv),
          dq.at,
          dk.at,
          target.at(encode(qkv, dtype)),
          target.at(encode(q, dtype)),
          target.at(encode(k, dtype)),
          T,
          H,
          G,
          E,
          eps,
          code(dtype),
        ),
      );
      return [decode(dqkv, dtype), dq.value(), dk.value()];
    },
  };
}

export function ropeGradientCase({ T, H, G, E }: HeadShape): GradientCase {
  const random = new Random(T + E);
  const [width, count] = [(H + 2 * G) * E, 50];
  const [qkv, dy] = [numbers(random, T * width), numbers(random, T * width)];
  const positions = Array.from({ length: T }, () => random.below(count));
  const table = Float32Array.from({ length: count * E }, (_, i) =>
    (i % 2 ? Math.sin : Math.cos)(Math.floor(i / E) * 100 ** (-((i % E) >> 1) / E)),
  );
  return {
    name: `rope T=${T} H=${H} G=${G} E=${E}`,
    dtypes: ALL,
    inputs: [qkv],
    dy,
    forward: ([x]) =>
      x!.map((v, at) => {
        const [t, e] = [Math.floor(at / width), (at % width) % E];
        if (at % width >= (H + G) * E) return v;
        const [c, s] = [0, 1].map((part) => table[positions[t]! * E + 2 * (e % (E / 2)) + part]!) as [
          number,
          number,
        ];
        return e < E / 2 ? v * c - x![at + E / 2]! * s : v * c + x![at - E / 2]! * s;
      }),
    run(target, dtype) {
      const dqkv = encode(dy, dtype);
      check(
        native.koala_rope_backward(
          target.device,
          ptr(dqkv),
          target.at(table),
          target.i32(positions),
          T,
          H,
          G,
          E,
          code(dtype),
        ),
      );
      return [decode(dqkv, dtype)];
    },
  };
}

export function siluMulGradientCase({ T, F }: { T: number; F: number }): GradientCase {
  const random = new Random(F);
  const [gateUp, dy] = [numbers(random, 2 * T * F, 3), numbers(random, T * F)];
  return {
    name: `silu_mul T=${T} F=${F}`,
    dtypes: ALL,
    inputs: [gateUp],
    dy,
    forward: ([x]) =>
      fill(
        T,
        F,
        (t, f) => (x![t * 2 * F + f]! / (1 + Math.exp(-x![t * 2 * F + f]!))) * x![t * 2 * F + F + f]!,
      ),
    run(target, dtype) {
      const out = zeros(2 * T * F, dtype);
      check(
        native.koala_silu_mul_backward(
          target.device,
          ptr(out),
          target.at(encode(dy, dtype)),
          target.at(encode(gateUp, dtype)),
          T,
          F,
          code(dtype),
        ),
      );
      return [decode(out, dtype)];
    },
  };
}

/** Minus the weighted log-probabilities; targets of -1 count nothing. */
export function crossEntropyGradientCase({
  R,
  V,
  scale,
}: {
  R: number;
  V: number;
  scale: number;
}): GradientCase {
  const random = new Random(R * V);
  const logits = numbers(random, R * V, scale);
  const weights = numbers(random, R);
  const targets = Array.from({ length: R }, (_, r) => (r % 4 === 2 ? -1 : random.below(V)));
  return {
    name: `cross_entropy R=${R} V=${V} logits of ${scale}`,
    dtypes: ALL,
    inputs: [logits],
    dy: weights.map((w) => -w),
    forward: ([x]) => logSoftmax(x!, targets, R, V).logprobs,
    run(target, dtype) {
      const [x, type] = [encode(logits, dtype), sumType(dtype)];
      const [logprobs, lse] = [zeros(R, type), zeros(R, type)];
      const chosen = target.i32(targets);
      check(
        native.koala_cross_entropy(target.device, ptr(logprobs), ptr(lse), ptr(x), chosen, R, V, code(dtype)),
      );
      check(
        native.koala_cross_entropy_backward(
          target.device,
          ptr(x),
          ptr(lse),
          target.at(encode(weights, type)),
          chosen,
          R,
          V,
          code(dtype),
        ),
      );
      return [decode(x, dtype)];
    },
  };
}

export function documentAttentionCase(o: DocumentShape, target: Target): GradientCase {
  const { starts, H, G, E, forget, drop } = o;
  const random = new Random(starts.length + H + E);
  const T = starts.at(-1)!;
  const [qkv, dy] = [numbers(random, T * (H + 2 * G) * E, 1.5), numbers(random, T * H * E)];
  const mask = forget ? new DocumentAttention(target, o).mask() : null;
  const heads = drop ? Array.from({ length: H }, (_, h) => new DocumentAttention(target, o).keeps(h)) : null;
  const kept = (i: number, j: number, h: number) =>
    drop && heads ? (heads[h]![i]![j] ? 1 / (1 - Math.fround(drop.probability)) : 0) : 1;
  return {
    name: `document_attention starts ${starts} H=${H} G=${G} E=${E}${o.window ? ` window ${o.window}` : ""}${forget ? ` forget ${forget.rates}` : ""}${drop ? ` drop ${drop.probability}` : ""}`,
    dtypes: ALL,
    inputs: [qkv],
    dy,
    forward: ([x]) => attentionFormula(x!, o, (i, j) => mask?.[i]![j] ?? true, kept).y,
    run(on, dtype) {
      const attention = new DocumentAttention(on, o);
      const x = encode(qkv, dtype);
      return [decode(attention.backward(encode(dy, dtype), attention.forward(x, dtype), x, dtype), dtype)];
    },
  };
}

/** Odd shapes, single tokens, empty documents, windows, groups, hidden keys. `target` finds out what is hidden. */
export function gradientCases(target: Target): GradientCase[] {
  const cases: GradientCase[] = [];
  for (const compute of ["f64", "f32", "bf16"] as const) {
    cases.push(
      matmulGradientCase({ T: 1, N: 5, K: 7, compute }),
      matmulGradientCase({ T: 9, N: 41, K: 37, compute }),
      matmulGradientCase({ T: 35, N: 12, K: 66, compute }),
    );
  }
  cases.push(embedGradientCase({ T: 1, D: 8, V: 3 }), embedGradientCase({ T: 40, D: 71, V: 9 }));
  cases.push(
    rmsNormGradientCase({ T: 1, D: 33, accumulate: false }),
    rmsNormGradientCase({ T: 67, D: 20, accumulate: true }),
  );
  cases.push(qkNormGradientCase({ T: 1, H: 1, G: 1, E: 8 }), qkNormGradientCase({ T: 35, H: 4, G: 2, E: 6 }));
  cases.push(
    ropeGradientCase({ T: 1, H: 1, G: 1, E: 2 }),
    ropeGradientCase({ T: 7, H: 4, G: 2, E: 38 }),
    ropeGradientCase({ T: 3, H: 3, G: 1, E: 48 }),
  );
  cases.push(siluMulGradientCase({ T: 1, F: 3 }), siluMulGradientCase({ T: 5, F: 45 }));
  cases.push(
    crossEntropyGradientCase({ R: 1, V: 5, scale: 1 }),
    crossEntropyGradientCase({ R: 9, V: 67, scale: 3 }),
  );
  for (const shape of [
    { starts: [0, 1], H: 1, G: 1, E: 4 },
    { starts: [0, 0, 5, 5, 18, 19], H: 2, G: 2, E: 6 },
    { starts: [0, 11, 20], H: 6, G: 2, E: onGpu ? 6 : 5 },
    { starts: [0, 10, 95], H: 2, G: 1, E: 64 }, // on tensor cores, where there are any
    { starts: [0, 13, 40], H: 4, G: 1, E: 4, window: 5 },
    { starts: [0, 3, 37], H: 3, G: 3, E: 4, window: 33 },
    { starts: [0, 20, 45], H: 2, G: 1, E: 4, forget: { seed: 7, rates: [0.3, 0.6] } },
    { starts: [0, 38, 39], H: 2, G: 2, E: 4, window: 12, forget: { seed: -5, rates: [0.5, 0] } },
    { starts: [0, 7, 40], H: 4, G: 2, E: 4, first: 1000, drop: { seed: 3, probability: 0.3 } },
    {
      starts: [0, 36],
      H: 2,
      G: 1,
      E: 6,
      window: 30,
      forget: { seed: 2, rates: [0.2] },
      drop: { seed: -9, probability: 0.1 },
    },
  ])
    cases.push(documentAttentionCase(shape, target));
  return cases;
}
