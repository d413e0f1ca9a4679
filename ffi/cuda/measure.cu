// Peaks of this GPU, to judge kernels by: read bandwidth, float32 products, and bf16 products as koala_matmul makes them.
//
// budget k_read: registers 40, shared 32
// budget k_products: registers 40, shared 0
// budget k_noise: registers 32, shared 0
#include <time.h>

#include "kernels.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int CHAINS = 8;  // independent sums of a thread: enough to hide the latency of one
#if defined(KOALA_EMULATOR)
constexpr size_t READ_BYTES = 1 << 20;
constexpr int BLOCKS = 4, STEPS = 16, SIDE = 64, RUNS = 1;
#else
constexpr size_t READ_BYTES = (size_t)4 << 30;  // far more than any cache
constexpr int BLOCKS = 4096, STEPS = 4096, SIDE = 8192, RUNS = 5;
#endif

double seconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

/** Adds up the buffer; the sums keep the compiler from leaving the reads out. */
KERNEL(THREADS) k_read(float* sums, const char* data, int64_t chunks) {
  float sum = 0;
  const int64_t stride = (int64_t)gridDim.x * THREADS;
#pragma unroll 4
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < chunks; i += stride) {
    const uint4 u = load_16(data + i * 16);
    sum += bits_to_float(u.x) + bits_to_float(u.y) + bits_to_float(u.z) + bits_to_float(u.w);
  }
  sum = block_sum<THREADS / 32>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

KERNEL(THREADS) k_products(float* sums, float a, float b) {
  float chains[CHAINS];
#pragma unroll
  for (int c = 0; c < CHAINS; c++) chains[c] = (float)(threadIdx.x + c);
  for (int i = 0; i < STEPS; i++)
#pragma unroll
    for (int c = 0; c < CHAINS; c++) chains[c] = chains[c] * a + b;
  float sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; c++) sum += chains[c];
  sums[blockIdx.x * THREADS + threadIdx.x] = sum;
}

/** Pseudo-random numbers of (-1, 1): zeros would be multiplied at a higher clock. */
KERNEL(THREADS) k_noise(uint16_t* to, int64_t n) {
  const int64_t stride = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += stride) {
    const uint32_t bits = (uint32_t)(i * 2654435761u) ^ (uint32_t)(i >> 7) * 0x9e3779b9u;
    to[i] = (uint16_t)((bits & 0x8000) | 0x3f00 | (bits >> 16 & 0x7f));
  }
}

/** Seconds of the fastest of a few runs of f; negative after an error. */
template <class F> double fastest(koala_device* dev, F&& f) {
  double best = 1e30;
  for (int run = 0; run <= RUNS; run++) {  // the first one warms up
    const double start = seconds();
    if (f() || wait_for(dev)) return -1;
    const double took = seconds() - start;
    if (run > 0 && took < best) best = took;
  }
  return best;
}

/** Seconds of a bf16 product of SIDE^3. */
double product_seconds(koala_device* dev, char* data) {
  const size_t matrix = (size_t)SIDE * SIDE * 2;
  LAUNCH(k_noise, BLOCKS, THREADS, 0, dev->stream, (uint16_t*)data, (int64_t)SIDE * SIDE * 2);
  return fastest(dev, [&] {
    return koala_matmul(dev, data + 2 * matrix, data, data + matrix, nullptr, SIDE, SIDE, SIDE, 0, KOALA_BF16, KOALA_BF16);
  });
}

/** Writes the peaks, with `data` of READ_BYTES bytes to work on. */
int32_t measure(koala_device* dev, double* peaks, char* data) {
  if (begin(dev, "koala_device_measure", (size_t)BLOCKS * THREADS * sizeof(float))) return -1;
  float* sums = (float*)dev->scratch;
  REQUIRE_CUDA("device_measure", cudaMemsetAsync(data, 0, READ_BYTES, dev->stream));
  const double read = fastest(dev, [&] {
    LAUNCH(k_read, BLOCKS, THREADS, 0, dev->stream, sums, data, (int64_t)(READ_BYTES / 16));
    return finish(dev);
  });
  const double products = fastest(dev, [&] {
    LAUNCH(k_products, BLOCKS, THREADS, 0, dev->stream, sums, 0.5f, 0.25f);
    return finish(dev);
  });
  const double matrix = product_seconds(dev, data);
  if (read < 0 || products < 0 || matrix < 0) return -1;
  peaks[0] = READ_BYTES / read * 1e-9;
  peaks[1] = (double)BLOCKS * THREADS * STEPS * CHAINS * 2 / products * 1e-9;
  peaks[2] = 2. * SIDE * SIDE * SIDE / matrix * 1e-9;
  return 0;
}

}  // namespace

int32_t koala_device_measure(koala_device* dev, double* peaks) {
  REQUIRE_POINTER("device_measure", dev);
  REQUIRE_POINTER("device_measure", peaks);
  if (begin(dev, "koala_device_measure")) return -1;
  void* data = nullptr;
  if (koala_memory_alloc(dev, &data, (double)READ_BYTES)) return -1;
  const int32_t status = measure(dev, peaks, (char*)data);
  koala_memory_free(dev, data, (double)READ_BYTES);
  return status;
}
