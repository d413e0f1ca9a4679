/** int8 and int4 blocks by the rules of ggml's reference (ggml-quants.c: quantize_row_q8_0_ref and quantize_row_q4_0_ref),
 *  written from the rules: float32 arithmetic by Math.fround, scales kept in f16, quantised with the scale before it was
 *  rounded. The weight that a product uses is bf16(q * scale). */
import { decode, encode } from "./target.ts";

export type QuantType = "q8" | "q4";
export type WeightType = "f32" | "bf16" | "f64" | QuantType;

export const isQuantised = (type: string): type is QuantType => type === "q8" || type === "q4";

/** Bytes of an element of a packed matrix; of q8 and q4, with its part of the block's scale. */
export const weightBytes = { f32: 4, bf16: 2, f64: 8, q8: 34 / 32, q4: 18 / 32 };

export interface Blocks {
  /** As f16 holds it, one for 32 elements. */
  scales: Float64Array;
  /** The integers that the scales multiply: -127..127 or -8..7. */
  q: Int8Array;
}

const size = 32;
const f32 = Math.fround;

export function quantise(weights: ArrayLike<number>, type: QuantType): Blocks {
  const count = weights.length / size;
  const [scales, q] = [new Float64Array(count), new Int8Array(weights.length)];
  for (let b = 0; b < count; b++) {
    const w = Array.from({ length: size }, (_, i) => f32(weights[b * size + i]!));
    const largest = w.reduce((best, v) => (Math.abs(v) > Math.abs(best) ? v : best), 0);
    const d = f32(type === "q8" ? Math.abs(largest) / 127 : largest / -8);
    const inverse = d === 0 ? 0 : f32(1 / d);
    scales[b] = roundToF16(d);
    w.forEach((v, i) => {
      const x = f32(v * inverse);
      const rounded = Math.trunc(Math.abs(x)) + (Math.abs(x) % 1 >= 0.5 ? 1 : 0);
      q[b * size + i] =
        type === "q8" ? (x < 0 ? -rounded : rounded) : Math.min(15, Math.trunc(f32(x + 8.5))) - 8;
    });
  }
  return { scales, q };
}

/** bf16(q * scale) of every element. */
export function dequantised(weights: ArrayLike<number>, type: QuantType): Float64Array {
  const { scales, q } = quantise(weights, type);
  const exact = Float64Array.from(q, (v, i) => v * scales[Math.floor(i / size)]!);
  return decode(encode(exact, "bf16"), "bf16");
}

/** To nearest even; the last place of numbers below 2^-14 is 2^-24. */
export function roundToF16(value: number): number {
  if (value === 0) return value;
  const unit = 2 ** Math.max(Math.floor(Math.log2(Math.abs(value))) - 10, -24);
  const scaled = Math.abs(value) / unit;
  const [below, rest] = [Math.floor(scaled), scaled % 1];
  return Math.sign(value) * (below + (rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? 1 : 0)) * unit;
}
