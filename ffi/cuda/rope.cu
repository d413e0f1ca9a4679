// Rotary position embedding of the query and key heads, half-split: element i turns with element i + E/2.
//
// A thread turns one pair; its angle comes from a table, since sine and cosine of large angles spill registers.
// budget k_rope: registers 32, shared 0
#include "kernels.cuh"

namespace {

constexpr int THREADS = 256;

/** The grid is (rows, pieces of the pairs of a row). */
template <class El>
KERNEL(THREADS) k_rope(El* qkv, const float* table, const int32_t* positions, int heads, int width, int half,
    Faults* faults) {
  typedef compute_t<El> C;
  const int t = blockIdx.x, pair = blockIdx.y * THREADS + threadIdx.x, position = positions[t];
  if (pair >= heads * half || !check_index(faults, FAULT_POSITION, t, position, 0x7fffffff)) return;
  const int head = pair / half, i = pair - head * half;
  El* at = qkv + (int64_t)t * width + head * 2 * half + i;
  const float* angle = table + ((int64_t)position * half + i) * 2;
  const C c = angle[0], s = angle[1], a = widen(at[0]), b = widen(at[half]);
  at[0] = narrow<El>(a * c - b * s);
  at[half] = narrow<El>(b * c + a * s);
}

}  // namespace

int32_t koala_rope(koala_device* dev, void* qkv, const float* table, const int32_t* positions, int32_t T, int32_t H,
    int32_t G, int32_t E, int32_t dtype) {
  REQUIRE_POINTER("rope", dev);
  REQUIRE_POINTER("rope", qkv);
  REQUIRE_POINTER("rope", table);
  REQUIRE_POINTER("rope", positions);
  REQUIRE_SIZE("rope", T);
  REQUIRE_POSITIVE("rope", H);
  REQUIRE_POSITIVE("rope", G);
  REQUIRE_POSITIVE("rope", E);
  REQUIRE(E % 2 == 0, "koala_rope: the head dimension is %d and must be even.", E);
  REQUIRE_TYPE("rope", dtype);
  if (T == 0) return 0;
  if (begin(dev, "koala_rope")) return -1;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    const int half = E / 2;
    LAUNCH((k_rope<El>), dim3(T, blocks_of((H + G) * half, THREADS)), THREADS, 0, dev->stream, (El*)qkv, table, positions,
        H + G, (H + 2 * G) * E, half, checked(dev, FAULT_POSITION, 0x7fffffff));
    return finish(dev);
  });
}
