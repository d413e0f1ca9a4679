// Transposes W x W blocks of 32-bit lanes in registers.
#pragma once
#include "simd.h"

namespace KOALA_NS {

/** Lanes of a butterfly that swaps the off-diagonal blocks of size S: of rows i and i + S, first for i, then for i
    + S. */
template <int S> struct Butterfly {
  int32_t upper[W], lower[W];
  constexpr Butterfly() : upper(), lower() {
    for (int j = 0; j < W; j++) {
      upper[j] = j & S ? W + j - S : j;
      lower[j] = j & S ? W + j : j + S;
    }
  }
};

template <int S> inline __attribute__((always_inline)) void transpose_step(vu* rows) {
  static constexpr Butterfly<S> lanes;
  const vi upper = read_bits<vi>(lanes.upper), lower = read_bits<vi>(lanes.lower);
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) {
    if (i & S) continue;
    const vu a = rows[i], b = rows[i + S];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i + S] = __builtin_shuffle(a, b, lower);
  }
}

/** rows[i][j] becomes rows[j][i]. */
inline __attribute__((always_inline)) void transpose_block(vu* rows) {
  if constexpr (W >= 16) transpose_step<8>(rows);
  if constexpr (W >= 8) transpose_step<4>(rows);
  transpose_step<2>(rows);
  transpose_step<1>(rows);
}

}  // namespace KOALA_NS
