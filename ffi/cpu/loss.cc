// Cross-entropy of rows of logits: log-probabilities of the targets, and the gradient in the place of the logits.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

namespace {

/** log sum exp of a row as its maximum and a logarithm, summed in double. NaN or +infinity in the row gives NaN. */
template <class C> struct LogSum {
  C top;
  double log_sum;
};

template <class C, class T> inline LogSum<C> log_sum_exp(const T* logits, int V) {
  typedef vector_t<C> Vec;
  Vec top = splat((C)-__builtin_inf());
  int v = 0;
  for (; v + W <= V; v += W) top = max(load(logits + v), top);
  C maximum = max_lanes<C>(top);
  for (; v < V; v++) {
    const C value = widen(logits[v]);
    if (value > maximum) maximum = value;
  }
  vd sum = {};
  for (v = 0; v < V; v += W) {
    Vec e = exp(load_row(logits, v, V) - splat(maximum));
    if (v + W > V)
      for (int i = V - v; i < W; i++) e[i] = 0;
    sum += __builtin_convertvector(e, vd);
  }
  return {maximum, __builtin_log(sum_lanes<double>(sum))};
}

}  // namespace

int32_t cross_entropy(koala_device* dev, void* logprobs, void* lse, const void* logits, const int32_t* targets,
    int32_t R, int32_t V, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    parallel_for(&dev->pool, (int64_t)R * V > 20000, R, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; r++) {
        const E* row = (const E*)logits + r * V;
        const LogSum<C> s = log_sum_exp<C>(row, V);
        ((C*)lse)[r] = (C)((double)s.top + s.log_sum);
        ((C*)logprobs)[r] = targets[r] < 0 ? 0 : (C)((double)widen(row[targets[r]]) - (double)s.top - s.log_sum);
      }
    });
    return 0;
  });
}

int32_t cross_entropy_backward(koala_device* dev, void* logits, const void* lse, const void* weights,
    const int32_t* targets, int32_t R, int32_t V, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    parallel_for(&dev->pool, (int64_t)R * V > 20000, R, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; r++) {
        E* row = (E*)logits + r * V;
        if (targets[r] < 0) {
          memset(row, 0, V * sizeof(E));
          continue;
        }
        const C weight = ((const C*)weights)[r], sum = ((const C*)lse)[r];
        const C chosen = exp(splat((C)(widen(row[targets[r]]) - sum)))[0];
        for (int v = 0; v < V; v += W) store_row(row, v, V, splat(weight) * exp(load_row(row, v, V) - splat(sum)));
        row[targets[r]] = narrow<E>(weight * (chosen - 1));
      }
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_cross_entropy(koala_device* dev, void* logprobs, void* lse, const void* logits, const int32_t* targets,
    int32_t R, int32_t V, int32_t dtype) {
  if (check_cross_entropy(dev, logprobs, lse, logits, targets, R, V, dtype)) return -1;
  for (int r = 0; r < R; r++) REQUIRE(targets[r] >= -1 && targets[r] < V,
      "koala_cross_entropy: target %d of row %d is outside the vocabulary of %d.", targets[r], r, V);
  return dev->kernels->cross_entropy(dev, logprobs, lse, logits, targets, R, V, dtype);
}

int32_t koala_cross_entropy_backward(koala_device* dev, void* logits, const void* lse, const void* weights,
    const int32_t* targets, int32_t R, int32_t V, int32_t dtype) {
  if (check_cross_entropy_backward(dev, logits, lse, weights, targets, R, V, dtype)) return -1;
  for (int r = 0; r < R; r++) REQUIRE(targets[r] >= -1 && targets[r] < V,
      "koala_cross_entropy_backward: target %d of row %d is outside the vocabulary of %d.", targets[r], r, V);
  return dev->kernels->cross_entropy_backward(dev, logits, lse, weights, targets, R, V, dtype);
}
#endif
