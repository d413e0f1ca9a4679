// Arrays filled with random numbers: fresh weights. The draws are those of src/util/rng.ts and ffi/cpu/fill.cc; their
// cosines may differ from the CPU's in the last bit of double, which float32 rarely shows.
//
// A thread makes a pair of numbers.
// budget k_fill_normal: registers 40, shared 0
#include "kernels.cuh"

namespace {

constexpr int THREADS = 256;
constexpr uint32_t STREAM = 0x6b6f616c;  // second word of the key

/** Uniform in [0, 1) with 53 bits: ten rounds of Philox4x32 (Salmon et al., SC 2011) on the counter (index, 0, 0, 0). */
DEVICE double uniform(uint32_t seed, uint32_t index) {
  uint32_t a = index, b = 0, c = 0, d = 0, k0 = seed, k1 = STREAM;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint64_t p = 0xd2511f53ull * a, q = 0xcd9e8d57ull * c;
    a = (uint32_t)(q >> 32) ^ b ^ k0, b = (uint32_t)q;
    c = (uint32_t)(p >> 32) ^ d ^ k1, d = (uint32_t)p;
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  return ((a >> 5) * 67108864. + (b >> 6)) / 9007199254740992.;
}

KERNEL(THREADS) k_fill_normal(float* y, int64_t n, uint32_t first, uint32_t seed, double std) {
  const int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 2;
  if (at >= n) return;
  const double radius = std * sqrt(-2 * log(1 - uniform(seed, first + (uint32_t)at)));
  // cospi needs no reduction of its argument by pi, for which cos keeps a table in local memory.
  const double turn = 2 * uniform(seed, first + (uint32_t)at + 1);
  y[at] = (float)(radius * cospi(turn));
  if (at + 1 < n) y[at + 1] = (float)(radius * sinpi(turn));
}

}  // namespace

int32_t koala_fill_normal(koala_device* dev, float* y, double n, double offset, double seed, double std) {
  if (check_fill_normal(dev, y, n, offset, seed, std)) return -1;
  if (n == 0) return 0;
  if (begin(dev, "koala_fill_normal")) return -1;
  LAUNCH(k_fill_normal, blocks_of(n, 2 * THREADS), THREADS, 0, dev->stream, y, (int64_t)n, (uint32_t)offset,
      (uint32_t)seed, std);
  return finish(dev);
}
