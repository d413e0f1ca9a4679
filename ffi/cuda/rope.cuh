// Rotary position embedding of query and key heads and its transpose, half-split: element i turns with element i + E/2.
//
// A thread turns one pair, or eight that lie side by side, read 16 bytes at a time. Angles come from a table, since sine and
// cosine of large angles spill registers.
// budget k_rope: registers 40, shared 0
#pragma once
#include "kernels.cuh"

constexpr int ROPE_THREADS = 256, ROPE_PAIRS = 8;

/** The grid is (rows, pieces of the pairs of a row). BACK turns by the negative angle. */
template <class El, int PAIRS, bool BACK>
KERNEL(ROPE_THREADS)
k_rope(El* qkv, const float* table, const int32_t* positions, int heads, int width, int half, Faults* faults) {
  typedef compute_t<El> C;
  const int t = blockIdx.x, pair = (blockIdx.y * ROPE_THREADS + threadIdx.x) * PAIRS, position = positions[t];
  if (pair >= heads * half || !check_index(faults, FAULT_POSITION, t, position, 0x7fffffff)) return;
  const int head = pair / half, i = pair - head * half;
  El* at = qkv + (int64_t)t * width + head * 2 * half + i;
  const float* angle = table + ((int64_t)position * half + i) * 2;
  C a[PAIRS], b[PAIRS];
  float angles[2 * PAIRS];
  if constexpr (PAIRS == ROPE_PAIRS) {
    load_8(a, at), load_8(b, at + half);
    load_8(angles, angle), load_8(angles + ROPE_PAIRS, angle + ROPE_PAIRS);
  } else {
    a[0] = widen(at[0]), b[0] = widen(at[half]);
    angles[0] = angle[0], angles[1] = angle[1];
  }
#pragma unroll
  for (int j = 0; j < PAIRS; j++) {
    const C c = angles[2 * j], s = BACK ? -angles[2 * j + 1] : angles[2 * j + 1], old = a[j];
    a[j] = old * c - b[j] * s;
    b[j] = b[j] * c + old * s;
  }
  if constexpr (PAIRS == ROPE_PAIRS) {
    store_8(at, a), store_8(at + half, b);
  } else {
    at[0] = narrow<El>(a[0]), at[half] = narrow<El>(b[0]);
  }
}

/** Turns `heads` heads of E elements in each of the rows, `width` elements apart. */
template <bool BACK>
inline int32_t turn(koala_device* dev, void* qkv, const float* table, const int32_t* positions, int rows, int heads,
    int width, int E, int32_t dtype) {
  const int half = E / 2;
  Faults* faults = checked(dev, FAULT_POSITION, 0x7fffffff);
  const bool wide = half % ROPE_PAIRS == 0 && is_aligned(qkv) && is_aligned(table);
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    auto launch = [&](auto kernel, int pairs) {
      LAUNCH((kernel), dim3(rows, blocks_of(heads * half, ROPE_THREADS * pairs)), ROPE_THREADS, 0, dev->stream, (El*)qkv,
          table, positions, heads, width, half, faults);
      return finish(dev);
    };
    if constexpr (!Same<El, double>::value)
      if (wide) return launch(k_rope<El, ROPE_PAIRS, BACK>, ROPE_PAIRS);
    return launch(k_rope<El, 1, BACK>, 1);
  });
}
