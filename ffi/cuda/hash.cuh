// Random bits by position, the same as on the CPU (ffi/cpu/hash.h): a seed and a place decide, not threads.
//
// hash(key, high, low) = mix(mix(low ^ key.a) + high * 0x9e3779b9 + key.b), mix being the finalizer "lowbias32"
// (Wellons 2018). A key holds two words of splitmix64 of (seed, stream): equal seeds in different ops share no bits.
#pragma once
#include "gpu.h"

enum HashStream : uint32_t { STREAM_DROPOUT = 1, STREAM_FORGET = 2, STREAM_MOMENTS = 3, STREAM_ATTENTION = 4 };

struct HashKey { uint32_t a, b; };

HOST_DEVICE uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}
/** `step` makes further keys of one seed. */
HOST_DEVICE HashKey hash_key(uint64_t seed, HashStream stream, uint64_t step = 0) {
  const uint64_t z = splitmix64(splitmix64(splitmix64(seed) ^ stream) ^ step);
  return {(uint32_t)z, (uint32_t)(z >> 32)};
}
HOST_DEVICE uint32_t hash_mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}
HOST_DEVICE uint32_t hash_bits(HashKey key, uint32_t high, uint32_t low) {
  return hash_mix(hash_mix(low ^ key.a) + high * 0x9e3779b9u + key.b);
}
/** The bits of place `index`. */
HOST_DEVICE uint32_t hash_at(HashKey key, uint64_t index) {
  return hash_bits(key, (uint32_t)(index >> 32), (uint32_t)index);
}
/** Bits below this are an event of probability p. */
HOST_DEVICE uint32_t hash_threshold(double p) { return p >= 1 ? 0xffffffffu : (uint32_t)(p * 4294967296.); }
