// The gate of the feed-forward block: silu(gate) * up. A thread takes eight elements.
//
// budget k_silu_mul: registers 60, shared 0
#include "kernels.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int EACH = 8;

/** The grid is (rows, pieces of a row). */
template <class E> KERNEL(THREADS) k_silu_mul(E* y, const E* gate_up, int F, bool wide) {
  typedef compute_t<E> C;
  const int f = (blockIdx.y * THREADS + threadIdx.x) * EACH;
  if (f >= F) return;
  const E* gate = gate_up + (int64_t)blockIdx.x * 2 * F;
  C a[EACH], up[EACH];
  load_some(a, gate, f, F, wide);
  load_some(up, gate + F, f, F, wide);
#pragma unroll
  for (int j = 0; j < EACH; j++) a[j] = a[j] / (exponential(-a[j]) + C(1)) * up[j];
  store_some(y + (int64_t)blockIdx.x * F, a, f, F, wide);
}

}  // namespace

int32_t koala_silu_mul(koala_device* dev, void* y, const void* gate_up, int32_t T, int32_t F, int32_t dtype) {
  if (check_silu_mul(dev, y, gate_up, T, F, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_silu_mul")) return -1;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    const bool wide = is_aligned(y) && is_aligned(gate_up) && F % EACH == 0;
    LAUNCH((k_silu_mul<E>), dim3(T, blocks_of(F, THREADS * EACH)), THREADS, 0, dev->stream, (E*)y, (const E*)gate_up, F,
        wide);
    return finish(dev);
  });
}
