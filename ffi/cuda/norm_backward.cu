// Gradients of the RMS norm of rows, and of the query and key heads inside qkv.
//
// With r = 1/sqrt(mean x^2 + eps): dx = r * (dy*w - x * r^2 * mean(dy*w*x)), dw = sum over rows of dy * x * r.
// A block takes 16 rows one after another and keeps its part of dw in shared memory, where a thread owns the columns that
// it reads; the parts are then added in ascending order. Heads are short: there, a warp takes a head at a time.
// Shared memory besides the budget's: 4 D bytes of k_rms_norm_backward, 64 E of k_qk_norm_backward (8 D, 128 E for float64).
// budget k_rms_norm_backward: registers 104, shared 64
// budget k_qk_norm_backward: registers 48, shared 0
// budget k_add_parts: registers 32, shared 2048
#include "column_sums.cuh"
#include "flat.cuh"

namespace {

constexpr int ROWS = 16;  // of one part
constexpr int WARPS = 8, THREADS = 32 * WARPS;

template <class C> DEVICE C reciprocal_root(C x) { return 1 / square_root(x); }

template <class T>
KERNEL(THREADS) k_rms_norm_backward(T* dx, compute_t<T>* parts, const T* dy, const T* x, const T* weight, int rows,
    int D, float eps, bool accumulate, bool wide) {
  typedef compute_t<T> C;
  DYNAMIC_SHARED(C, part);
  for (int d = threadIdx.x * 8; d < D; d += THREADS * 8)
    for (int i = d; i < d + 8 && i < D; i++) part[i] = 0;
  const int first = blockIdx.x * ROWS, end = first + ROWS < rows ? first + ROWS : rows;
  for (int t = first; t < end; t++) {
    const T *row = x + (int64_t)t * D, *gradient = dy + (int64_t)t * D;
    C squares = 0, products = 0;
    for (int d = threadIdx.x * 8; d < D; d += THREADS * 8) {
      C v[8], g[8], w[8];
      load_some<T>(v, row, d, D, wide);
      load_some<T>(g, gradient, d, D, wide);
      load_some<T>(w, weight, d, D, wide);
#pragma unroll
      for (int i = 0; i < 8; i++) squares += v[i] * v[i], products += g[i] * w[i] * v[i];
    }
    squares = block_sum<WARPS>(squares);
    products = block_sum<WARPS>(products);
    const C r = reciprocal_root<C>(squares / D + eps), slope = r * r * (products / D);
    T* to = dx + (int64_t)t * D;
    for (int d = threadIdx.x * 8; d < D; d += THREADS * 8) {
      C v[8], g[8], w[8], before[8];
      load_some<T>(v, row, d, D, wide);
      load_some<T>(g, gradient, d, D, wide);
      load_some<T>(w, weight, d, D, wide);
      if (accumulate) load_some<T>(before, to, d, D, wide);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        if (d + i < D) part[d + i] += g[i] * v[i] * r;
        w[i] = r * (g[i] * w[i] - v[i] * slope) + (accumulate ? before[i] : 0);
      }
      store_some(to, w, d, D, wide);
    }
  }
  for (int d = threadIdx.x * 8; d < D; d += THREADS * 8)
    for (int i = d; i < d + 8 && i < D; i++) parts[(int64_t)blockIdx.x * D + i] = part[i];
}

/** One head of E elements by one warp: dqkv in place, dw added to `part`. */
template <class T>
DEVICE void head_backward(T* gradient, compute_t<T>* part, const T* x, const T* weight, int E, float eps) {
  typedef compute_t<T> C;
  const int lane = threadIdx.x % 32;
  C squares = 0, products = 0;
  for (int e = lane; e < E; e += 32) {
    const C v = widen(x[e]);
    squares += v * v, products += widen(gradient[e]) * widen(weight[e]) * v;
  }
  squares = warp_sum(squares);
  products = warp_sum(products);
  const C r = reciprocal_root<C>(squares / E + eps), slope = r * r * (products / E);
  for (int e = lane; e < E; e += 32) {
    const C v = widen(x[e]), g = widen(gradient[e]);
    part[e] += g * v * r;
    gradient[e] = narrow<T>(r * (g * widen(weight[e]) - v * slope));
  }
}

