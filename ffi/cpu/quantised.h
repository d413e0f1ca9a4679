// Matrices of int8 and int4 (koala.h: q8, q4) in panels: quantised when they are packed, and expanded to bf16 piece by
// piece, in the first-level cache, when they are multiplied. What is read from memory is 1.06 or 0.56 bytes an element.
//
// Panel after panel of 32 rows; in a panel, block after block of 32 k: the f16 scales of its 32 rows, then q of its
// elements in the order of a bf16 panel (tile.h). q8: a byte each. q4: q of ggml (0..15); of the 64 elements of a pair of
// k, byte i has element i in its low half and element i + 32 in its high half. Rows beyond N are zero.
// Always: a block that holds a NaN or an infinity, or whose scale is too large for f16, gets a NaN for a scale.
#pragma once
#include "tile.h"
#include "weight_types.h"

namespace KOALA_NS {

constexpr int SCALE_BYTES = PANEL * (int)sizeof(f16);
constexpr int PAIR = 2 * PANEL;         // elements of a pair of k
constexpr uint16_t NO_SCALE = 0x7e00;   // a NaN

typedef int8_t v8 __attribute__((vector_size(W)));
typedef uint8_t vu8 __attribute__((vector_size(W)));

/** Lanes 0, 0, 1, 1 ... of the lower and the upper half of a vector. */
struct Doubled {
  int32_t lower[W], upper[W];
  constexpr Doubled() : lower(), upper() {
    for (int i = 0; i < W; i++) lower[i] = i / 2, upper[i] = W / 2 + i / 2;
  }
};

/** The scales of a pair of k: each row's twice. */
inline void load_scales(vf* scale, const f16* from) {
  static constexpr Doubled lanes;
  const vi lower = read_bits<vi>(lanes.lower), upper = read_bits<vi>(lanes.upper);
  for (int i = 0; i < PANEL / W; i++) {
    const vf s = load(from + i * W);
    scale[2 * i] = __builtin_shuffle(s, lower);
    scale[2 * i + 1] = __builtin_shuffle(s, upper);
  }
}

// GCC converts bytes to 32 bits in one step only where it is told how.
inline vi signed_bytes(const uint8_t* p) {
#if KOALA_LEVEL >= 2
  return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif KOALA_LEVEL == 1
  return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  return __builtin_convertvector(read_bits<v8>(p), vi);
#endif
}
inline vi bytes(const uint8_t* p) {
#if KOALA_LEVEL >= 2
  return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif KOALA_LEVEL == 1
  return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  return __builtin_convertvector(read_bits<vu8>(p), vi);
#endif
}
/** q - 8 of the low four bits of each lane. */
inline vf nibbles(vi both) {
#if KOALA_LEVEL >= 2
  return (vf)_mm512_permutexvar_ps((__m512i)both, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
#else
  return __builtin_convertvector((both & 15) - 8, vf);
#endif
}

/** Stores vectors side by side: two at a time where the processor rounds two at a time. */
template <int N> inline void store_all(bf16* out, const vf (&v)[N]) {
#if KOALA_LEVEL >= 3
  for (int i = 0; i < N; i += 2)
    write_bits(out + i * W, _mm512_cvtne2ps_pbh((__m512)v[i + 1], (__m512)v[i]));
#else
  for (int i = 0; i < N; i++) store(out + i * W, v[i]);
#endif
}

struct Q8 {
  static constexpr int BLOCK_BYTES = SCALE_BYTES + QUANT_K * PANEL;
  static inline void expand_pair(bf16* out, const uint8_t* q, const vf* scale) {
    vf v[PAIR / W];
    for (int i = 0; i < PAIR / W; i++) v[i] = __builtin_convertvector(signed_bytes(q + i * W), vf) * scale[i];
    store_all(out, v);
  }
  static inline int place(int k, int row) { return k / 2 * PAIR + row * 2 + k % 2; }
  /** q of a block, and its scale. */
  static inline float quantise(uint8_t* q, const float* w, float largest, int);
  static inline void put(uint8_t* block, int k, int row, uint8_t q) { block[place(k, row)] = q; }
};

struct Q4 {
  static constexpr int BLOCK_BYTES = SCALE_BYTES + QUANT_K * PANEL / 2;
  static inline void expand_pair(bf16* out, const uint8_t* q, const vf* scale) {
    constexpr int half = PANEL / W;
    vf v[2 * half];
    for (int i = 0; i < half; i++) {
      const vi both = bytes(q + i * W);
      v[i] = nibbles(both) * scale[i];
      v[half + i] = nibbles(both >> 4) * scale[half + i];
    }
    store_all(out, v);
  }
  static inline float quantise(uint8_t* q, const float* w, float largest, int at);
  static inline void put(uint8_t* block, int k, int row, uint8_t q) {
    const int element = row * 2 + k % 2;
    uint8_t* byte = block + k / 2 * PANEL + element % PANEL;
    *byte = element < PANEL ? (uint8_t)((*byte & 0xf0) | q) : (uint8_t)((*byte & 0x0f) | q << 4);
  }
};

/** depth elements of each row of a panel, from a block on. */
template <class Q> void expand(bf16* out, const uint8_t* block, int depth) {
  for (int k = 0; k < depth; k += QUANT_K, block += Q::BLOCK_BYTES) {
    vf scale[PAIR / W];
    load_scales(scale, (const f16*)block);
    const uint8_t* q = block + SCALE_BYTES;
    constexpr int step = (Q::BLOCK_BYTES - SCALE_BYTES) / (QUANT_K / 2);
    for (int pair = 0; pair < QUANT_K / 2; pair++) Q::expand_pair(out + (k / 2 + pair) * PAIR, q + pair * step, scale);
  }
}

/** The panels of a packed matrix of bf16(q d), as matmul.cc multiplies them. */
template <class Q> struct QuantisedPanels {
  typedef bf16 Element;
  static constexpr int PIECE_K = 256;  // as bf16, a piece of a panel and 8 rows of operand fill half of the first-level cache
  static constexpr size_t PIECE_BYTES = PIECE_K * PANEL * sizeof(bf16);
  const uint8_t* packed;
  int K;
  inline const uint8_t* at(int panel, int k) const {
    return packed + ((size_t)panel * (K / QUANT_K) + k / QUANT_K) * Q::BLOCK_BYTES;
  }
  inline const bf16* piece(int panel, int k, int depth, char* room) const {
    expand<Q>((bf16*)room, at(panel, k), depth);
    return (const bf16*)room;
  }
};

// ---- packing ----

/** To nearest even. */
inline uint16_t f16_bits(float f) {
  const uint32_t u = float_to_bits(f), size = u & 0x7fffffff, sign = u >> 16 & 0x8000;
  if (size > 0x7f800000) return NO_SCALE;
  if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  // Below 2^-14 the last place is 2^-24, as that of 0.5 is in float32.
  if (size < 0x38800000) return (uint16_t)(sign | (float_to_bits(bits_to_float(size) + 0.5f) - 0x3f000000));
  return (uint16_t)(sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}

/** 1 / d, and 0 where that is no number. */
inline float inverse(float d) {
  const float r = 1.f / d;
  return r - r == 0 ? r : 0;
}

/** Halves are rounded away from zero, as roundf does. */
inline vi round_half_away(vf x) {
  const vi whole = __builtin_convertvector(x, vi);
  const vf rest = x - __builtin_convertvector(whole, vf);
  return whole - (vi)(rest >= 0.5f) + (vi)(rest <= -0.5f);
}

inline float Q8::quantise(uint8_t* q, const float* w, float largest, int) {
  const float d = largest / 127;
  const vf scale = splat(inverse(d));
  for (int i = 0; i < QUANT_K; i += W)
    write_bits(q + i, __builtin_convertvector(round_half_away(load(w + i) * scale), v8));
  return d;
}

inline float Q4::quantise(uint8_t* q, const float* w, float, int at) {
  const float d = w[at] / -8;
  const vf scale = splat(inverse(d));
  for (int i = 0; i < QUANT_K; i += W) {
    const vi v = __builtin_convertvector(load(w + i) * scale + 8.5f, vi);
    write_bits(q + i, __builtin_convertvector(v < 15 ? v : vi{} + 15, vu8));
  }
  return d;
}

/** Quantises the 32 elements w of a row into the panel's block. */
template <class Q> inline void pack_block(uint8_t* block, const float* w, int row) {
  vf most = {}, strange = {};
  for (int i = 0; i < QUANT_K; i += W) {
    const vf v = load(w + i);
    most = max(most, v < 0 ? -v : v);
    strange += v - v;  // NaN of what is not finite
  }
  const float largest = max_lanes<float>(most) + sum_lanes<float>(strange);
  int at = 0;
  while (at < QUANT_K - 1 && w[at] != largest && w[at] != -largest) at++;
  uint8_t q[QUANT_K] = {};
  uint16_t scale = NO_SCALE;
  if (largest == largest) scale = f16_bits(Q::quantise(q, w, largest, at));
  if ((scale & 0x7c00) == 0x7c00) {
    scale = NO_SCALE;
    memset(q, 0, sizeof q);
  }
  memcpy(block + row * sizeof scale, &scale, sizeof scale);
  for (int k = 0; k < QUANT_K; k++) Q::put(block + SCALE_BYTES, k, row, q[k]);
}

/** 32 elements as float32. */
template <class S> inline void widen_block(float* w, const S* from) {
  if constexpr (Same<S, double>::value)
    for (int i = 0; i < QUANT_K; i++) w[i] = (float)from[i];
  else
    for (int i = 0; i < QUANT_K; i += W) store(w + i, load(from + i));
}

}  // namespace KOALA_NS
