// Descending order of logits as ascending 64-bit keys: larger logit first, lowest id among equals.
#pragma once
#include "simd.h"

namespace KOALA_NS {

inline uint64_t order_key(float logit, int id) {
  const uint32_t u = float_to_bits(logit + 0.f);  // -0 becomes 0: they are equal
  const uint32_t ascending = u >> 31 ? ~u : u | 0x80000000u;
  return (uint64_t)~ascending << 32 | (uint32_t)id;
}
inline int key_id(uint64_t key) { return (int)(uint32_t)key; }
inline float key_logit(uint64_t key) {
  const uint32_t ascending = ~(uint32_t)(key >> 32);
  return bits_to_float(ascending >> 31 ? ascending & 0x7fffffffu : ~ascending);
}

/** Largest logit of a row (-inf if none is larger); *has_nan tells whether any is NaN. */
inline float row_maximum(const float* logits, int V, bool* has_nan) {
  const float none = -__builtin_inff();
  vf top = splat(none);
  vi nan = {};
  int v = 0;
  for (; v + W <= V; v += W) {
    const vf l = load(logits + v);
    top = max(l, top);
    nan |= l != l;
  }
  float best = max_lanes<float>(top);
  *has_nan = lane_bits(nan) != 0;
  for (; v < V; v++) {
    *has_nan = *has_nan || logits[v] != logits[v];
    best = logits[v] > best ? logits[v] : best;
  }
  return best;
}

/** f(id) for every logit >= least, ids ascending. */
template <class F> inline void for_each_from(const float* logits, int V, float least, F&& f) {
  int v = 0;
  for (; v + W <= V; v += W)
    for (uint32_t bits = lane_bits(load(logits + v) >= splat(least)); bits; bits &= bits - 1) f(v + __builtin_ctz(bits));
  for (; v < V; v++)
    if (logits[v] >= least) f(v);
}

}  // namespace KOALA_NS
