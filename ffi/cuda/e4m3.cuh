// Numbers of eight bits: sign, four bits of exponent (bias 7), three of mantissa; at most 448, no infinity.
//
// Read as the high bits of a bf16 they are the number times 2^-120, numbers below 2^-6 included. Codes 0x7f and 0xff
// (NaN elsewhere) read as 480: whatever memory holds, what is read from it is finite. Bit arithmetic only: sm_80 has no
// instructions for them.
#pragma once
#include "gpu.h"

constexpr float E4M3_MAX = 448;

/** The code of x: rounded to nearest even, at most 448. */
DEVICE uint32_t e4m3_code(float x) {
  const uint32_t u = float_to_bits(x), magnitude = u & 0x7fffffff;
  const uint32_t normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
  // 2^14 + x is rounded to a multiple of 2^-9, the distance of the smallest codes.
  const uint32_t small = float_to_bits(bits_to_float(magnitude) + 16384.f) - 0x46800000;
  const uint32_t code = magnitude < 0x3c800000 ? small : normal;  // 2^-6
  return (code > 0x7e ? 0x7e : code) | (u >> 24 & 0x80);
}

DEVICE float widen(f8 x) {
  return bits_to_float((uint32_t)(x.bits & 0x80) << 24 | (uint32_t)(x.bits & 0x7f) << 20) * 1.329227995784916e36f;
}

/** Four codes as pairs of bf16: bytes 0 and 2, bytes 1 and 3. */
DEVICE void expand_4(uint32_t codes, uint32_t* even, uint32_t* odd) {
  const uint32_t unit = 0x7b807b80;  // 2^120
  *even = mul_bf16x2((codes << 8 & 0x80008000) | (codes << 4 & 0x07f007f0), unit);
  *odd = mul_bf16x2((codes & 0x80008000) | (codes >> 4 & 0x07f007f0), unit);
}
