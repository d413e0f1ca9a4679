// The key/value cache: pages [token][G][E], keys and values apart, so that a slot number is a row number.
//
// Attention reads a head's keys of up to 32 tokens by 16-byte loads, E elements at a time. Memory behind a sequence's
// last token belongs to others or to none, and is never read.
//
// budget k_cache_write: registers 40, shared 0
#include "kernels.cuh"

namespace {

constexpr int CACHE_THREADS = 256;

/** One thread: eight elements of a token's keys and values, which lie side by side in qkv. */
template <class T, class B>
KERNEL(CACHE_THREADS) k_cache_write(B* keys, B* values, const T* qkv, const int32_t* slots, Faults* faults, int H,
    int width, bool wide) {
  const int t = blockIdx.x, i = (blockIdx.y * CACHE_THREADS + threadIdx.x) * 8;
  if (i >= 2 * width) return;
  if (!check_index(faults, FAULT_SLOT, t, slots[t], 0x7fffffff)) return;
  const size_t slot = slots[t];
  const T* from = qkv + (size_t)t * ((size_t)H + 2 * width) + H;
  if (wide) {
    float v[8];
    load_8(v, from + i);
    store_8((i < width ? keys + slot * width + i : values + slot * width + i - width), v);
    return;
  }
  for (int j = i; j < i + 8 && j < 2 * width; j++)
    (j < width ? keys[slot * width + j] : values[slot * width + j - width]) = narrow<B>(widen(from[j]));
}

template <class T, class B>
int32_t write(koala_device* dev, B* keys, B* values, const T* qkv, const int32_t* slots, int T_, int H, int G, int E) {
  if (begin(dev, "koala_cache_write")) return -1;
  const int width = G * E;
  const bool wide = width % 8 == 0 && H * E % 8 == 0 && is_aligned(keys) && is_aligned(values) && is_aligned(qkv);
  LAUNCH((k_cache_write<T, B>), dim3(T_, blocks_of((int64_t)2 * width, CACHE_THREADS * 8)), dim3(CACHE_THREADS), 0,
      dev->stream, keys, values, qkv, slots, checked(dev, FAULT_SLOT, 0x7fffffff), H * E, width, wide);
  return finish(dev);
}

}  // namespace

int32_t koala_cache_page_bytes(koala_device* dev, double* bytes, int32_t P, int32_t G, int32_t E, int32_t ctype) {
  REQUIRE_POINTER("cache_page_bytes", dev);
  REQUIRE_POINTER("cache_page_bytes", bytes);
  REQUIRE(P > 0 && P % 32 == 0, "koala_cache_page_bytes: a page has %d tokens; it must be a positive multiple of 32.",
      P);
  REQUIRE_POSITIVE("cache_page_bytes", G);
  REQUIRE_POSITIVE("cache_page_bytes", E);
  REQUIRE_TYPE("cache_page_bytes", ctype);
  *bytes = (double)P * G * E * type_bytes(ctype);
  return 0;
}

int32_t koala_cache_write(koala_device* dev, void* keys, void* values, const void* qkv, const int32_t* slots,
    int32_t T, int32_t H, int32_t G, int32_t E, int32_t P, int32_t ctype, int32_t dtype) {
  REQUIRE_POINTER("cache_write", dev);
  REQUIRE_POINTER("cache_write", keys);
  REQUIRE_POINTER("cache_write", values);
  REQUIRE_POINTER("cache_write", qkv);
  REQUIRE_POINTER("cache_write", slots);
  REQUIRE_SIZE("cache_write", T);
  REQUIRE_POSITIVE("cache_write", H);
  REQUIRE_POSITIVE("cache_write", G);
  REQUIRE_POSITIVE("cache_write", E);
  REQUIRE(P > 0 && P % 32 == 0, "koala_cache_write: a page has %d tokens; it must be a positive multiple of 32.", P);
  REQUIRE_TYPE("cache_write", ctype);
  REQUIRE_TYPE("cache_write", dtype);
  REQUIRE(ctype != KOALA_F64 && dtype != KOALA_F64,
      "koala_cache_write: f64 is computed on the CPU only; a GPU takes f32 and bf16.");
  if (T == 0) return 0;
  auto with = [&](auto element, auto cached) {
    typedef decltype(element) A;
    typedef decltype(cached) B;
    return write<A, B>(dev, (B*)keys, (B*)values, (const A*)qkv, slots, T, H, G, E);
  };
  if (dtype == KOALA_F32) return ctype == KOALA_F32 ? with(float{}, float{}) : with(float{}, bf16{});
  return ctype == KOALA_F32 ? with(bf16{}, float{}) : with(bf16{}, bf16{});
}
