/** The exact difference of two weight tensors as bytes that compress well.
 *
 *  A float's bits become an unsigned integer that grows with the value (sign set: all bits flipped; else the sign bit set).
 *  Tuned minus base in these integers, modulo 2^16 or 2^32, is small where training moved a weight little; zigzag folds the
 *  sign into the lowest bit, and the bytes of one significance lie together in a plane. Nothing is rounded: undoing it
 *  gives the tuned bits, NaNs and negative zeros included. Where there is no base, it is zero. */
import { float32ToBfloat16, bfloat16ToFloat32, float16ToFloat32 } from "../tensor/convert.ts";
import type { SafetensorsDtype } from "../model/safetensors.ts";

/** Bytes of an element that the difference is taken of; 0: bytes are stored as they are. */
export function deltaWidth(dtype: SafetensorsDtype): 0 | 2 | 4 {
  return dtype === "BF16" || dtype === "F16" ? 2 : dtype === "F32" ? 4 : 0;
}

/** The planes of `target`, most significant first. `base` has its length, or is null for zeros; both start aligned. */
export function encodeDelta(width: 2 | 4, target: Uint8Array, base: Uint8Array | null): Uint8Array[] {
  const count = target.length / width;
  const planes = Array.from({ length: width }, () => new Uint8Array(count));
  const [a, b, c, d] = planes as [Uint8Array, Uint8Array, Uint8Array, Uint8Array];
  if (width === 2) encode16(halves(target), base && halves(base), a, b);
  else encode32(words(target), base && words(base), [a, b, c, d]);
  return planes;
}

/** Undoes encodeDelta: the target's bytes. */
export function decodeDelta(
  width: 2 | 4,
  planes: readonly Uint8Array[],
  base: Uint8Array | null,
): Uint8Array {
  const count = planes[0]!.length;
  const [a, b, c, d] = planes as [Uint8Array, Uint8Array, Uint8Array, Uint8Array];
  if (width === 2) return bytesOf(decode16(a, b, base ? halves(base) : new Uint16Array(count)));
  return bytesOf(decode32([a, b, c, d], base ? words(base) : new Uint32Array(count)));
}

// Order-preserving maps, and back: flip all bits of a negative number, the sign bit of another.
const up16 = (x: number): number => x ^ ((-(x >>> 15) & 0x7fff) | 0x8000);
const down16 = (x: number): number => x ^ ((((x >>> 15) - 1) & 0x7fff) | 0x8000);
const up32 = (x: number): number => x ^ ((x >> 31) | 0x80000000);
const down32 = (x: number): number => x ^ (~(x >> 31) | 0x80000000);

function encode16(target: Uint16Array, base: Uint16Array | null, high: Uint8Array, low: Uint8Array): void {
  for (let i = 0; i < target.length; i++) {
    const from = base === null ? 0x8000 : up16(base[i]!);
    const difference = ((up16(target[i]!) - from) << 16) >> 16;
    const folded = (difference << 1) ^ (difference >> 31);
    high[i] = folded >>> 8;
    low[i] = folded;
  }
}

function decode16(high: Uint8Array, low: Uint8Array, base: Uint16Array): Uint16Array {
  const target = new Uint16Array(high.length);
  for (let i = 0; i < target.length; i++) {
    const folded = (high[i]! << 8) | low[i]!;
    const difference = (folded >>> 1) ^ -(folded & 1);
    target[i] = down16((up16(base[i]!) + difference) & 0xffff);
  }
  return target;
}

type FourPlanes = [Uint8Array, Uint8Array, Uint8Array, Uint8Array];

function encode32(target: Uint32Array, base: Uint32Array | null, [a, b, c, d]: FourPlanes): void {
  for (let i = 0; i < target.length; i++) {
    const from = base === null ? 0x80000000 : up32(base[i]!);
    const difference = (up32(target[i]!) - from) | 0;
    const folded = (difference << 1) ^ (difference >> 31);
    a[i] = folded >>> 24;
    b[i] = folded >>> 16;
    c[i] = folded >>> 8;
    d[i] = folded;
  }
}

function decode32([a, b, c, d]: FourPlanes, base: Uint32Array): Uint32Array {
  const target = new Uint32Array(a.length);
  for (let i = 0; i < target.length; i++) {
    const folded = (a[i]! << 24) | (b[i]! << 16) | (c[i]! << 8) | d[i]!;
    const difference = (folded >>> 1) ^ -(folded & 1);
    target[i] = down32((up32(base[i]!) + difference) | 0);
  }
  return target;
}

/** Bytes of floats in another type: exact where it is wider, to nearest even where it is not. Null where either is no float. */
export function convertFloats(
  bytes: Uint8Array,
  from: SafetensorsDtype,
  to: SafetensorsDtype,
): Uint8Array | null {
  if (from === to) return bytes;
  const values = floatsOf(bytes, from);
  if (values === null) return null;
  if (to === "F32") return bytesOf(values);
  if (to === "BF16") return bytesOf(float32ToBfloat16(values));
  if (to === "F16") return bytesOf(new Float16Array(values));
  return null;
}

/** Null for other types than F32, BF16 and F16. */
export function floatsOf(bytes: Uint8Array, dtype: SafetensorsDtype): Float32Array | null {
  if (dtype === "BF16") return bfloat16ToFloat32(halves(bytes));
  if (dtype === "F16") return float16ToFloat32(halves(bytes));
  return dtype === "F32"
    ? new Float32Array(words(bytes).buffer, words(bytes).byteOffset, bytes.length / 4)
    : null;
}

const halves = (bytes: Uint8Array): Uint16Array => {
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length / 2);
};
const words = (bytes: Uint8Array): Uint32Array => {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
};
const bytesOf = (array: Uint16Array | Uint32Array | Float32Array | Float16Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
