// Rows by index: embedding lookup, gather of rows, sums of rows. A row is read by blocks of 128 threads, eight elements each.
//
// budget k_embed: registers 40, shared 0
// budget k_gather_rows: registers 32, shared 0
// budget k_sum_rows: registers 32, shared 0
#include "kernels.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int EACH = 8;

/** y[t] = table[tokens[t]]; the grid is (rows, pieces of a row). */
template <class E, class S>
KERNEL(THREADS) k_embed(E* y, const S* table, const int32_t* tokens, int D, int V, Faults* faults, bool wide) {
  const int t = blockIdx.x, d = (blockIdx.y * THREADS + threadIdx.x) * EACH, token = tokens[t];
  if (d >= D || !check_index(faults, FAULT_TOKEN, t, token, V)) return;
  compute_t<S> v[EACH];
  load_some(v, table + (int64_t)token * D, d, D, wide);
  store_some(y + (int64_t)t * D, v, d, D, wide);
}

/** Rows of `words` words of type W. */
template <class W> KERNEL(THREADS) k_gather_rows(W* y, const W* x, const int32_t* rows, int words, Faults* faults) {
  const int r = blockIdx.x, i = blockIdx.y * THREADS + threadIdx.x, row = rows[r];
  if (i >= words || !check_index(faults, FAULT_ROW, r, row, 0x7fffffff)) return;
  y[(int64_t)r * words + i] = x[(int64_t)row * words + i];
}

/** A thread owns a column of a sequence: its sum runs in ascending t. */
template <class E> KERNEL(THREADS) k_sum_rows(double* y, const E* x, const int32_t* starts, int D) {
  const int s = blockIdx.x, d = blockIdx.y * THREADS + threadIdx.x;
  if (d >= D) return;
  double sum = y[(int64_t)s * D + d];
  for (int t = starts[s]; t < starts[s + 1]; t++) sum += widen(x[(int64_t)t * D + d]);
  y[(int64_t)s * D + d] = sum;
}

template <class E, class S>
void lookup(koala_device* dev, void* y, const void* table, const int32_t* tokens, int T, int D, int V) {
  const bool wide = is_aligned(y) && is_aligned(table) && D % EACH == 0;
  LAUNCH((k_embed<E, S>), dim3(T, blocks_of(D, THREADS * EACH)), THREADS, 0, dev->stream, (E*)y, (const S*)table, tokens,
      D, V, checked(dev, FAULT_TOKEN, V), wide);
}

template <class W>
void gather(koala_device* dev, void* y, const void* x, const int32_t* rows, int R, size_t row_bytes) {
  const int words = (int)(row_bytes / sizeof(W));
  LAUNCH((k_gather_rows<W>), dim3(R, blocks_of(words, THREADS)), THREADS, 0, dev->stream, (W*)y, (const W*)x, rows, words,
      checked(dev, FAULT_ROW, 0x7fffffff));
}

}  // namespace

int32_t koala_embed(koala_device* dev, void* y, const void* table, const int32_t* tokens, int32_t T, int32_t D,
    int32_t V, int32_t ttype, int32_t dtype) {
  if (check_embed(dev, y, table, tokens, T, D, V, ttype, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_embed")) return -1;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    switch (ttype) {
      case KOALA_F32: lookup<E, float>(dev, y, table, tokens, T, D, V); break;
      case KOALA_BF16: lookup<E, bf16>(dev, y, table, tokens, T, D, V); break;
      case KOALA_F16: lookup<E, f16>(dev, y, table, tokens, T, D, V); break;
      default: lookup<E, double>(dev, y, table, tokens, T, D, V);
    }
    return finish(dev);
  });
}

int32_t koala_gather_rows(koala_device* dev, void* y, const void* x, const int32_t* rows, int32_t R, int32_t D,
    int32_t dtype) {
  if (check_gather_rows(dev, y, x, rows, R, D, dtype)) return -1;
  if (R == 0) return 0;
  if (begin(dev, "koala_gather_rows")) return -1;
  const size_t bytes = (size_t)D * type_bytes(dtype);
  if (bytes % 16 == 0 && is_aligned(x) && is_aligned(y)) gather<uint4>(dev, y, x, rows, R, bytes);
  else if (dtype == KOALA_BF16) gather<uint16_t>(dev, y, x, rows, R, bytes);
  else gather<uint32_t>(dev, y, x, rows, R, bytes);
  return finish(dev);
}

int32_t koala_sum_rows(koala_device* dev, double* y, const void* x, const int32_t* starts, int32_t S, int32_t D,
    int32_t dtype) {
  if (check_sum_rows(dev, y, x, starts, S, D, dtype)) return -1;
  if (S == 0) return 0;
  if (begin(dev, "koala_sum_rows")) return -1;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_sum_rows<E>), dim3(S, blocks_of(D, THREADS)), THREADS, 0, dev->stream, y, (const E*)x, starts, D);
    return finish(dev);
  });
}
