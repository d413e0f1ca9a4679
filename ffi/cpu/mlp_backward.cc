// Gradient of silu(gate) * up: with s = 1 / (1 + exp(-gate)),
//   dup = dy * gate * s and dgate = dy * up * s * (1 + gate * (1 - s)).
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

int32_t silu_mul_backward(koala_device* dev, void* dgate_up, const void* dy, const void* gate_up, int32_t T, int32_t F,
    int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    parallel_for(&dev->pool, (int64_t)T * F > 8192, T, 1 + T / (dev->pool.threads * 4), [&](int64_t begin, int64_t end,
        int) {
      for (int64_t t = begin; t < end; t++) {
        const E *gate = (const E*)gate_up + t * 2 * F, *up = gate + F, *d = (const E*)dy + t * F;
        E *dgate = (E*)dgate_up + t * 2 * F, *dup = dgate + F;
        for (int f = 0; f < F; f += W) {
          const auto a = load_row(gate, f, F), u = load_row(up, f, F), g = load_row(d, f, F);
          const auto s = 1 / (exp(-a) + 1);
          store_row(dgate, f, F, g * u * s * (a * (1 - s) + 1));
          store_row(dup, f, F, g * a * s);
        }
      }
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_silu_mul_backward(koala_device* dev, void* dgate_up, const void* dy, const void* gate_up, int32_t T,
    int32_t F, int32_t dtype) {
  if (check_silu_mul_backward(dev, dgate_up, dy, gate_up, T, F, dtype)) return -1;
  return dev->kernels->silu_mul_backward(dev, dgate_up, dy, gate_up, T, F, dtype);
}
#endif
