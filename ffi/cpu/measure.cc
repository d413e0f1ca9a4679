// Peaks of this machine, to judge kernels by: read bandwidth, float32 and bf16 products a second.
#include <time.h>

#include "device.h"
#include "simd.h"

namespace KOALA_NS {

namespace {

double seconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

/** Best of a few runs of f on all threads, in calls a second; each run hands out `pieces` calls f(piece). */
template <class F> double best_rate(koala_device* dev, int runs, int pieces, F&& f) {
  double best = 0;
  for (int run = 0; run < runs; run++) {
    const double start = seconds();
    parallel_for(&dev->pool, true, pieces, 1, [&](int64_t begin, int64_t, int) { f(begin); });
    const double rate = pieces / (seconds() - start);
    best = rate > best ? rate : best;
  }
  return best;
}

/** Reads a buffer far larger than any cache, four streams at once. */
float read_all(const float* data, size_t n) {
  vf sum[4] = {};
  for (size_t i = 0; i < n; i += 4 * W)
    for (int s = 0; s < 4; s++) sum[s] += load(data + i + s * W);
  return sum_lanes<float>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

constexpr int CHAINS = W == 4 ? 8 : 12;  // enough independent sums to hide the latency of one
constexpr int STEPS = 200000;

/** Hides a value from the optimiser, which would see that all chains are equal. */
inline void hide(vf& v) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(v));
#else
  asm volatile("" : "+w"(v));
#endif
}

template <class Step> float run_chains(Step&& step) {
  vf sums[CHAINS] = {};
  for (int c = 0; c < CHAINS; c++) hide(sums[c]);
  for (int i = 0; i < STEPS; i++) {
#pragma GCC unroll 12
    for (int c = 0; c < CHAINS; c++) sums[c] = step(sums[c]);
  }
  vf total = {};
  for (int c = 0; c < CHAINS; c++) total += sums[c];
  return sum_lanes<float>(total);
}

volatile float sink;

}  // namespace

int32_t device_measure(koala_device* dev, double* peaks) {
  const size_t piece = 4 << 20;
  const int pieces = 64, calls = 8 * dev->pool.threads;
  char* data = (char*)pages_alloc(piece * pieces);
  if (!data) return fail("koala_device_measure: no memory for a buffer of %zu MiB.", piece * pieces >> 20);
  best_rate(dev, 1, pieces, [&](int64_t i) { memset(data + i * piece, 1, piece); });
  peaks[0] = best_rate(dev, 12, pieces, [&](int64_t i) { sink = read_all((const float*)(data + i * piece),
      piece / 4); }) * piece * 1e-9;
  pages_free(data, piece * pieces);

  const vf a = splat(sink * 0 + 0.5f), b = splat(sink * 0 + 0.25f);
  peaks[1] = best_rate(dev, 6, calls, [&](int64_t) { sink = run_chains([&](vf sum) { return fma(a, b,
      sum); }); }) * STEPS * CHAINS * W * 2 * 1e-9;
#if KOALA_LEVEL >= 3
  const __m512bh c = (__m512bh)a, d = (__m512bh)b;
  peaks[2] = best_rate(dev, 6, calls,
      [&](int64_t) { sink = run_chains([&](vf sum) { return (vf)_mm512_dpbf16_ps((__m512)sum, c,
      d); }); }) * STEPS * CHAINS * W * 4 * 1e-9;
#else
  peaks[2] = peaks[1];  // without bf16 instructions, products run in float32
#endif
  return 0;
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_device_measure(koala_device* dev, double* peaks) {
  REQUIRE_POINTER("device_measure", dev);
  REQUIRE_POINTER("device_measure", peaks);
  return dev->kernels->device_measure(dev, peaks);
}
#endif
