// Flat arrays, longer than an int counts: vectors cut at the end.
#pragma once
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

/** The vector at p, or its first `left` elements where fewer than W are left. */
template <class T> inline auto load_some(const T* p, int64_t left) {
  return left >= W ? load(p) : load_partial(p, (int)left);
}
template <class T, class V> inline void store_some(T* p, int64_t left, V v) {
  left >= W ? store(p, v) : store_partial(p, v, (int)left);
}

}  // namespace KOALA_NS
