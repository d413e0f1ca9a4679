// Arrays filled with random numbers: fresh weights. The numbers are those of src/util/rng.ts, draw by draw.
#include "flat.h"

namespace KOALA_NS {

namespace {

constexpr int64_t PIECE = 16384;
constexpr int BATCH = 128;  // draws made side by side, lane by lane
constexpr uint32_t STREAM = 0x6b6f616c;  // second word of the key

/** Uniform in [0, 1) with 53 bits: ten rounds of Philox4x32 (Salmon et al., SC 2011) on the counter (index, 0, 0, 0). */
inline double uniform(uint32_t seed, uint32_t index) {
  uint32_t a = index, b = 0, c = 0, d = 0, k0 = seed, k1 = STREAM;
#pragma GCC unroll 10
  for (int round = 0; round < 10; round++) {
    const uint64_t p = 0xd2511f53ull * a, q = 0xcd9e8d57ull * c;
    a = (uint32_t)(q >> 32) ^ b ^ k0, b = (uint32_t)q;
    c = (uint32_t)(p >> 32) ^ d ^ k1, d = (uint32_t)p;
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  return ((a >> 5) * 67108864. + (b >> 6)) / 9007199254740992.;
}

}  // namespace

int32_t fill_normal(koala_device* dev, float* y, double n, double offset, double seed, double std) {
  const uint32_t key = (uint32_t)seed, first = (uint32_t)offset;
  parallel_for(&dev->pool, n > 2 * PIECE, (int64_t)n, PIECE, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; at += BATCH) {
      double u[BATCH];
      for (int i = 0; i < BATCH; i++) u[i] = uniform(key, first + (uint32_t)at + (uint32_t)i);
      for (int i = 0; i < BATCH && at + i < end; i += 2) {
        const double radius = std * __builtin_sqrt(-2 * __builtin_log(1 - u[i]));
        const double angle = 2 * 3.141592653589793 * u[i + 1];
        y[at + i] = (float)(radius * __builtin_cos(angle));
        if (at + i + 1 < end) y[at + i + 1] = (float)(radius * __builtin_sin(angle));
      }
    }
  });
  return 0;
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_fill_normal(koala_device* dev, float* y, double n, double offset, double seed, double std) {
  if (check_fill_normal(dev, y, n, offset, seed, std)) return -1;
  return dev->kernels->fill_normal(dev, y, n, offset, seed, std);
}
#endif
