// Matrices of int8 and int4 (koala.h: q8, q4) in panels: quantised when they are packed, and expanded to bf16 piece by
// piece, in the first-level cache, when they are multiplied. What is read from memory is 1.06 or 0.56 bytes an element.
//
// Panel after panel of 32 rows; in a panel, block after block of 32 k: the f16 scales of its 32 rows, then q of its
// elements, two k after two k. Of the 64 elements of two k, those of a row stand side by side where the processor multiplies
// bf16 pairs, as in a bf16 panel (tile.h); elsewhere those of a k do, and they are expanded to the float32 of the bf16, which
// saves taking pairs apart. q8: a byte each. q4: q of ggml (0..15); byte i has element i in its low half and element i + 32 in
// its high half. Rows beyond N are zero.
// Always: a block that holds a NaN or an infinity, or whose scale is too large for f16, gets a NaN for a scale.
#pragma once
#include "tile.h"
#include "weight_types.h"

namespace KOALA_NS {

constexpr int SCALE_BYTES = PANEL * (int)sizeof(f16);
constexpr int PAIR = 2 * PANEL;         // elements of two k
constexpr uint16_t NO_SCALE = 0x7e00;   // a NaN

#if KOALA_LEVEL >= 3
typedef bf16 Piece;  // what a piece of a panel is expanded to
#else
typedef float Piece;
#endif
constexpr bool PAIRED = Same<Piece, bf16>::value;

typedef int8_t v8 __attribute__((vector_size(W)));
typedef uint8_t vu8 __attribute__((vector_size(W)));

/** Lanes 0, 0, 1, 1 ... of the lower and the upper half of a vector. */
struct Doubled {
  int32_t lower[W], upper[W];
  constexpr Doubled() : lower(), upper() {
    for (int i = 0; i < W; i++) lower[i] = i / 2, upper[i] = W / 2 + i / 2;
  }
};

/** The scales of the elements of two k, in their order. */
inline void load_scales(vf* scale, const f16* from) {
  static constexpr Doubled lanes;
  for (int i = 0; i < PANEL / W; i++) {
    const vf s = load(from + i * W);
    if constexpr (PAIRED) {
      scale[2 * i] = __builtin_shuffle(s, read_bits<vi>(lanes.lower));
      scale[2 * i + 1] = __builtin_shuffle(s, read_bits<vi>(lanes.upper));
    } else {
      scale[i] = scale[i + PANEL / W] = s;
    }
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

/** Stores the products of two k, rounded to bf16. A NaN, which is that of NO_SCALE, stays one. */
inline void store_rounded(Piece* out, const vf* v) {
#if KOALA_LEVEL >= 3
  for (int i = 0; i < PAIR / W; i += 2) write_bits(out + i * W, _mm512_cvtne2ps_pbh((__m512)v[i + 1], (__m512)v[i]));
#else
  for (int i = 0; i < PAIR / W; i++) {
    const vu u = (vu)v[i];
    store(out + i * W, (vf)((u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u));
  }
#endif
}

/** Where the element of row `row` stands among those of its two k. */
inline int place_of(int k, int row) { return PAIRED ? row * 2 + k % 2 : k % 2 * PANEL + row; }

struct Q8 {
  static constexpr int PAIR_BYTES = PAIR;
  /** q d of two k. */
  static inline void expand(vf* v, const uint8_t* q, const vf* scale) {
    for (int i = 0; i < PAIR / W; i++) v[i] = __builtin_convertvector(signed_bytes(q + i * W), vf) * scale[i];
  }
  static inline void put(uint8_t* pair, int place, uint8_t q) { pair[place] = q; }
  /** q of a block, and its scale. */
  static inline float quantise(uint8_t* q, const float* w, float largest, int);
};

struct Q4 {
  static constexpr int PAIR_BYTES = PAIR / 2;
  static inline void expand(vf* v, const uint8_t* q, const vf* scale) {
    constexpr int half = PANEL / W;
    for (int i = 0; i < half; i++) {
      const vi both = bytes(q + i * W);
      v[i] = nibbles(both) * scale[i];
      v[half + i] = nibbles(both >> 4) * scale[half + i];
    }
  }
  static inline void put(uint8_t* pair, int place, uint8_t q) {
    uint8_t* byte = pair + place % PANEL;
    *byte = place < PANEL ? (uint8_t)((*byte & 0xf0) | q) : (uint8_t)((*byte & 0x0f) | q << 4);
  }
  static inline float quantise(uint8_t* q, const float* w, float largest, int at);
};

template <class Q> constexpr int BLOCK_BYTES = SCALE_BYTES + QUANT_K / 2 * Q::PAIR_BYTES;

/** f(k, q d of k and k + 1) for all k of some blocks of a panel. */
template <class Q, class F> inline void expand(const uint8_t* block, int K, F&& f) {
  for (int k = 0; k < K; k += QUANT_K, block += BLOCK_BYTES<Q>) {
    vf scale[PAIR / W], v[PAIR / W];
    load_scales(scale, (const f16*)block);
    for (int i = 0; i < QUANT_K / 2; i++) {
      Q::expand(v, block + SCALE_BYTES + i * Q::PAIR_BYTES, scale);
      f(k + 2 * i, v);
    }
  }
}

/** The panels of a packed matrix of bf16(q d), as matmul.cc multiplies them. */
template <class Q> struct QuantisedPanels {
  typedef bf16 Element;
  typedef KOALA_NS::Piece Piece;
  static constexpr int PIECE_K = 512 / (int)sizeof(Piece);  // with 8 rows of operand, it stays in the first-level cache
  static constexpr size_t PIECE_BYTES = PIECE_K * PANEL * sizeof(Piece);
  static constexpr int FUSED_ROWS = PAIRED ? TILE_ROWS : 0;  // so few are multiplied as the panel is expanded, in registers
  const uint8_t* packed;
  int K;
  inline const uint8_t* at(int panel, int k) const {
    return packed + ((size_t)panel * (K / QUANT_K) + k / QUANT_K) * BLOCK_BYTES<Q>;
  }
  inline const Piece* piece(int panel, int k, int depth, char* room) const {
    Piece* out = (Piece*)room;
    expand<Q>(at(panel, k), depth, [&](int j, const vf* v) { store_rounded(out + j * PANEL, v); });
    return out;
  }
  /** c[i][0..32) of up to FUSED_ROWS rows: the chains of multiply_panel, bit for bit. */
#if KOALA_LEVEL >= 3
  inline void multiply_rows(int rows, float* c, const bf16* a, size_t lda, int panel) const {
    switch (rows) {
      case 1: return multiply<1>(c, a, lda, panel);
      case 2: return multiply<2>(c, a, lda, panel);
      case 3: return multiply<3>(c, a, lda, panel);
      case 4: return multiply<4>(c, a, lda, panel);
      case 5: return multiply<5>(c, a, lda, panel);
      case 6: return multiply<6>(c, a, lda, panel);
      case 7: return multiply<7>(c, a, lda, panel);
      default: return multiply<8>(c, a, lda, panel);
    }
  }
  template <int R> __attribute__((noinline)) void multiply(float* c, const bf16* a, size_t lda, int panel) const {
    __m512 sum[R][PANEL / W] = {};
    expand<Q>(at(panel, 0), K, [&](int k, const vf* v) {
      __m512bh columns[PANEL / W];
      for (int i = 0; i < PANEL / W; i++) columns[i] = _mm512_cvtne2ps_pbh((__m512)v[2 * i + 1], (__m512)v[2 * i]);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const __m512bh x = (__m512bh)_mm512_set1_epi32(read_bits<int>(a + r * lda + k));
        for (int i = 0; i < PANEL / W; i++) sum[r][i] = _mm512_dpbf16_ps(sum[r][i], x, columns[i]);
      }
    });
    for (int r = 0; r < R; r++)
      for (int i = 0; i < PANEL / W; i++) store(c + r * PANEL + i * W, (vf)sum[r][i]);
  }
#endif
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
  for (int k = 0; k < QUANT_K; k++) Q::put(block + SCALE_BYTES + k / 2 * Q::PAIR_BYTES, place_of(k, row), q[k]);
}

/** 32 elements as float32. */
template <class S> inline void widen_block(float* w, const S* from) {
  if constexpr (Same<S, double>::value)
    for (int i = 0; i < QUANT_K; i++) w[i] = (float)from[i];
  else
    for (int i = 0; i < QUANT_K; i += W) store(w + i, load(from + i));
}

}  // namespace KOALA_NS
