// Products of a warp's 16 rows with tiles of bf16 rows in shared memory, on tensor cores.
//
// A tile is n rows of E elements without gaps; the groups of 8 elements of row r stand in the order of (group ^ r % 8),
// so that the eight rows that ldmatrix reads at once lie in different banks. Accumulators are c[columns / 8][4]: of
// thread lane, c[i][j] is row lane / 4 + 8 (j / 2), column 8i + 2 (lane % 4) + j % 2.
#pragma once
#include "gpu.h"

/** Where element (row, column) of a tile lies; column is a multiple of 8. */
template <int E> DEVICE int tile_at(int row, int column) { return row * E + ((column / 8) ^ (row & 7)) * 8; }

template <int N> DEVICE void clear(float (*c)[4]) {
#pragma unroll
  for (int i = 0; i < N / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) c[i][j] = 0;
}

/** 16 rows of E elements in registers, as left operands. */
template <int E> struct RegisterRows {
  uint32_t part[E / 16][4];
  /** `row(r)`: the address of row lane / 4 + 8r, or null for zeros. */
  template <class Rows> DEVICE void load(Rows&& row) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const auto* from = row(r);
#pragma unroll
      for (int k = 0; k < E / 16; k++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          part[k][r + 2 * half] = from ? load_pair(from + k * 16 + half * 8 + 2 * (lane & 3)) : 0;
    }
  }
  DEVICE void get(int k, uint32_t a[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = part[k][i];
  }
};

/** Rows [first, first + 16) of a tile, as left operands. */
template <int E> struct TileRows {
  const bf16* tile;
  int first;
  DEVICE void get(int k, uint32_t a[4]) const {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4(a, tile + tile_at<E>(first + (lane & 15), k * 16 + (lane >> 4) * 8));
  }
};

/** c [16, N] += left [16, E] . tile [N, E]^T */
template <int E, int N, class Left> DEVICE void multiply_rows(float (*c)[4], const Left& left, const bf16* tile) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < E / 16; k++) {
    uint32_t a[4];
    left.get(k, a);
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      uint32_t b[4];
      ldmatrix_x4(b, tile + tile_at<E>(j * 16 + (lane & 7) + (lane >> 4) * 8, k * 16 + (lane >> 3 & 1) * 8));
      mma_16816(c[2 * j], a, b[0], b[1]);
      mma_16816(c[2 * j + 1], a, b[2], b[3]);
    }
  }
}

/** c [16, E] += p [16, N] . tile [N, E], p rounded to bf16 */
template <int E, int N> DEVICE void mix_rows(float (*c)[4], const float (*p)[4], const bf16* tile) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < N / 16; k++) {
    const uint32_t a[4] = {to_bf16x2(p[2 * k][0], p[2 * k][1]), to_bf16x2(p[2 * k][2], p[2 * k][3]),
                           to_bf16x2(p[2 * k + 1][0], p[2 * k + 1][1]), to_bf16x2(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
    for (int j = 0; j < E / 16; j++) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, tile + tile_at<E>(k * 16 + (lane & 15), j * 16 + (lane >> 4) * 8));
      mma_16816(c[2 * j], a, b[0], b[1]);
      mma_16816(c[2 * j + 1], a, b[2], b[3]);
    }
  }
}
