/** Attention over documents: the native calls, the float64 formula, and what forgetful masking hides. */
import type { Pointer } from "bun:ffi";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import {
  check,
  decode,
  encode,
  native,
  zeros,
  type Elements,
  type FloatType,
  type Target,
} from "./target.ts";

const sumType = (dtype: FloatType): FloatType => (dtype === "f64" ? "f64" : "f32");
const code = (type: FloatType) => dtypeCode[type];

export interface DocumentShape {
  starts: number[];
  H: number;
  G: number;
  E: number;
  window?: number;
  forget?: { seed: number; rates: number[] };
  /** Rows of the step before the batch. */
  first?: number;
  drop?: { seed: number; probability: number };
}

export class DocumentAttention {
  readonly T: number;
  readonly scale: number;
  constructor(
    readonly target: Target,
    readonly o: DocumentShape,
  ) {
    this.T = o.starts.at(-1)!;
    this.scale = Math.fround(1 / Math.sqrt(o.E));
  }

  private documents(): [Pointer, Pointer | null] {
    const { starts, forget } = this.o;
    return [this.target.i32(starts), forget ? this.target.at(Float32Array.from(forget.rates)) : null];
  }

  forward(qkv: Elements, dtype: FloatType): { y: Elements; lse: Elements } {
    const { starts, H, G, E, window = 0, forget, first = 0, drop } = this.o;
    const [y, lse] = [zeros(this.T * H * E, dtype), zeros(this.T * H, sumType(dtype))];
    const [at, rates] = this.documents();
    check(
      native.koala_document_attention(
        this.target.device,
        this.target.at(y),
        this.target.at(lse),
        this.target.at(qkv),
        at,
        rates,
        starts.length - 1,
        H,
        G,
        E,
        window,
        first,
        forget?.seed ?? 0,
        drop?.seed ?? 0,
        drop?.probability ?? 0,
        this.scale,
        code(dtype),
      ),
    );
    return { y, lse };
  }

  backward(dy: Elements, forward: { y: Elements; lse: Elements }, qkv: Elements, dtype: FloatType): Elements {
    const { starts, H, G, E, window = 0, forget, first = 0, drop } = this.o;
    const dqkv = encode(new Float64Array(qkv.length).fill(Number.NaN), dtype);
    const [at, rates] = this.documents();
    check(
      native.koala_document_attention_backward(
        this.target.device,
        this.target.at(dqkv),
        this.target.at(dy),
        this.target.at(forward.y),
        this.target.at(forward.lse),
        this.target.at(qkv),
        at,
        rates,
        starts.length - 1,
        H,
        G,
        E,
        window,
        first,
        forget?.seed ?? 0,
        drop?.seed ?? 0,
        drop?.probability ?? 0,
        this.scale,
        code(dtype),
      ),
    );
    return dqkv;
  }

  /** Which keys each query sees (absolute rows), read off outputs: with equal scores and one-hot values, y is the mask. */
  mask(): boolean[][] {
    const { drop: _, ...shape } = this.o;
    return new DocumentAttention(this.target, { ...shape, H: 1 }).keeps(0);
  }

  /** Which weights query head h keeps: those that are neither hidden nor dropped. */
  keeps(h: number): boolean[][] {
    const longest = Math.max(...this.o.starts.slice(1).map((end, s) => end - this.o.starts[s]!));
    const E = longest + (longest % 2); // GPUs want heads of even size
    const { H } = this.o;
    const probe = new DocumentAttention(this.target, { ...this.o, G: 1, E });
    const width = (H + 2) * E;
    const qkv = new Float64Array(this.T * width);
    for (let s = 0; s + 1 < this.o.starts.length; s++)
      for (let t = this.o.starts[s]!; t < this.o.starts[s + 1]!; t++)
        qkv[t * width + (H + 1) * E + (t - this.o.starts[s]!)] = 1;
    const y = decode(probe.forward(encode(qkv, "f32"), "f32").y, "f32");
    return Array.from({ length: this.T }, (_, i) => {
      const start = this.o.starts.findLast((at) => at <= i)!;
      return Array.from(
        { length: this.T },
        (_, j) => j >= start && j - start < E && y[(i * H + h) * E + j - start]! > 0,
      );
    });
  }
}

