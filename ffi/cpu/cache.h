// Layout of the key/value cache: panels as tile.h wants them, so that scores and outputs are matrix products.
//
// A page holds P tokens of G heads; a head's part is P * padded(E) elements, padded(E) being E up to 32:
//   keys    panel (offset / 32) of 32 tokens: for each pair of dims (f32, f64: each dim) 32 tokens side by side
//   values  panel (dim / 32) of 32 dims: for each pair of tokens (f32, f64: each token) 32 dims side by side
// f8 lies as bf16 does, and is expanded to bf16 a panel at a time in first-level cache. Behind a page's heads stand its
// scales, float32 [G][P]: a key's scale multiplies its score, a value's scale its weight.
// Memory behind a sequence's last token is other requests' or none's: it may hold anything, NaN included.
#pragma once
#include "e4m3.h"
#include "tile.h"

namespace KOALA_NS {

inline int padded_head(int E) { return (E + PANEL - 1) / PANEL * PANEL; }

struct CacheShape {
  int P, G, E;
  inline size_t head_elements() const { return (size_t)P * padded_head(E); }
  inline size_t page_elements() const { return G * head_elements(); }
};

/** The type that panels of B are multiplied as. */
template <class B> struct Read { typedef B type; };
template <> struct Read<f8> { typedef bf16 type; };
template <class B> using read_t = typename Read<B>::type;

/** From page to page, in elements of B. */
template <class B> inline size_t page_stride(const CacheShape& c) {
  return c.page_elements() + (Same<B, f8>::value ? (size_t)c.G * c.P * sizeof(float) : 0);
}
/** The scales of a page's tokens, for head g of f8. */
inline const float* page_scales(const f8* cache, const CacheShape& c, size_t page, int g) {
  return (const float*)(cache + page * page_stride<f8>(c) + c.page_elements()) + (size_t)g * c.P;
}

/** The panel of keys that holds token `offset` of a page, for head g. */
template <class B> inline const B* key_panel(const B* keys, const CacheShape& c, size_t page, int g, int offset) {
  return keys + page * page_stride<B>(c) + g * c.head_elements() + (size_t)(offset / PANEL) * PANEL * padded_head(c.E);
}
/** Dims [32 d, 32 d + 32) of the values from token `offset` on (even for bf16 and f8), for head g. */
template <class B> inline const B* value_panel(const B* values, const CacheShape& c, size_t page, int g, int d,
    int offset) {
  return values + page * page_stride<B>(c) + g * c.head_elements() + (size_t)d * PANEL * c.P + (size_t)offset * PANEL;
}

}  // namespace KOALA_NS
