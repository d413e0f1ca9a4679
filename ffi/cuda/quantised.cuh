// Rows of w in int8 and int4 (koala.h: q8, q4): their layout, and how a product reads them (gemm.cuh). They stay compressed
// up to the registers, where a warp expands what it multiplies next to the bf16 that the header says.
//
// Packed [N,K]: the q of row after row, then the scales in f16, block of 32 columns after block, those of all rows (padded to
// 8) side by side: 16 bytes are the scales of 8 rows. The 32 elements of a block of a row stand so that a thread of mma.16816
// finds its own together: thread t = lane % 4 has k = 2t, 2t + 1, 2t + 8, 2t + 9 and the same plus 16. q8: a byte each, q + 128.
// q4: the pair p of these in bits 4p (q of ggml, 0..15) and 4p + 16 of a word.
#pragma once
#include "../cpu/weight_types.h"
#include "gemm_tiles.cuh"

/** Where element k of 32 stands: thread, pair of that thread, and whether it is the pair's second. */
struct Place {
  int thread, pair, odd;
};
HOST_DEVICE Place place_of(int k) { return {k % 8 / 2, k / 8, k % 2}; }

/** Scales of a block of columns: those of N rows, padded. */
HOST_DEVICE int scale_stride(int N) { return (N + 7) / 8 * 8; }
template <int BITS> HOST_DEVICE f16* scales_of(void* packed, int N, int K) {
  return reinterpret_cast<f16*>(static_cast<unsigned char*>(packed) + (int64_t)N * K * BITS / 8);
}
template <int BITS> inline double quantised_bytes(int N, int K) {
  return (double)N * K * BITS / 8 + (double)(K / QUANT_K) * scale_stride(N) * sizeof(f16);
}

/** The bf16 pairs of a thread: 2 x 2 of each of two products of 16 columns. */
template <int BITS> struct Expanded;

template <> struct Expanded<8> {
  float scale;
  DEVICE explicit Expanded(f16 s) : scale(f16_to_float(s)) {}
  /** Pair `pair` of 8 bytes. Bytes become floats by the exponent of 2^23: exact, and faster than conversions. */
  DEVICE uint32_t get(const uint32_t (&q)[2], int pair) const {
    float v[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
      v[i] = (bits_to_float(__byte_perm(q[pair / 2], 0x4b000000u, 0x7440 + pair % 2 * 2 + i)) - 8388736.f) * scale;
    return to_bf16x2(v[0], v[1]);
  }
};

template <> struct Expanded<4> {
  uint32_t high, low;  // bf16 pairs: a scale of f16 is the sum of two bf16, and q times the second one is exact
  DEVICE explicit Expanded(f16 s) {
    const float scale = f16_to_float(s), rounded = bits_to_float(to_bf16x2(0, scale) & 0xffff0000u);
    high = to_bf16x2(scale, scale);
    low = to_bf16x2(scale - rounded, scale - rounded);
  }
  DEVICE uint32_t get(const uint32_t (&q)[1], int pair) const {
    const uint32_t biased = (q[0] >> 4 * pair & 0x000f000fu) | 0x43004300u;    // 128 + q
    const uint32_t v = fma_bf16x2(biased, 0x3f803f80u, 0xc308c308u);             // - 136
    return fma_bf16x2(v, high, fma_bf16x2(v, low, 0x80008000u));                 // rounded once, as bf16(q d)
  }
};

template <int BITS, class Tile> struct QuantisedWeights {
  static constexpr int ROW = Tile::BK * BITS / 8;
  // Eight rows (q8: four) of a block of 32 columns are read at once, and lie in different banks.
  static constexpr int LD = ROW / (4 * BITS) % 2 ? ROW : ROW + 4 * BITS;
  static constexpr int SCALES = Tile::BN * LD;  // where the scales begin
  static constexpr int BLOCKS = Tile::BK / QUANT_K;
  static constexpr int BYTES = SCALES + BLOCKS * Tile::BN * (int)sizeof(f16);

  template <class E> DEVICE static void load(unsigned char* to, const Product<E>& p, int column, int k, int thread) {
    constexpr int CHUNKS = ROW / 16, EIGHTS = Tile::BN / 8;
    const unsigned char* rows = static_cast<const unsigned char*>(p.w);
    const int64_t row_bytes = (int64_t)p.K * BITS / 8;
    const int first = k * BITS / 8;
#pragma unroll
    for (int i = 0; i < (Tile::BN * CHUNKS + Tile::COPYING - 1) / Tile::COPYING; i++) {
      const int chunk = thread + i * Tile::COPYING, r = chunk / CHUNKS, c = chunk % CHUNKS * 16;
      if (r >= Tile::BN || column + r >= p.N) continue;
      const bool valid = first + c < row_bytes;
      cp_async_16(to + r * LD + c, valid ? rows + (column + r) * row_bytes + first + c : rows, valid);
    }
    const f16* scales = reinterpret_cast<const f16*>(rows + p.N * row_bytes) + k / QUANT_K * (int64_t)scale_stride(p.N);
#pragma unroll
    for (int i = 0; i < (BLOCKS * EIGHTS + Tile::COPYING - 1) / Tile::COPYING; i++) {
      const int chunk = thread + i * Tile::COPYING, block = chunk / EIGHTS, r = chunk % EIGHTS * 8;
      if (block >= BLOCKS || column + r >= p.N) continue;
      const bool valid = k + block * QUANT_K < p.K;
      cp_async_16(to + SCALES + (block * Tile::BN + r) * (int)sizeof(f16),
          valid ? scales + block * (int64_t)scale_stride(p.N) + column + r : scales, valid);
    }
  }

  struct Fragments {
    uint32_t q[2 * Tile::N][BITS / 4];
    f16 scale[2 * Tile::N];
    DEVICE Fragments(const unsigned char* stage, int column, int k) {
      const int lane = threadIdx.x % 32;
#pragma unroll
      for (int j = 0; j < 2 * Tile::N; j++) {
        const int row = column + j * 8 + lane / 4;
        const unsigned char* from = stage + row * LD + k * BITS / 8 + lane % 4 * BITS;
        if constexpr (BITS == 8) {
          const uint64_t both = *reinterpret_cast<const uint64_t*>(from);
          q[j][0] = (uint32_t)both, q[j][1] = (uint32_t)(both >> 32);
        } else {
          q[j][0] = *reinterpret_cast<const uint32_t*>(from);
        }
        scale[j] = reinterpret_cast<const f16*>(stage + SCALES)[k / QUANT_K * Tile::BN + row];
      }
    }
    DEVICE void get(uint32_t (&w)[4], int j, int half) const {
#pragma unroll
      for (int i = 0; i < 4; i++)
        w[i] = Expanded<BITS>(scale[2 * j + i / 2]).get(q[2 * j + i / 2], 2 * half + i % 2);
    }
  };
};

template <class Tile> struct Q8Weights : QuantisedWeights<8, Tile> {};
template <class Tile> struct Q4Weights : QuantisedWeights<4, Tile> {};

template <> struct Tiles<Q8Weights> : Tiles<StoredWeights> {
  typedef Tile<16, 32, 128, 10, 1, 2, 2, 2> Row;
  typedef Tile<32, 32, 128, 7, 1, 2, 2, 2> Short;
};
template <> struct Tiles<Q4Weights> : Tiles<StoredWeights> {
  typedef Tile<16, 32, 256, 7, 1, 2, 2, 2> Row;
  typedef Tile<32, 32, 128, 8, 1, 2, 2, 2> Short;
};
