// Tiles of 64 keys or values in f8 for flash.cuh: they lie in shared memory as codes and become bf16 in registers, so that
// a decoded token moves half the bytes of bf16 all the way.
//
// A tile is 64 rows of E codes, then 64 scales. Groups of 16 codes of a row stand in an order that keeps the rows that are
// read at once in different banks. Sums over dims may run in any fixed order: thread t of four takes dims [t E/4, (t+1) E/4)
// of a key, four of them a product, and of the queries the same. Values are read two dims at once, so even and odd dims
// become columns of two products.
#pragma once
#include "flash.cuh"

template <int E> struct FlashTile<f8, E> {
  static constexpr int CODES = TILE * E, BYTES = CODES + TILE * (int)sizeof(float), GROUPS = E / 16;
  static_assert(E == 64 || E == 128, "the order of the groups is made for rows of 64 and 128 bytes");

  /** Where group `group` of row `row` lies. */
  DEVICE static int at(int row, int group) {
    return row * E + (group ^ (E == 128 ? row & 7 : row >> 1 & 3)) * 16;
  }

  struct Queries {
    uint32_t part[E / 16][4];
    template <class Rows> DEVICE void load(Rows&& row) {
      const int first = (threadIdx.x & 3) * (E / 4);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const auto* from = row(r);
#pragma unroll
        for (int k = 0; k < E / 16; k++) {
          const uint32_t a = from ? load_pair(from + first + 4 * k) : 0, b = from ? load_pair(from + first + 4 * k + 2) : 0;
          part[k][r] = (a & 0xffff) | b << 16;
          part[k][r + 2] = a >> 16 | (b & 0xffff0000u);
        }
      }
    }
  };

  template <int THREADS, class Keys>
  DEVICE static void load(unsigned char* tile, const Keys& keys, const f8* from, int s, int g, int j, int end) {
    const int beyond = j + 32;
    const size_t low = j < end ? keys.at(s, g, j) : 0, high = beyond < end ? keys.at(s, g, beyond) : 0;
#pragma unroll 8
    for (int i = 0; i < TILE * GROUPS / THREADS; i++) {
      const int e = threadIdx.x + i * THREADS, r = e / GROUPS, c = e % GROUPS;
      const bool valid = j + r < end;
      cp_async_16(tile + at(r, c), valid ? from + (r < 32 ? low : high) + (r & 31) * keys.stride() + c * 16 : from, valid);
    }
    if (threadIdx.x < TILE / 4) {
      const int token = threadIdx.x * 4;
      const bool valid = j + token < end;
      const float* scales = keys.scales(from, s, g, valid ? (token < 32 ? j : beyond) : j);
      cp_async_16(tile + CODES + token * sizeof(float), valid ? (const void*)(scales + (token & 31)) : from, valid);
    }
  }

  /** s [16, TILE] += queries . keys^T, by the keys' scales; of keys behind the last it is anything. */
  DEVICE static void score(float (*s)[4], const Queries& queries, const unsigned char* tile) {
    const int lane = threadIdx.x & 31, t = lane & 3;
#pragma unroll
    for (int c = 0; c < E / 64; c++)
#pragma unroll
      for (int i = 0; i < TILE / 8; i++) {
        const uint4 u = load_16(tile + at(i * 8 + lane / 4, t * (E / 64) + c));
        const uint32_t codes[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
        for (int w = 0; w < 4; w++) {
          uint32_t even, odd;
          expand_4(codes[w], &even, &odd);
          mma_16816(s[i], queries.part[4 * c + w], even, odd);
        }
      }
    scale_columns(s, tile, [](float score, float scale) { return score * scale; });
  }

  /** output [16, E] += weights [16, TILE] . values */
  DEVICE static void mix(float (*output)[4], float (*weights)[4], const unsigned char* tile) {
    // A hidden key's scale belongs to nobody and may be NaN.
    scale_columns(weights, tile, [](float weight, float scale) { return weight == 0 ? 0.f : weight * scale; });
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
      const uint32_t a[4] = {to_bf16x2(weights[2 * k][0], weights[2 * k][1]), to_bf16x2(weights[2 * k][2], weights[2 * k][3]),
                             to_bf16x2(weights[2 * k + 1][0], weights[2 * k + 1][1]),
                             to_bf16x2(weights[2 * k + 1][2], weights[2 * k + 1][3])};
#pragma unroll
      for (int j = 0; j < GROUPS / 2; j++) {
        uint32_t b[4], even[4], odd[4];
        ldmatrix_x4_trans(b, tile + at(k * 16 + (lane & 15), 2 * j + (lane >> 4)));
#pragma unroll
        for (int i = 0; i < 4; i++) expand_4(b[i], &even[i], &odd[i]);
        mma_16816(output[4 * j], a, even[0], even[1]);
        mma_16816(output[4 * j + 1], a, odd[0], odd[1]);
        mma_16816(output[4 * j + 2], a, even[2], even[3]);
        mma_16816(output[4 * j + 3], a, odd[2], odd[3]);
      }
    }
  }

  /** f(column, a, b): the outputs of columns `column` and `column` + 1 of this thread's row lane / 4 + 8r. */
  template <class F> DEVICE static void pairs(const float (*output)[4], int r, F&& f) {
#pragma unroll
    for (int i = 0; i < E / 16; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        f(i * 16 + 4 * (threadIdx.x & 3) + 2 * half, output[2 * i][2 * r + half], output[2 * i + 1][2 * r + half]);
  }

 private:
  template <class F> DEVICE static void scale_columns(float (*s)[4], const unsigned char* tile, F&& f) {
    const float* scales = (const float*)(tile + CODES) + 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
      const float a = scales[i * 8], b = scales[i * 8 + 1];
      s[i][0] = f(s[i][0], a), s[i][2] = f(s[i][2], a);
      s[i][1] = f(s[i][1], b), s[i][3] = f(s[i][3], b);
    }
  }
};
