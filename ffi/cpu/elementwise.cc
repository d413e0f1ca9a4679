// Ops on flat arrays: dropout, scaled and running sums, conversions, sums of squares.
#include "flat.h"
#include "hash.h"

namespace KOALA_NS {

namespace {

constexpr int64_t PIECE = 32768;
constexpr int64_t SQUARES = 65536;  // elements of one partial sum of squares
constexpr int LANES = 32;           // of that sum, on every instruction set: equal bits everywhere

/** f(begin, end) over n elements on the threads. */
template <class F> inline void over(koala_device* dev, int64_t n, F&& f) {
  parallel_for(&dev->pool, n > 2 * PIECE, n, PIECE, [&](int64_t begin, int64_t end, int) { f(begin, end); });
}

template <class T, class S> void convert(koala_device* dev, T* to, const S* from, int64_t n) {
  over(dev, n, [&](int64_t begin, int64_t end) {
    if constexpr (Same<T, S>::value) memmove(to + begin, from + begin, (end - begin) * sizeof(T));
    else if constexpr (Same<T, double>::value || Same<S, double>::value)
      for (int64_t i = begin; i < end; i++) to[i] = narrow<T>(widen(from[i]));
    else
      for (int64_t i = begin; i < end; i += W) store_some(to + i, end - i, load_some(from + i, end - i));
  });
}

/** Sum of squares in double, in LANES lanes by position. */
template <class T> double piece_squares(const T* x, int64_t n) {
  constexpr int vectors = LANES / W;
  vd sums[vectors] = {};
  auto add = [&](int v, const T* from, int64_t left) {
    const vd wide = __builtin_convertvector(load_some(from, left), vd);
    sums[v] += wide * wide;
  };
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) add(v, x + i + v * W, W);
  for (int v = 0; i + v * W < n; v++) add(v, x + i + v * W, n - i - v * W);
  double lanes[LANES], total = 0;
  memcpy(lanes, sums, sizeof lanes);
  for (double lane : lanes) total += lane;
  return total;
}

}  // namespace

int32_t dropout(koala_device* dev, void* y, const void* x, double offset, int32_t n, int32_t seed, float p,
    int32_t dtype) {
  const HashKey key = hash_key((uint32_t)seed, STREAM_DROPOUT);
  const uint32_t dropped = hash_threshold(p);
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    const C scale = (C)(1. / (1. - (double)p));
    over(dev, n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += W) {
        const auto values = load_some((const E*)x + i, end - i) * splat(scale);
        const vi keep = hash_at(key, (uint64_t)offset + i) >= dropped;
        if constexpr (Same<C, double>::value) store_some((E*)y + i, end - i, __builtin_convertvector(keep,
            decltype(values < values)) ? values : vd{});
        else store_some((E*)y + i, end - i, keep ? values : vf{});
      }
    });
    return 0;
  });
}

int32_t axpby(koala_device* dev, void* y, const void* x, double n, double a, double b, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    over(dev, (int64_t)n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += W) {
        auto sum = load_some((const E*)x + i, end - i) * splat((C)a);
        if (b != 0) sum = fma(load_some((E*)y + i, end - i), splat((C)b), sum);
        store_some((E*)y + i, end - i, sum);
      }
    });
    return 0;
  });
}

int32_t accumulate(koala_device* dev, void* sum, const float* x, double n, int32_t stype) {
  auto add = [&](auto* to) {
    over(dev, (int64_t)n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += W) store_some(to + i, end - i, load_some(to + i, end - i) + load_some(x + i,
          end - i));
    });
  };
  if (stype == KOALA_BF16) add((bf16*)sum);
  else add((float*)sum);
  return 0;
}

int32_t cast(koala_device* dev, void* to, const void* from, double n, int32_t to_type, int32_t from_type) {
  return with_type(to_type, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    switch (from_type) {
      case KOALA_F32: convert(dev, (E*)to, (const float*)from, (int64_t)n); break;
      case KOALA_BF16: convert(dev, (E*)to, (const bf16*)from, (int64_t)n); break;
      case KOALA_F16: convert(dev, (E*)to, (const f16*)from, (int64_t)n); break;
      default: convert(dev, (E*)to, (const double*)from, (int64_t)n);
    }
    return 0;
  });
}

int32_t sum_squares(koala_device* dev, double* sum, const void* x, double n, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    const int64_t count = (int64_t)n, parts = (count + SQUARES - 1) / SQUARES;
    if (reserve(dev, parts * sizeof(double), 0)) return -1;
    double* part = (double*)dev->shared.data;
    parallel_for(&dev->pool, parts > 1, parts, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; p++) part[p] = piece_squares((const E*)x + p * SQUARES, count
          - p * SQUARES < SQUARES ? count - p * SQUARES : SQUARES);
    });
    double total = 0;
    for (int64_t p = 0; p < parts; p++) total += part[p];
    *sum = total;
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_dropout(koala_device* dev, void* y, const void* x, double offset, int32_t n, int32_t seed, float p,
    int32_t dtype) {
  if (check_dropout(dev, y, x, offset, n, p, dtype)) return -1;
  return dev->kernels->dropout(dev, y, x, offset, n, seed, p, dtype);
}

int32_t koala_axpby(koala_device* dev, void* y, const void* x, double n, double a, double b, int32_t dtype) {
  if (check_axpby(dev, y, x, n, dtype)) return -1;
  return dev->kernels->axpby(dev, y, x, n, a, b, dtype);
}

int32_t koala_accumulate(koala_device* dev, void* sum, const float* x, double n, int32_t stype) {
  if (check_accumulate(dev, sum, x, n, stype)) return -1;
  return dev->kernels->accumulate(dev, sum, x, n, stype);
}

int32_t koala_cast(koala_device* dev, void* to, const void* from, double n, int32_t to_type, int32_t from_type) {
  if (check_cast(dev, to, from, n, to_type, from_type)) return -1;
  return dev->kernels->cast(dev, to, from, n, to_type, from_type);
}

int32_t koala_sum_squares(koala_device* dev, double* sum, const void* x, double n, int32_t dtype) {
  if (check_sum_squares(dev, sum, x, n, dtype)) return -1;
  return dev->kernels->sum_squares(dev, sum, x, n, dtype);
}
#endif
