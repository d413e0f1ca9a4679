/** Numbers of eight bits, from the definition alone: all 256 codes listed, rounding by search. The tests' own reading of
 *  "OCP 8-bit Floating Point Specification" (E4M3), against which the backends' bit arithmetic is held. */

/** What a code means: (-1)^s * 2^(e - 7) * (1 + m/8), or (-1)^s * 2^-6 * m/8 where e is 0; 0x7f and 0xff are NaN. */
export const e4m3Values: readonly number[] = Array.from({ length: 256 }, (_, code) => {
  const [sign, exponent, mantissa] = [code & 0x80 ? -1 : 1, (code >> 3) & 15, code & 7];
  if (exponent === 15 && mantissa === 7) return Number.NaN;
  return exponent === 0 ? sign * 2 ** -6 * (mantissa / 8) : sign * 2 ** (exponent - 7) * (1 + mantissa / 8);
});

/** The nearest number that a code means; of two equally near, the one of the even code. */
export function toE4m3(x: number): number {
  const magnitude = Math.abs(x);
  // Codes 0..126 ascend with what they mean.
  let [low, high] = [0, 126];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (e4m3Values[middle]! <= magnitude) low = middle;
    else high = middle;
  }
  const [below, above] = [magnitude - e4m3Values[low]!, e4m3Values[high]! - magnitude];
  const nearest = below < above || (below === above && low % 2 === 0) ? low : high;
  return x < 0 ? -e4m3Values[nearest]! : e4m3Values[nearest]!;
}

/** What is read back of a head that an f8 cache stores. */
export function throughE4m3(head: Float64Array): Float64Array {
  const scale = Math.fround(Math.max(...head.map(Math.abs)) / 448) || 1;
  return head.map((v) => toE4m3(Math.fround(v / scale)) * scale);
}
