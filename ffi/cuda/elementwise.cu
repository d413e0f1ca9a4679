// Ops on flat arrays: dropout, scaled and running sums, conversions. A thread takes eight elements.
//
// budget k_dropout: registers 40, shared 0
// budget k_axpby: registers 40, shared 0
// budget k_accumulate: registers 40, shared 0
// budget k_cast: registers 40, shared 0
#include "hash.cuh"
#include "kernels.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int EACH = 8;

DEVICE int64_t first_element() { return ((int64_t)blockIdx.x * THREADS + threadIdx.x) * EACH; }

template <class E>
KERNEL(THREADS) k_dropout(E* y, const E* x, uint64_t offset, int64_t n, HashKey key, uint32_t dropped,
    compute_t<E> scale, bool wide) {
  const int64_t i = first_element();
  if (i >= n) return;
  compute_t<E> v[EACH];
  load_some(v, x, i, n, wide);
#pragma unroll
  for (int j = 0; j < EACH; j++) v[j] = hash_at(key, offset + i + j) >= dropped ? v[j] * scale : compute_t<E>(0);
  store_some(y, v, i, n, wide);
}

template <class E> KERNEL(THREADS) k_axpby(E* y, const E* x, int64_t n, compute_t<E> a, compute_t<E> b, bool wide) {
  const int64_t i = first_element();
  if (i >= n) return;
  compute_t<E> u[EACH], v[EACH];
  load_some(u, x, i, n, wide);
  if (b != 0) {  // y may hold NaNs where b is 0
    load_some(v, y, i, n, wide);
#pragma unroll
    for (int j = 0; j < EACH; j++) u[j] = a * u[j] + b * v[j];
  } else {
#pragma unroll
    for (int j = 0; j < EACH; j++) u[j] *= a;
  }
  store_some(y, u, i, n, wide);
}

template <class S> KERNEL(THREADS) k_accumulate(S* sum, const float* x, int64_t n, bool wide) {
  const int64_t i = first_element();
  if (i >= n) return;
  float u[EACH], v[EACH];
  load_some(u, sum, i, n, wide);
  load_some(v, x, i, n, wide);
#pragma unroll
  for (int j = 0; j < EACH; j++) u[j] += v[j];
  store_some(sum, u, i, n, wide);
}

template <class T, class S> KERNEL(THREADS) k_cast(T* to, const S* from, int64_t n, bool wide) {
  const int64_t i = first_element();
  if (i >= n) return;
  compute_t<S> v[EACH];
  load_some(v, from, i, n, wide);
  store_some(to, v, i, n, wide);
}

template <class T, class S> void convert(koala_device* dev, void* to, const void* from, int64_t n) {
  LAUNCH((k_cast<T, S>), blocks_of(n, THREADS * EACH), THREADS, 0, dev->stream, (T*)to, (const S*)from, n,
      is_aligned(to) && is_aligned(from));
}

}  // namespace

int32_t koala_dropout(koala_device* dev, void* y, const void* x, double offset, int32_t n, int32_t seed, float p,
    int32_t dtype) {
  if (check_dropout(dev, y, x, offset, n, p, dtype)) return -1;
  if (n == 0) return 0;
  if (begin(dev, "koala_dropout")) return -1;
  const HashKey key = hash_key((uint32_t)seed, STREAM_DROPOUT);
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_dropout<E>), blocks_of(n, THREADS * EACH), THREADS, 0, dev->stream, (E*)y, (const E*)x,
        (uint64_t)offset, n, key, hash_threshold(p), (compute_t<E>)(1. / (1. - (double)p)),
        is_aligned(x) && is_aligned(y));
    return finish(dev);
  });
}

int32_t koala_axpby(koala_device* dev, void* y, const void* x, double n, double a, double b, int32_t dtype) {
  if (check_axpby(dev, y, x, n, dtype)) return -1;
  if (n == 0) return 0;
  if (begin(dev, "koala_axpby")) return -1;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_axpby<E>), blocks_of(n, THREADS * EACH), THREADS, 0, dev->stream, (E*)y, (const E*)x, (int64_t)n,
        (compute_t<E>)a, (compute_t<E>)b, is_aligned(x) && is_aligned(y));
    return finish(dev);
  });
}

int32_t koala_accumulate(koala_device* dev, void* sum, const float* x, double n, int32_t stype) {
  if (check_accumulate(dev, sum, x, n, stype)) return -1;
  if (n == 0) return 0;
  if (begin(dev, "koala_accumulate")) return -1;
  const bool wide = is_aligned(sum) && is_aligned(x);
  const unsigned blocks = blocks_of(n, THREADS * EACH);
  if (stype == KOALA_BF16)
    LAUNCH((k_accumulate<bf16>), blocks, THREADS, 0, dev->stream, (bf16*)sum, x, (int64_t)n, wide);
  else LAUNCH((k_accumulate<float>), blocks, THREADS, 0, dev->stream, (float*)sum, x, (int64_t)n, wide);
  return finish(dev);
}

int32_t koala_cast(koala_device* dev, void* to, const void* from, double n, int32_t to_type, int32_t from_type) {
  if (check_cast(dev, to, from, n, to_type, from_type)) return -1;
  if (n == 0) return 0;
  if (begin(dev, "koala_cast")) return -1;
  if (to_type == from_type) {
    if (copy(dev, to, from, (size_t)n * type_bytes(to_type))) return -1;  // also the bits of a NaN
    return finish(dev);
  }
  return with_type(to_type, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    switch (from_type) {
      case KOALA_F32: convert<E, float>(dev, to, from, (int64_t)n); break;
      case KOALA_BF16: convert<E, bf16>(dev, to, from, (int64_t)n); break;
      case KOALA_F16: convert<E, f16>(dev, to, from, (int64_t)n); break;
      default: convert<E, double>(dev, to, from, (int64_t)n);
    }
    return finish(dev);
  });
}
