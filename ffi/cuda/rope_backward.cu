// Gradient of the rotary position embedding: every query and key head turns back by its position's angles.
//
// A block takes a row; a thread turns pairs (i, i + E/2) of its heads: (a, b) becomes (a*c + b*s, b*c - a*s).
// budget k_rope_backward: registers 32, shared 0
#include "kernels.cuh"

namespace {

constexpr int THREADS = 256;

template <class T>
KERNEL(THREADS)
k_rope_backward(T* dqkv, const float* table, const int32_t* positions, Faults* faults, int heads, int width, int E) {
  const int64_t t = blockIdx.x;
  const int half = E / 2, position = positions[t];
  if (!check_index(faults, FAULT_POSITION, (int)t, position, INT32_MAX)) return;
  const float* angles = table + (int64_t)position * E;
  for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
    const int pair = i % half;
    T* head = dqkv + t * width + (int64_t)(i / half) * E;
    const compute_t<T> a = widen(head[pair]), b = widen(head[half + pair]);
    const compute_t<T> c = angles[2 * pair], s = angles[2 * pair + 1];
    head[pair] = narrow<T>(a * c + b * s);
    head[half + pair] = narrow<T>(b * c - a * s);
  }
}

}  // namespace

int32_t koala_rope_backward(koala_device* dev, void* dqkv, const float* table, const int32_t* positions, int32_t T,
    int32_t H, int32_t G, int32_t E, int32_t dtype) {
  REQUIRE_POINTER("rope_backward", dev);
  REQUIRE_POINTER("rope_backward", dqkv);
  REQUIRE_POINTER("rope_backward", table);
  REQUIRE_POINTER("rope_backward", positions);
  REQUIRE_SIZE("rope_backward", T);
  REQUIRE_POSITIVE("rope_backward", H);
  REQUIRE_POSITIVE("rope_backward", G);
  REQUIRE_POSITIVE("rope_backward", E);
  REQUIRE(E % 2 == 0, "koala_rope_backward: the head dimension is %d and must be even.", E);
  REQUIRE_TYPE("rope_backward", dtype);
  if (T == 0) return 0;
  if (begin(dev, "koala_rope_backward")) return -1;
  Faults* faults = checked(dev, FAULT_POSITION, INT32_MAX);
  with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    LAUNCH((k_rope_backward<El>), T, THREADS, 0, dev->stream, (El*)dqkv, table, positions, faults, H + G,
        (H + 2 * G) * E, E);
    return 0;
  });
  return finish(dev);
}
