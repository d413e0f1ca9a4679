// Rotary position embedding of the query and key heads, half-split: element i turns with element i + E/2.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

namespace {

/** Lanes 0, 2, 4 ... and 1, 3, 5 ... of 2W floats: cosines and sines of W angles. */
inline void load_angles(vf* cosine, vf* sine, const float* table) {
  const vf a = load(table), b = load(table + W);
#if KOALA_LEVEL >= 2
  *cosine = __builtin_shuffle(a, b, vi{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30});
  *sine = __builtin_shuffle(a, b, vi{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31});
#elif KOALA_LEVEL == 1
  *cosine = __builtin_shuffle(a, b, vi{0, 2, 4, 6, 8, 10, 12, 14});
  *sine = __builtin_shuffle(a, b, vi{1, 3, 5, 7, 9, 11, 13, 15});
#else
  *cosine = __builtin_shuffle(a, b, vi{0, 2, 4, 6});
  *sine = __builtin_shuffle(a, b, vi{1, 3, 5, 7});
#endif
}

/** One head by the angles of its position; `table` is [E/2, 2]. */
template <class T> inline void rotate(T* head, const float* table, int half) {
  typedef compute_t<T> C;
  int i = 0;
  if constexpr (Same<C, float>::value)
    for (; i + W <= half; i += W) {
      vf c, s;
      load_angles(&c, &s, table + 2 * i);
      const vf a = load(head + i), b = load(head + half + i);
      store(head + i, a * c - b * s);
      store(head + half + i, b * c + a * s);
    }
  for (; i < half; i++) {
    const C a = widen(head[i]), b = widen(head[half + i]), c = table[2 * i], s = table[2 * i + 1];
    head[i] = narrow<T>(a * c - b * s);
    head[half + i] = narrow<T>(b * c + a * s);
  }
}

}  // namespace

int32_t rope(koala_device* dev, void* qkv, const float* table, const int32_t* positions, int32_t T, int32_t H,
    int32_t G, int32_t E, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    const size_t width = (size_t)(H + 2 * G) * E;
    parallel_for(&dev->pool, (int64_t)T * (H + G) * E > 32768, T, 1 + T / (dev->pool.threads * 4), [&](int64_t begin,
        int64_t end, int) {
      for (int64_t t = begin; t < end; t++)
        for (int h = 0; h < H + G; h++) rotate((El*)qkv + t * width + (size_t)h * E, table + (size_t)positions[t] * E,
            E / 2);
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_rope(koala_device* dev, void* qkv, const float* table, const int32_t* positions, int32_t T, int32_t H,
    int32_t G, int32_t E, int32_t dtype) {
  if (check_rope(dev, qkv, table, positions, T, H, G, E, dtype)) return -1;
  for (int t = 0; t < T; t++) REQUIRE(positions[t] >= 0, "koala_rope: position %d of row %d is negative.",
      positions[t], t);
  return dev->kernels->rope(dev, qkv, table, positions, T, H, G, E, dtype);
}
#endif
