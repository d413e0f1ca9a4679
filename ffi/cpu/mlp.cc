// The gate of the feed-forward block: silu(gate) * up.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

int32_t silu_mul(koala_device* dev, void* y, const void* gate_up, int32_t T, int32_t F, int32_t dtype) {
  // Pieces of a row, so that a single row is shared by the threads too.
  const int piece = 2048, pieces = (F + piece - 1) / piece;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    const int64_t count = (int64_t)T * pieces;
    parallel_for(&dev->pool, (int64_t)T * F > 8192, count, 1 + count / (dev->pool.threads * 4), [&](int64_t begin,
        int64_t end, int) {
      for (int64_t p = begin; p < end; p++) {
        const int64_t t = p / pieces;
        const int from = (int)(p % pieces) * piece, to = from + piece < F ? from + piece : F;
        const E *gate = (const E*)gate_up + t * 2 * F, *up = gate + F;
        E* out = (E*)y + t * F;
        for (int f = from; f < to; f += W) {
          const auto a = load_row(gate, f, F);
          store_row(out, f, F, a / (exp(-a) + 1) * load_row(up, f, F));
        }
      }
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_silu_mul(koala_device* dev, void* y, const void* gate_up, int32_t T, int32_t F, int32_t dtype) {
  if (check_silu_mul(dev, y, gate_up, T, F, dtype)) return -1;
  return dev->kernels->silu_mul(dev, y, gate_up, T, F, dtype);
}
#endif
