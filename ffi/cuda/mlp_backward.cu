// Gradient of silu(gate) * up: with s = 1 / (1 + exp(-gate)),
//   dup = dy * gate * s and dgate = dy * up * s * (1 + gate * (1 - s)).
//
// A thread takes eight columns of a row.
// budget k_silu_mul_backward: registers 72, shared 0
#include "flat.cuh"

namespace {

constexpr int THREADS = 256;

template <class T>
KERNEL(THREADS) k_silu_mul_backward(T* dgate_up, const T* dy, const T* gate_up, int64_t groups, int F, bool wide) {
  const int64_t group = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (group >= groups) return;
  const int per_row = (F + 7) / 8, f = (int)(group % per_row) * 8;
  const int64_t t = group / per_row;
  const T *gate = gate_up + t * 2 * F, *up = gate + F;
  compute_t<T> a[8], u[8], d[8];
  load_some<T>(a, gate, f, F, wide);
  load_some<T>(u, up, f, F, wide);
  load_some<T>(d, dy + t * F, f, F, wide);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const compute_t<T> s = 1 / (1 + exponential(-a[i])), du = d[i] * a[i] * s;
    a[i] = d[i] * u[i] * s * (a[i] * (1 - s) + 1);
    u[i] = du;
  }
  T *dgate = dgate_up + t * 2 * F, *dup = dgate + F;
  store_some(dgate, a, f, F, wide);
  store_some(dup, u, f, F, wide);
}

}  // namespace

int32_t koala_silu_mul_backward(koala_device* dev, void* dgate_up, const void* dy, const void* gate_up, int32_t T,
    int32_t F, int32_t dtype) {
  if (check_silu_mul_backward(dev, dgate_up, dy, gate_up, T, F, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_silu_mul_backward")) return -1;
  const bool wide = all_aligned(dgate_up, dy, gate_up) && F % 8 == 0;
  const int64_t groups = (int64_t)T * ((F + 7) / 8);
  with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_silu_mul_backward<E>), blocks_of(groups, THREADS), THREADS, 0, dev->stream, (E*)dgate_up, (const E*)dy,
        (const E*)gate_up, groups, F, wide);
    return 0;
  });
  return finish(dev);
}
