// Writes new keys and values into their pages, in the layout of cache.h.
#include "cache.h"
#include "cache_check.h"

#include "device.h"

namespace KOALA_NS {

namespace {

/** W elements of x from `i` on (fewer at its end, n) in the cache's type. */
template <class B, class T> inline void convert(B* out, const T* x, int i, int n) {
  if constexpr (Same<compute_t<B>, compute_t<T>>::value) store(out, load_row(x, i, n));
  else
    for (int j = i; j < n && j < i + W; j++) out[j - i] = narrow<B>(widen(x[j]));
}

/** One lane of each row of a key panel; for bf16, a pair of dims is one word. */
template <class B, class T> inline void write_key(B* panel, const T* key, int E, int lane) {
  for (int e = 0; e < E; e += 2 * W) {
    const int n = E - e < 2 * W ? E - e : 2 * W;
    B row[2 * W] = {};
    for (int i = 0; i < n; i += W) convert(row + i, key, e + i, E);
    if constexpr (Same<B, bf16>::value)
      for (int i = 0; i < n; i += 2) memcpy(panel + (size_t)(e + i) * PANEL + lane * 2, row + i, 4);
    else
      for (int i = 0; i < n; i++) panel[(size_t)(e + i) * PANEL + lane] = row[i];
  }
}

/** One token's row of each value panel of a head; for bf16, its halves of the words that it shares with its partner. */
template <class B, class T> inline void write_value(B* head, const T* value, int E, int P, int offset) {
  for (int e = 0; e < E; e += W) {
    const int n = E - e < W ? E - e : W;
    B* panel = head + (size_t)(e / PANEL) * PANEL * P;
    B row[W] = {};
    convert(row, value, e, E);
    if constexpr (Same<B, bf16>::value) {
      bf16* words = panel + (size_t)(offset & ~1) * PANEL + (e % PANEL) * 2;
      const vu old = read_bits<vu>(words), bits = __builtin_convertvector(read_bits<vh>(row), vu);
      write_bits(words, offset & 1 ? (old & 0xffffu) | bits << 16 : (old & 0xffff0000u) | bits);
    } else {
      memcpy(panel + (size_t)offset * PANEL + e % PANEL, row, n * sizeof(B));
    }
  }
}

/** One token's head in f8: its lane of a key panel, or its row of the value panels; and its scale. */
template <class T> inline void write_f8(f8* at, float* scale, const T* head, int E, int P, int offset, bool is_value) {
  *scale = e4m3_scale(head, E);
  for (int e = 0; e < E; e += W) {
    const vu codes = e4m3_bits(load_row(head, e, E) / splat(*scale));
    for (int i = e; i < e + W && i < E; i++)
      at[is_value ? (size_t)(i / PANEL) * PANEL * P + (offset & ~1) * PANEL + i % PANEL * 2 + (offset & 1)
                  : (size_t)(i & ~1) * PANEL + offset % PANEL * 2 + (i & 1)] = {(uint8_t)codes[i - e]};
  }
}

template <class B, class T>
void write(koala_device* dev, B* keys, B* values, const T* qkv, const int32_t* slots, int n, int H,
    const CacheShape& c) {
  const size_t width = (size_t)(H + 2 * c.G) * c.E;
  // By head, not by token: two tokens of a bf16 pair share a word and must not be written by two threads.
  parallel_for(&dev->pool, (int64_t)n * c.G * c.E > 4096, 2 * c.G, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; item++) {
      const int g = (int)(item / 2);
      const T* source = qkv + (size_t)(H + (item & 1 ? c.G : 0) + g) * c.E;
      for (int t = 0; t < n; t++) {
        const size_t page = slots[t] / c.P;
        const int offset = slots[t] % c.P;
        if constexpr (Same<B, f8>::value) {
          f8* cache = item & 1 ? values : keys;
          write_f8(const_cast<f8*>(item & 1 ? value_panel(cache, c, page, g, 0, 0) : key_panel(cache, c, page, g, offset)),
              const_cast<float*>(page_scales(cache, c, page, g)) + offset, source + t * width, c.E, c.P, offset, item & 1);
        } else if (item & 1) write_value(const_cast<B*>(value_panel(values, c, page, g, 0, 0)), source + t * width, c.E, c.P,
            offset);
        else write_key(const_cast<B*>(key_panel(keys, c, page, g, offset)), source + t * width, c.E, offset % PANEL);
      }
    }
  });
}

}  // namespace

int32_t cache_write(koala_device* dev, void* keys, void* values, const void* qkv, const int32_t* slots, int32_t T,
    int32_t H, int32_t G, int32_t E, int32_t P, int32_t ctype, int32_t dtype) {
  const CacheShape shape = {P, G, E};
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    if constexpr (!Same<El, double>::value)
      if (ctype == KOALA_F8) {
        write(dev, (f8*)keys, (f8*)values, (const El*)qkv, slots, T, H, shape);
        return 0;
      }
    return with_type(ctype, [&](auto cached) -> int32_t {
      typedef decltype(cached) B;
      write(dev, (B*)keys, (B*)values, (const El*)qkv, slots, T, H, shape);
      return 0;
    });
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_cache_page_bytes(koala_device* dev, double* bytes, int32_t P, int32_t G, int32_t E, int32_t ctype) {
  if (check_cache_page_bytes(dev, bytes, P, G, E, ctype)) return -1;
  const KOALA_NS::CacheShape shape = {P, G, E};
  *bytes = ctype == KOALA_F8 ? (double)KOALA_NS::page_stride<KOALA_NS::f8>(shape)
                             : (double)shape.page_elements() * type_bytes(ctype);
  return 0;
}

int32_t koala_cache_write(koala_device* dev, void* keys, void* values, const void* qkv, const int32_t* slots,
    int32_t T, int32_t H, int32_t G, int32_t E, int32_t P, int32_t ctype, int32_t dtype) {
  if (check_cache_write(dev, keys, values, qkv, slots, T, H, G, E, P, ctype, dtype)) return -1;
  for (int t = 0; t < T; t++) REQUIRE(slots[t] >= 0, "koala_cache_write: slot %d of row %d is negative.", slots[t],
      t);
  return dev->kernels->cache_write(dev, keys, values, qkv, slots, T, H, G, E, P, ctype, dtype);
}
#endif
