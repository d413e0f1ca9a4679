// Layout of the key/value cache: panels as tile.h wants them, so that scores and outputs are matrix products.
//
// A page holds P tokens of G heads; a head's part is P * padded(E) elements, padded(E) being E up to 32:
//   keys    panel (offset / 32) of 32 tokens: for each pair of dims (f32, f64: each dim) 32 tokens side by side
//   values  panel (dim / 32) of 32 dims: for each pair of tokens (f32, f64: each token) 32 dims side by side
// Memory behind a sequence's last token is other requests' or none's: it may hold anything, NaN included.
#pragma once
#include "tile.h"

namespace KOALA_NS {

inline int padded_head(int E) { return (E + PANEL - 1) / PANEL * PANEL; }

struct CacheShape {
  int P, G, E;
  inline size_t head_elements() const { return (size_t)P * padded_head(E); }
  inline size_t page_elements() const { return G * head_elements(); }
};

/** The panel of keys that holds token `offset` of a page, for head g. */
template <class B> inline const B* key_panel(const B* keys, const CacheShape& c, size_t page, int g, int offset) {
  return keys + page * c.page_elements() + g * c.head_elements() + (size_t)(offset / PANEL) * PANEL * padded_head(c.E);
}
/** Dims [32 d, 32 d + 32) of the values from token `offset` on (even for bf16), for head g. */
template <class B> inline const B* value_panel(const B* values, const CacheShape& c, size_t page, int g, int d,
    int offset) {
  return values + page * c.page_elements() + g * c.head_elements() + (size_t)d * PANEL * c.P + (size_t)offset * PANEL;
}

}  // namespace KOALA_NS
