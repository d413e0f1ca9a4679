/** Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), equal to the Random123 library word for word.
 *  A number is a pure function of key and counter: nothing is stored, so nothing depends on who drew before. */

/** Uniform in [0, 1) with 53 bits: the draw number `index` of the stream `seed` (both taken as unsigned 32 bits). */
export function uniform(seed: number, index: number): number {
  philox(seed, STREAM_SAMPLING, index, 0, 0, 0);
  return ((words[0]! >>> 5) * 2 ** 26 + (words[1]! >>> 6)) / 2 ** 53;
}

/** Ten rounds over the counter (c0..c3) under the key (k0, k1); the four words of the answer. */
export function philox4x32(
  key: readonly [number, number],
  counter: readonly [number, number, number, number],
): number[] {
  philox(key[0], key[1], counter[0], counter[1], counter[2], counter[3]);
  return Array.from(words);
}

/** Second key word of the sampling stream, so that another use of the same seed draws other numbers. */
const STREAM_SAMPLING = 0x6b6f616c;

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

// The result lives here instead of in a fresh array: the sampler draws once a token.
const words = new Uint32Array(4);

function philox(k0: number, k1: number, c0: number, c1: number, c2: number, c3: number): void {
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + WEYL_0) | 0;
    k1 = (k1 + WEYL_1) | 0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/** Upper 32 bits of the unsigned product: four products of 16-bit halves, each exact in a double. */
function multiplyHigh(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = (middle & 0xffff) + aLow * bHigh;
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) | 0;
}
