// Gradients of the RMS norm of rows, and of the query and key heads inside qkv.
//
// With r = 1/sqrt(mean x^2 + eps): dx = r * (dy*w - x * r^2 * mean(dy*w*x)), dw = sum over rows of dy * x * r.
// Rows are taken in blocks of 32; each block sums its part of dw, and the parts are added in ascending order.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

namespace {

constexpr int BLOCK = 32;

template <class C> inline C reciprocal_root(C x) {
  if constexpr (Same<C, float>::value) return 1.f / __builtin_sqrtf(x);
  else return 1. / __builtin_sqrt(x);
}

/** One row of n elements: writes (or adds to) dx, adds to dw. dx may be dy. */
template <class C, class T>
inline void norm_row_backward(T* dx, C* dw, const T* dy, const T* x, const T* weight, int n, float eps,
    bool accumulate) {
  typedef vector_t<C> V;
  V squares = {}, products = {};
  for (int i = 0; i < n; i += W) {
    const V v = load_row(x, i, n);
    squares = fma(v, v, squares);
    products = fma(load_row(dy, i, n) * load_row(weight, i, n), v, products);
  }
  const C r = reciprocal_root<C>(sum_lanes<C>(squares) / n + eps), slope = r * r * (sum_lanes<C>(products) / n);
  for (int i = 0; i < n; i += W) {
    const V v = load_row(x, i, n), d = load_row(dy, i, n);
    V gradient = splat(r) * (d * load_row(weight, i, n) - v * splat(slope));
    if (accumulate) gradient += load_row(dx, i, n);
    store_row(dw, i, n, load_row(dw, i, n) + d * v * splat(r));
    store_row(dx, i, n, gradient);
  }
}

/** total[0..n) += parts [blocks, n], block after block. */
template <class C> inline void add_parts(C* total, const C* parts, int64_t blocks, size_t stride, int n) {
  for (int i = 0; i < n; i += W) {
    vector_t<C> sum = {};
    for (int64_t b = 0; b < blocks; b++) sum += load_row(parts + b * stride, i, n);
    store_row(total, i, n, load_row(total, i, n) + sum);
  }
}

}  // namespace

int32_t rms_norm_backward(koala_device* dev, void* dx, void* dweight, const void* dy, const void* x, const void* weight,
    int32_t T, int32_t D, float eps, int32_t accumulate, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    const int64_t blocks = (T + BLOCK - 1) / BLOCK;
    if (reserve(dev, blocks * D * sizeof(C), 0)) return -1;
    C* parts = (C*)dev->shared.data;
    parallel_for(&dev->pool, (int64_t)T * D > 32768, blocks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; b++) {
        memset(parts + b * D, 0, D * sizeof(C));
        for (int64_t t = b * BLOCK; t < (b + 1) * BLOCK && t < T; t++)
          norm_row_backward<C>((E*)dx + t * D, parts + b * D, (const E*)dy + t * D, (const E*)x + t * D,
              (const E*)weight, D, eps, accumulate != 0);
      }
    });
    add_parts((C*)dweight, parts, blocks, D, D);
    return 0;
  });
}

int32_t qk_norm_backward(koala_device* dev, void* dqkv, void* dq_weight, void* dk_weight, const void* qkv,
    const void* q_weight, const void* k_weight, int32_t T, int32_t H, int32_t G, int32_t E, float eps, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    typedef compute_t<El> C;
    const int64_t blocks = (T + BLOCK - 1) / BLOCK;
    const size_t width = (size_t)(H + 2 * G) * E;
    if (reserve(dev, blocks * 2 * E * sizeof(C), 0)) return -1;
    C* parts = (C*)dev->shared.data;  // for each block the sums of the query weights, then of the key weights
    parallel_for(&dev->pool, (int64_t)T * (H + G) * E > 32768, blocks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; b++) {
        memset(parts + b * 2 * E, 0, 2 * E * sizeof(C));
        for (int64_t t = b * BLOCK; t < (b + 1) * BLOCK && t < T; t++)
          for (int h = 0; h < H + G; h++) {
            El* gradient = (El*)dqkv + t * width + (size_t)h * E;
            norm_row_backward<C>(gradient, parts + (2 * b + (h >= H)) * E, gradient, (const El*)qkv + t * width
                + (size_t)h * E, (const El*)(h < H ? q_weight : k_weight), E, eps, false);
          }
      }
    });
    add_parts((C*)dq_weight, parts, blocks, 2 * E, E);
    add_parts((C*)dk_weight, parts + E, blocks, 2 * E, E);
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_rms_norm_backward(koala_device* dev, void* dx, void* dweight, const void* dy, const void* x,
    const void* weight, int32_t T, int32_t D, float eps, int32_t accumulate, int32_t dtype) {
  if (check_rms_norm_backward(dev, dx, dweight, dy, x, weight, T, D, dtype)) return -1;
  return dev->kernels->rms_norm_backward(dev, dx, dweight, dy, x, weight, T, D, eps, accumulate, dtype);
}

int32_t koala_qk_norm_backward(koala_device* dev, void* dqkv, void* dq_weight, void* dk_weight, const void* qkv,
    const void* q_weight, const void* k_weight, int32_t T, int32_t H, int32_t G, int32_t E, float eps, int32_t dtype) {
    if (check_qk_norm_backward(dev, dqkv, dq_weight, dk_weight, qkv, q_weight, k_weight, T, H, G, E, dtype))
      return -1;
  return dev->kernels->qk_norm_backward(dev, dqkv, dq_weight, dk_weight, qkv, q_weight, k_weight, T, H, G, E, eps,
      dtype);
}
#endif
