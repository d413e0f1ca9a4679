// RMS norm of rows, and of the query and key heads inside qkv. Rows are read twice, the second time from a cache.
//
// A row's squares are summed thread by thread over groups of eight elements (group g belongs to thread g modulo the block)
// and then as kernels.cuh says: the order depends on the row's length alone.
// budget k_rms_norm: registers 48, shared 64
// budget k_add_rms_norm: registers 48, shared 64
// budget k_qk_norm: registers 48, shared 0
#include "kernels.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * 32;
constexpr int EACH = 8;
constexpr int HEAD_WARPS = 4;  // heads that a block of k_qk_norm takes

/** Sum of the squares that thread `thread` of `threads` owns. */
template <class E> DEVICE compute_t<E> own_squares(const E* x, int n, int thread, int threads, bool wide) {
  compute_t<E> v[EACH], sum = 0;
  for (int i = thread * EACH; i < n; i += threads * EACH) {
    load_some(v, x, i, n, wide);
#pragma unroll
    for (int j = 0; j < EACH; j++) sum += v[j] * v[j];
  }
  return sum;
}

/** y = x * scale * weight over the elements that the thread owns. */
template <class E>
DEVICE void scale_row(E* y, const E* x, const E* weight, compute_t<E> scale, int n, int thread, int threads, bool wide) {
  compute_t<E> v[EACH], w[EACH];
  for (int i = thread * EACH; i < n; i += threads * EACH) {
    load_some(v, x, i, n, wide);
    load_some(w, weight, i, n, wide);
#pragma unroll
    for (int j = 0; j < EACH; j++) v[j] = v[j] * scale * w[j];
    store_some(y, v, i, n, wide);
  }
}

/** A block a row. */
template <class E> KERNEL(THREADS) k_rms_norm(E* y, const E* x, const E* weight, int D, float eps, bool wide) {
  typedef compute_t<E> C;
  const E* row = x + (int64_t)blockIdx.x * D;
  const C squares = block_sum<WARPS>(own_squares(row, D, threadIdx.x, THREADS, wide));
  const C scale = C(1) / square_root(squares / D + eps);
  scale_row(y + (int64_t)blockIdx.x * D, row, weight, scale, D, threadIdx.x, THREADS, wide);
}

/** The same after x += delta. Each thread reads back what it wrote itself. */
template <class E>
KERNEL(THREADS) k_add_rms_norm(E* y, E* x, const E* delta, const E* weight, int D, float eps, bool wide) {
  typedef compute_t<E> C;
  E* row = x + (int64_t)blockIdx.x * D;
  const E* more = delta + (int64_t)blockIdx.x * D;
  C v[EACH], w[EACH];
  for (int i = threadIdx.x * EACH; i < D; i += THREADS * EACH) {
    load_some(v, row, i, D, wide);
    load_some(w, more, i, D, wide);
#pragma unroll
    for (int j = 0; j < EACH; j++) v[j] += w[j];
    store_some(row, v, i, D, wide);
  }
  const C squares = block_sum<WARPS>(own_squares(row, D, threadIdx.x, THREADS, wide));
  const C scale = C(1) / square_root(squares / D + eps);
  scale_row(y + (int64_t)blockIdx.x * D, (const E*)row, weight, scale, D, threadIdx.x, THREADS, wide);
}

/** A warp a head; the grid is (rows, query and key heads / HEAD_WARPS). */
template <class E>
KERNEL(HEAD_WARPS * 32) k_qk_norm(E* qkv, const E* q_weight, const E* k_weight, int H, int G, int size, float eps,
    bool wide) {
  typedef compute_t<E> C;
  const int h = blockIdx.y * HEAD_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (h >= H + G) return;
  E* head = qkv + ((int64_t)blockIdx.x * (H + 2 * G) + h) * size;
  const C squares = warp_sum(own_squares(head, size, lane, 32, wide));
  const C scale = C(1) / square_root(squares / size + eps);
  scale_row(head, head, h < H ? q_weight : k_weight, scale, size, lane, 32, wide);
}

}  // namespace

int32_t koala_rms_norm(koala_device* dev, void* y, const void* x, const void* weight, int32_t T, int32_t D, float eps,
    int32_t dtype) {
  if (check_rms_norm(dev, y, x, weight, T, D, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_rms_norm")) return -1;
  const bool wide = is_aligned(y) && is_aligned(x) && is_aligned(weight) && D % EACH == 0;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_rms_norm<E>), T, THREADS, 0, dev->stream, (E*)y, (const E*)x, (const E*)weight, D, eps, wide);
    return finish(dev);
  });
}

int32_t koala_add_rms_norm(koala_device* dev, void* y, void* x, const void* delta, const void* weight, int32_t T,
    int32_t D, float eps, int32_t dtype) {
  if (check_add_rms_norm(dev, y, x, delta, weight, T, D, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_add_rms_norm")) return -1;
  const bool wide = is_aligned(y) && is_aligned(x) && is_aligned(delta) && is_aligned(weight) && D % EACH == 0;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_add_rms_norm<E>), T, THREADS, 0, dev->stream, (E*)y, (E*)x, (const E*)delta, (const E*)weight, D, eps, wide);
    return finish(dev);
  });
}

int32_t koala_qk_norm(koala_device* dev, void* qkv, const void* q_weight, const void* k_weight, int32_t T, int32_t H,
    int32_t G, int32_t E, float eps, int32_t dtype) {
  if (check_qk_norm(dev, qkv, q_weight, k_weight, T, H, G, E, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_qk_norm")) return -1;
  const bool wide = is_aligned(qkv) && is_aligned(q_weight) && is_aligned(k_weight) && E % EACH == 0;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    LAUNCH((k_qk_norm<El>), dim3(T, blocks_of(H + G, HEAD_WARPS)), HEAD_WARPS * 32, 0, dev->stream, (El*)qkv,
        (const El*)q_weight, (const El*)k_weight, H, G, E, eps, wide);
    return finish(dev);
  });
}
