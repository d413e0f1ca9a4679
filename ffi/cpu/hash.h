// Random bits by position: what is dropped, hidden or rounded up depends on a seed and a place, not on threads or lanes.
//
// hash(key, high, low) = mix(mix(low ^ key.a) + high * 0x9e3779b9 + key.b), mix being the finalizer "lowbias32"
// (Wellons 2018). A key holds two words of splitmix64 of (seed, stream): equal seeds in different ops share no bits.
#pragma once
#include "simd.h"

namespace KOALA_NS {

enum HashStream : uint32_t { STREAM_DROPOUT = 1, STREAM_FORGET = 2, STREAM_MOMENTS = 3, STREAM_ATTENTION = 4 };

struct HashKey { uint32_t a, b; };

inline uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}
/** `step` makes further keys of one seed. */
inline HashKey hash_key(uint64_t seed, HashStream stream, uint64_t step = 0) {
  const uint64_t z = splitmix64(splitmix64(splitmix64(seed) ^ stream) ^ step);
  return {(uint32_t)z, (uint32_t)(z >> 32)};
}
inline vu hash_mix(vu x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}
inline vu hash_bits(HashKey key, vu high, vu low) { return hash_mix(hash_mix(low ^ key.a) + high * 0x9e3779b9u + key.b);
    }

/** 0, 1, 2 ... */
inline vu lane_numbers() {
  vu v;
  for (int i = 0; i < W; i++) v[i] = i;
  return v;
}
/** The bits of places [index, index + W). */
inline vu hash_at(HashKey key, uint64_t index) {
  const uint32_t first = (uint32_t)index;
  const vu low = lane_numbers() + first;
  return hash_bits(key, (vu)(low < first) * 0xffffffffu + (uint32_t)(index >> 32), low);
}
/** Bits below this are an event of probability p. */
inline uint32_t hash_threshold(double p) { return p >= 1 ? 0xffffffffu : (uint32_t)(p * 4294967296.); }

}  // namespace KOALA_NS
