// Numbers of eight bits: sign, four bits of exponent (bias 7), three of mantissa; at most 448, no infinity.
//
// Read as the high bits of a float32 they are the number times 2^-120, numbers below 2^-6 included. Codes 0x7f and 0xff
// (NaN elsewhere) read as 480: whatever memory holds, what is read from it is finite.
#pragma once
#include "simd.h"

namespace KOALA_NS {

struct f8 { uint8_t bits; };

constexpr float E4M3_MAX = 448;

/** The codes of each lane, in its low byte: rounded to nearest even, at most 448. */
inline vu e4m3_bits(vf x) {
  const vu u = (vu)x, magnitude = u & 0x7fffffff;
  const vu normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
  // 2^14 + x is rounded to a multiple of 2^-9, the distance of the smallest codes.
  const vu small = (vu)((vf)magnitude + 0x1p14f) - float_to_bits(0x1p14f);
  const vu code = magnitude < float_to_bits(0x1p-6f) ? small : normal;
  return (code > 0x7e ? 0x7e : code) | (u >> 24 & 0x80);
}

/** Pairs of codes become pairs of bf16; n is a multiple of W. */
inline void expand_pairs(bf16* to, const f8* from, int n) {
  for (int i = 0; i < n; i += W) {
    const vu pair = __builtin_convertvector(read_bits<vh>(from + 2 * i), vu);
    // The sign stays on top, the rest moves four places down.
    const vf low = (vf)((vi)(pair << 24) >> 4 & (int32_t)0x87f00000) * 0x1p120f;
    const vf high = (vf)((vi)(pair << 16) >> 4 & (int32_t)0x87f00000) * 0x1p120f;
    write_bits(to + 2 * i, (vu)low >> 16 | (vu)high);
  }
}

/** What the E elements of a head are divided by: max|v| / 448, 1 where that is 0, NaN where an element is not finite. */
template <class T> inline float e4m3_scale(const T* head, int E) {
  vf top = {}, poison = {};
  for (int e = 0; e < E; e += W) {
    const vf v = load_row(head, e, E);
    top = max((vf)((vu)v & 0x7fffffff), top);
    poison += v * 0.f;
  }
  const float scale = max_lanes<float>(top) / E4M3_MAX, finite = sum_lanes<float>(poison);
  return finite != 0 ? finite : scale == 0 ? 1 : scale;
}

}  // namespace KOALA_NS
