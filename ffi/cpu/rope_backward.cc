// Gradient of the rotary position embedding: every query and key head turns back by its position's angles.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

namespace {

/** (a, b) becomes (a*c + b*s, b*c - a*s); `table` is [E/2, 2]. */
template <class T> inline void rotate_back(T* head, const float* table, int half) {
  typedef compute_t<T> C;
  for (int i = 0; i < half; i++) {
    const C a = widen(head[i]), b = widen(head[half + i]), c = table[2 * i], s = table[2 * i + 1];
    head[i] = narrow<T>(a * c + b * s);
    head[half + i] = narrow<T>(b * c - a * s);
  }
}

}  // namespace

int32_t rope_backward(koala_device* dev, void* dqkv, const float* table, const int32_t* positions, int32_t T, int32_t H,
    int32_t G, int32_t E, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    const size_t width = (size_t)(H + 2 * G) * E;
    parallel_for(&dev->pool, (int64_t)T * (H + G) * E > 32768, T, 1 + T / (dev->pool.threads * 4), [&](int64_t begin,
        int64_t end, int) {
      for (int64_t t = begin; t < end; t++)
        for (int h = 0; h < H + G; h++) rotate_back((El*)dqkv + t * width + (size_t)h * E, table
            + (size_t)positions[t] * E, E / 2);
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_rope_backward(koala_device* dev, void* dqkv, const float* table, const int32_t* positions, int32_t T,
    int32_t H, int32_t G, int32_t E, int32_t dtype) {
  if (check_rope_backward(dev, dqkv, table, positions, T, H, G, E, dtype)) return -1;
  for (int t = 0; t < T; t++) REQUIRE(positions[t] >= 0, "koala_rope_backward: position %d of row %d is negative.",
      positions[t], t);
  return dev->kernels->rope_backward(dev, dqkv, table, positions, T, H, G, E, dtype);
}
#endif