/** softmax(scale * q.k) v and log sum exp, over the keys that `sees` allows; `kept` multiplies the weights. */
export function attentionFormula(
  qkv: Float64Array,
  o: DocumentShape,
  sees: (i: number, j: number) => boolean,
  kept: (i: number, j: number, h: number) => number = () => 1,
): { y: Float64Array; lse: Float64Array } {
  const { starts, H, G, E, window = 0 } = o;
  const [T, width, scale] = [starts.at(-1)!, (H + 2 * G) * E, Math.fround(1 / Math.sqrt(E))];
  const [y, lse] = [new Float64Array(T * H * E), new Float64Array(T * H)];
  for (let s = 0; s + 1 < starts.length; s++)
    for (let i = starts[s]!; i < starts[s + 1]!; i++)
      for (let h = 0; h < H; h++) {
        const g = Math.floor(h / (H / G));
        const [keys, scores]: [number[], number[]] = [[], []];
        for (let j = window > 0 ? Math.max(starts[s]!, i - window + 1) : starts[s]!; j <= i; j++) {
          if (!sees(i, j)) continue;
          let dot = 0;
          for (let e = 0; e < E; e++) dot += qkv[i * width + h * E + e]! * qkv[j * width + (H + g) * E + e]!;
          keys.push(j);
          scores.push(dot * scale);
        }
        const top = Math.max(...scores);
        const sum = scores.reduce((acc, x) => acc + Math.exp(x - top), 0);
        lse[i * H + h] = top + Math.log(sum);
        keys.forEach((j, n) => {
          const p = (Math.exp(scores[n]! - top) / sum) * kept(i, j, h);
          for (let e = 0; e < E; e++) y[(i * H + h) * E + e]! += p * qkv[j * width + (H + G + g) * E + e]!;
        });
      }
  return { y, lse };
}

/** The gradient of sum dy * y by the chain rule: ds = scale * p * (dy.v - dy.y), where every key in the window is seen. */
export function attentionGradientFormula(
  qkv: Float64Array,
  dy: Float64Array,
  forward: { y: Float64Array; lse: Float64Array },
  { starts, H, G, E, window = 0 }: DocumentShape,
): Float64Array {
  const [width, scale] = [(H + 2 * G) * E, Math.fround(1 / Math.sqrt(E))];
  const dqkv = new Float64Array(qkv.length);
  const dot = (a: Float64Array, i: number, b: Float64Array, j: number) => {
    let sum = 0;
    for (let e = 0; e < E; e++) sum += a[i + e]! * b[j + e]!;
    return sum;
  };
  for (let s = 0; s + 1 < starts.length; s++)
    for (let i = starts[s]!; i < starts[s + 1]!; i++)
      for (let h = 0; h < H; h++) {
        const g = Math.floor(h / (H / G));
        const [query, out] = [i * width + h * E, (i * H + h) * E];
        const delta = dot(dy, out, forward.y, out);
        for (let j = window > 0 ? Math.max(starts[s]!, i - window + 1) : starts[s]!; j <= i; j++) {
          const [key, value] = [j * width + (H + g) * E, j * width + (H + G + g) * E];
          const p = Math.exp(dot(qkv, query, qkv, key) * scale - forward.lse[i * H + h]!);
          const slope = scale * p * (dot(dy, out, qkv, value) - delta);
          for (let e = 0; e < E; e++) {
            dqkv[query + e]! += slope * qkv[key + e]!;
            dqkv[key + e]! += slope * qkv[query + e]!;
            dqkv[value + e]! += p * dy[out + e]!;
          }
        }
      }
  return dqkv;
}