template <class T>
KERNEL(THREADS) k_qk_norm_backward(T* dqkv, compute_t<T>* parts, const T* qkv, const T* q_weight, const T* k_weight,
    int rows, int H, int G, int E, float eps) {
  typedef compute_t<T> C;
  DYNAMIC_SHARED(C, sums);  // [WARPS, 2, E]: of the query weights, then of the key weights
  for (int i = threadIdx.x; i < WARPS * 2 * E; i += THREADS) sums[i] = 0;
  __syncthreads();
  const int warp = threadIdx.x / 32, heads = H + G;
  const int first = blockIdx.x * ROWS, count = rows - first < ROWS ? rows - first : ROWS;
  for (int i = warp; i < count * heads; i += WARPS) {
    const int h = i % heads;
    const int64_t at = (int64_t)(first + i / heads) * (heads + G) * E + (int64_t)h * E;
    head_backward(dqkv + at, sums + (2 * warp + (h >= H)) * E, qkv + at, h < H ? q_weight : k_weight, E, eps);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < 2 * E; e += THREADS) {
    C sum = 0;
    for (int w = 0; w < WARPS; w++) sum += sums[w * 2 * E + e];
    parts[(int64_t)blockIdx.x * 2 * E + e] = sum;
  }
}

template <class C> KERNEL(COLUMN_THREADS) k_add_parts(C* total, const C* parts, int64_t count, int64_t stride, int n) {
  sum_columns(total, parts, count, stride, n);
}

template <class C> void add_parts(koala_device* dev, void* total, const C* parts, int64_t count, int64_t stride, int n) {
  LAUNCH((k_add_parts<C>), blocks_of(n, 32), COLUMN_THREADS, 0, dev->stream, (C*)total, parts, count, stride, n);
}

}  // namespace

int32_t koala_rms_norm_backward(koala_device* dev, void* dx, void* dweight, const void* dy, const void* x,
    const void* weight, int32_t T, int32_t D, float eps, int32_t accumulate, int32_t dtype) {
  if (check_rms_norm_backward(dev, dx, dweight, dy, x, weight, T, D, dtype)) return -1;
  if (T == 0) return 0;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    const unsigned blocks = blocks_of(T, ROWS);
    const size_t shared = D * sizeof(C);
    if (begin(dev, "koala_rms_norm_backward", blocks * shared)) return -1;
    REQUIRE(shared + 1024 <= dev->shared_bytes,
        "koala_rms_norm_backward: rows of %d elements need %zu bytes of shared memory, and this GPU gives a block %zu.", D,
        shared + 1024, dev->shared_bytes);
    REQUIRE_CUDA("rms_norm_backward", cudaFuncSetAttribute(k_rms_norm_backward<E>,
        cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    const bool wide = all_aligned(dx, dy, x, weight) && D % 8 == 0;
    LAUNCH((k_rms_norm_backward<E>), blocks, THREADS, shared, dev->stream, (E*)dx, (C*)dev->scratch, (const E*)dy,
        (const E*)x, (const E*)weight, T, D, eps, accumulate != 0, wide);
    add_parts(dev, dweight, (const C*)dev->scratch, blocks, D, D);
    return finish(dev);
  });
}

int32_t koala_qk_norm_backward(koala_device* dev, void* dqkv, void* dq_weight, void* dk_weight, const void* qkv,
    const void* q_weight, const void* k_weight, int32_t T, int32_t H, int32_t G, int32_t E, float eps, int32_t dtype) {
    if (check_qk_norm_backward(dev, dqkv, dq_weight, dk_weight, qkv, q_weight, k_weight, T, H, G, E, dtype))
      return -1;
  if (T == 0) return 0;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    typedef compute_t<El> C;
    const unsigned blocks = blocks_of(T, ROWS);
    const size_t shared = (size_t)WARPS * 2 * E * sizeof(C);
    if (begin(dev, "koala_qk_norm_backward", blocks * 2 * E * sizeof(C))) return -1;
    REQUIRE(shared <= dev->shared_bytes,
        "koala_qk_norm_backward: heads of %d elements need %zu bytes of shared memory, and this GPU gives a block %zu.", E,
        shared, dev->shared_bytes);
    REQUIRE_CUDA("qk_norm_backward", cudaFuncSetAttribute(k_qk_norm_backward<El>,
        cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    C* parts = (C*)dev->scratch;  // for each block the sums of the query weights, then of the key weights
    LAUNCH((k_qk_norm_backward<El>), blocks, THREADS, shared, dev->stream, (El*)dqkv, parts, (const El*)qkv,
        (const El*)q_weight, (const El*)k_weight, T, H, G, E, eps);
    add_parts(dev, dq_weight, parts, blocks, 2 * E, E);
    add_parts(dev, dk_weight, parts + E, blocks, 2 * E, E);
    return finish(dev);
  });
}
