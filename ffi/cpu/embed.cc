// Rows by index: embedding lookup, gather of rows, sums of rows.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

namespace {

/** One row of D elements from type S to type T. */
template <class T, class S> inline void convert_row(T* y, const S* x, int D) {
  if constexpr (Same<T, S>::value) memcpy(y, x, D * sizeof(T));
  else if constexpr (Same<T, double>::value || Same<S, double>::value)
    for (int d = 0; d < D; d++) y[d] = narrow<T>(widen(x[d]));
  else
    for (int d = 0; d < D; d += W) store_row(y, d, D, load_row(x, d, D));
}

inline bool is_large(int64_t elements) { return elements > 65536; }

/** y[t] = table[tokens[t]]; the table may be a mapped file, aligned to its elements only. */
template <class T, class S> void lookup(koala_device* dev, T* y, const S* table, const int32_t* tokens, int n,
    int D) {
  parallel_for(&dev->pool, is_large((int64_t)n * D), n, 1 + n / (dev->pool.threads * 4), [&](int64_t begin,
      int64_t end, int) {
    for (int64_t t = begin; t < end; t++) convert_row(y + t * D, table + (size_t)tokens[t] * D, D);
  });
}

}  // namespace

int32_t embed(koala_device* dev, void* y, const void* table, const int32_t* tokens, int32_t T, int32_t D, int32_t,
    int32_t ttype, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    switch (ttype) {
      case KOALA_F32: lookup(dev, (E*)y, (const float*)table, tokens, T, D); break;
      case KOALA_BF16: lookup(dev, (E*)y, (const bf16*)table, tokens, T, D); break;
      case KOALA_F16: lookup(dev, (E*)y, (const f16*)table, tokens, T, D); break;
      default: lookup(dev, (E*)y, (const double*)table, tokens, T, D);
    }
    return 0;
  });
}

int32_t gather_rows(koala_device* dev, void* y, const void* x, const int32_t* rows, int32_t R, int32_t D,
    int32_t dtype) {
  const size_t bytes = D * type_bytes(dtype);
  parallel_for(&dev->pool, is_large((int64_t)R * D), R, 1 + R / (dev->pool.threads * 4), [&](int64_t begin,
      int64_t end, int) {
    for (int64_t r = begin; r < end; r++) memcpy((char*)y + r * bytes, (const char*)x + rows[r] * bytes, bytes);
  });
  return 0;
}

int32_t sum_rows(koala_device* dev, double* y, const void* x, const int32_t* starts, int32_t S, int32_t D,
    int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    const E* rows = (const E*)x;
    parallel_for(&dev->pool, S > 0 && is_large((int64_t)starts[S] * D), S, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t s = begin; s < end; s++)
        for (int t = starts[s]; t < starts[s + 1]; t++)
          for (int d = 0; d < D; d++) y[s * D + d] += widen(rows[(size_t)t * D + d]);
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_embed(koala_device* dev, void* y, const void* table, const int32_t* tokens, int32_t T, int32_t D,
    int32_t V, int32_t ttype, int32_t dtype) {
  if (check_embed(dev, y, table, tokens, T, D, V, ttype, dtype)) return -1;
  for (int t = 0; t < T; t++) REQUIRE(tokens[t] >= 0 && tokens[t] < V,
      "koala_embed: token %d of row %d is outside the vocabulary of %d.", tokens[t], t, V);
  return dev->kernels->embed(dev, y, table, tokens, T, D, V, ttype, dtype);
}

int32_t koala_gather_rows(koala_device* dev, void* y, const void* x, const int32_t* rows, int32_t R, int32_t D,
    int32_t dtype) {
  if (check_gather_rows(dev, y, x, rows, R, D, dtype)) return -1;
  for (int r = 0; r < R; r++) REQUIRE(rows[r] >= 0, "koala_gather_rows: index %d of row %d is negative.", rows[r], r);
  return dev->kernels->gather_rows(dev, y, x, rows, R, D, dtype);
}

int32_t koala_sum_rows(koala_device* dev, double* y, const void* x, const int32_t* starts, int32_t S, int32_t D,
    int32_t dtype) {
  if (check_sum_rows(dev, y, x, starts, S, D, dtype)) return -1;
  for (int s = 0; s < S; s++)
    REQUIRE(starts[s] >= 0 && starts[s] <= starts[s + 1],
        "koala_sum_rows: starts must ascend from 0, and sequence %d runs from %d to %d.", s, starts[s],
        starts[s + 1]);
  return dev->kernels->sum_rows(dev, y, x, starts, S, D, dtype);
}
#endif
