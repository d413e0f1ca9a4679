// The key/value cache, in the layout of cache.cuh: a slot number is a row number, except among pages of f8.
//
// Attention reads a head's keys of up to 32 tokens by 16-byte loads, E elements at a time. Memory behind a sequence's
// last token belongs to others or to none, and is never read.
//
// budget k_cache_write: registers 40, shared 0
// budget k_cache_write_f8: registers 40, shared 0
#include "cache.cuh"

#include "../cpu/cache_check.h"

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

/** f8: one warp a head of a token's keys or values, four elements a thread. */
template <class T>
KERNEL(CACHE_THREADS) k_cache_write_f8(f8* keys, f8* values, const T* qkv, const int32_t* slots, Faults* faults, int H,
    int G, int E, PageSize size, bool wide) {
  const int t = blockIdx.x, head = blockIdx.y * (CACHE_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (head >= 2 * G) return;
  if (!check_index(faults, FAULT_SLOT, t, slots[t], 0x7fffffff)) return;
  const int page = size.page_of(slots[t]), offset = slots[t] - page * size.P, g = head < G ? head : head - G;
  const T* from = qkv + ((size_t)t * (H + 2 * G) + H + head) * E;
  float top = 0, poison = 0;
  for (int e = lane; e < E; e += 32) {
    const float v = widen(from[e]);
    top = larger(fabsf(v), top);
    poison += v * 0.f;
  }
  top = warp_max(top), poison = warp_sum(poison);
  // A head with an element that is not finite gets no finite scale: who attends to it is told.
  const float scale = poison != 0 ? poison : top / E4M3_MAX == 0 ? 1.f : top / E4M3_MAX;
  f8* cache = head < G ? keys : values;
  if (lane == 0) *(float*)(cache + scale_at(page, offset, g, size.P, G, E)) = scale;
  f8* to = cache + head_at<f8>(page, offset, g, size.P, G, E);
  for (int e = lane * 4; e < E; e += 128) {
    uint32_t codes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) codes |= e + i < E ? e4m3_code(widen(from[e + i]) / scale) << 8 * i : 0;
    if (wide) *(uint32_t*)(to + e) = codes;
    else
      for (int i = 0; i < 4 && e + i < E; i++) to[e + i].bits = (uint8_t)(codes >> 8 * i);
  }
}

template <class T>
int32_t write_f8(koala_device* dev, f8* keys, f8* values, const T* qkv, const int32_t* slots, int T_, int H, int G,
    int E, int P) {
  if (begin(dev, "koala_cache_write")) return -1;
  const bool wide = E % 4 == 0 && is_aligned(keys) && is_aligned(values);
  LAUNCH((k_cache_write_f8<T>), dim3(T_, blocks_of(2 * G, CACHE_THREADS / 32)), dim3(CACHE_THREADS), 0, dev->stream,
      keys, values, qkv, slots, checked(dev, FAULT_SLOT, 0x7fffffff), H, G, E, PageSize(P), wide);
  return finish(dev);
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
  if (check_cache_page_bytes(dev, bytes, P, G, E, ctype)) return -1;
  *bytes = ctype == KOALA_F8 ? (double)page_stride<f8>(P, G, E) : (double)P * G * E * type_bytes(ctype);
  return 0;
}

int32_t koala_cache_write(koala_device* dev, void* keys, void* values, const void* qkv, const int32_t* slots,
    int32_t T, int32_t H, int32_t G, int32_t E, int32_t P, int32_t ctype, int32_t dtype) {
  if (check_cache_write(dev, keys, values, qkv, slots, T, H, G, E, P, ctype, dtype)) return -1;
  REQUIRE(ctype != KOALA_F64 && dtype != KOALA_F64,
      "koala_cache_write: f64 is computed on the CPU only; a GPU takes f32 and bf16.");
  if (T == 0) return 0;
  auto with = [&](auto element, auto cached) {
    typedef decltype(element) A;
    typedef decltype(cached) B;
    return write<A, B>(dev, (B*)keys, (B*)values, (const A*)qkv, slots, T, H, G, E);
  };
  if (ctype == KOALA_F8)
    return dtype == KOALA_F32 ? write_f8(dev, (f8*)keys, (f8*)values, (const float*)qkv, slots, T, H, G, E, P)
                              : write_f8(dev, (f8*)keys, (f8*)values, (const bf16*)qkv, slots, T, H, G, E, P);
  if (dtype == KOALA_F32) return ctype == KOALA_F32 ? with(float{}, float{}) : with(float{}, bf16{});
  return ctype == KOALA_F32 ? with(bf16{}, float{}) : with(bf16{}, bf16{});
}
