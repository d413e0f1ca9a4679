// RMS norm of rows, and of the query and key heads inside qkv.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

namespace {

/** y = x / sqrt(mean x^2 + eps) * weight over n elements. Squares are summed in W lanes by position modulo W. */
template <class T> inline void norm_row(T* y, const T* x, const T* weight, int n, float eps) {
  typedef compute_t<T> C;
  typedef vector_t<C> V;
  V squares = {};
  for (int i = 0; i < n; i += W) {
    V v = load_row(x, i, n);
    squares = fma(v, v, squares);
  }
  const C mean = sum_lanes<C>(squares) / n + eps;
  C scale;
  if constexpr (Same<C, float>::value) scale = 1.f / __builtin_sqrtf(mean);
  else scale = 1. / __builtin_sqrt(mean);
  for (int i = 0; i < n; i += W) store_row(y, i, n, load_row(x, i, n) * splat(scale) * load_row(weight, i, n));
}

}  // namespace

int32_t rms_norm(koala_device* dev, void* y, const void* x, const void* weight, int32_t T, int32_t D, float eps,
    int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    parallel_for(&dev->pool, (int64_t)T * D > 32768, T, 1 + T / (dev->pool.threads * 4), [&](int64_t begin,
        int64_t end, int) {
      for (int64_t t = begin; t < end; t++) norm_row((E*)y + t * D, (const E*)x + t * D, (const E*)weight, D, eps);
    });
    return 0;
  });
}

int32_t add_rms_norm(koala_device* dev, void* y, void* x, const void* delta, const void* weight, int32_t T, int32_t D,
    float eps, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    parallel_for(&dev->pool, (int64_t)T * D > 32768, T, 1 + T / (dev->pool.threads * 4), [&](int64_t begin,
        int64_t end, int) {
      for (int64_t t = begin; t < end; t++) {
        E* row = (E*)x + t * D;
        const E* more = (const E*)delta + t * D;
        for (int i = 0; i < D; i += W) store_row(row, i, D, load_row(row, i, D) + load_row(more, i, D));
        norm_row((E*)y + t * D, row, (const E*)weight, D, eps);
      }
    });
    return 0;
  });
}

int32_t qk_norm(koala_device* dev, void* qkv, const void* q_weight, const void* k_weight, int32_t T, int32_t H,
    int32_t G, int32_t E, float eps, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    const size_t width = (size_t)(H + 2 * G) * E;
    parallel_for(&dev->pool, (int64_t)T * (H + G) * E > 32768, T, 1 + T / (dev->pool.threads * 4), [&](int64_t begin,
        int64_t end, int) {
      for (int64_t t = begin; t < end; t++)
        for (int h = 0; h < H + G; h++) {
          El* head = (El*)qkv + t * width + (size_t)h * E;
          norm_row(head, head, (const El*)(h < H ? q_weight : k_weight), E, eps);
        }
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_rms_norm(koala_device* dev, void* y, const void* x, const void* weight, int32_t T, int32_t D, float eps,
    int32_t dtype) {
  if (check_rms_norm(dev, y, x, weight, T, D, dtype)) return -1;
  return dev->kernels->rms_norm(dev, y, x, weight, T, D, eps, dtype);
}

int32_t koala_add_rms_norm(koala_device* dev, void* y, void* x, const void* delta, const void* weight, int32_t T,
    int32_t D, float eps, int32_t dtype) {
  if (check_add_rms_norm(dev, y, x, delta, weight, T, D, dtype)) return -1;
  return dev->kernels->add_rms_norm(dev, y, x, delta, weight, T, D, eps, dtype);
}

int32_t koala_qk_norm(koala_device* dev, void* qkv, const void* q_weight, const void* k_weight, int32_t T, int32_t H,
    int32_t G, int32_t E, float eps, int32_t dtype) {
  if (check_qk_norm(dev, qkv, q_weight, k_weight, T, H, G, E, dtype)) return -1;
  return dev->kernels->qk_norm(dev, qkv, q_weight, k_weight, T, H, G, E, eps, dtype);
}
#endif
