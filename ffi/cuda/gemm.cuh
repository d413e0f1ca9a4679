// y = x w^T on tensor cores: x and w are bf16 by rows, sums are float32.
//
// Every element of y is ONE chain of mma.16816 over ascending k, whatever the tile it falls into: that is what makes a
// row's result independent of the batch, and lets the host choose tiles by T. Rows of x and w come through a ring of
// STAGES pieces of BK columns in shared memory (cp.async); what lies outside the matrices is zero there and not written.
#pragma once
#include "kernels.cuh"

/** A block makes BM x BN elements of y with WM x WN warps. */
template <int BM_, int BN_, int BK_, int STAGES_, int WM_, int WN_, int BLOCKS_> struct Tile {
  static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WM = WM_, WN = WN_;
  static constexpr int BLOCKS = BLOCKS_;  // that should fit a multiprocessor
  static constexpr int THREADS = WM * WN * 32;
  static constexpr int LD = BK + 8;       // off powers of two: ldmatrix reads eight rows without bank conflicts
  static constexpr int STAGE = (BM + BN) * LD;
  static constexpr int SHARED_BYTES = STAGES * STAGE * (int)sizeof(bf16);
  static constexpr int M = BM / WM / 16, N = BN / WN / 16;  // 16 x 16 pieces of a warp
  static_assert(BM % (WM * 16) == 0 && BN % (WN * 16) == 0 && BK % 16 == 0, "warps take whole 16 x 16 pieces");
};

/** What a product reads and writes; K counts padded columns, a multiple of 8. */
template <class E> struct Product {
  E* y;
  const bf16 *x, *w;
  const E* bias;  // or nullptr
  int T, N, K, x_stride, accumulate;
  POINTERS(y, x, w, bias)
};

/** Starts copying rows [row, row + ROWS) of columns [k, k + BK) to shared memory. */
template <class Tile, int ROWS> DEVICE void load_rows(bf16* to, const bf16* from, int row, int rows, int k, int K, int stride) {
  constexpr int CHUNKS = Tile::BK / 8;
  static_assert(ROWS * CHUNKS % Tile::THREADS == 0, "every thread copies equally often");
#pragma unroll
  for (int i = 0; i < ROWS * CHUNKS / Tile::THREADS; i++) {
    const int chunk = threadIdx.x + i * Tile::THREADS, r = chunk / CHUNKS, c = chunk % CHUNKS * 8;
    const bool valid = row + r < rows && k + c < K;
    cp_async_16(to + r * Tile::LD + c, valid ? from + (int64_t)(row + r) * stride + k + c : from, valid);
  }
}

/** sums += one piece of BK columns: rows of x from `a`, rows of w from `b`, both of this warp. */
template <class Tile> DEVICE void multiply_piece(float (&sums)[Tile::M][2 * Tile::N][4], const bf16* a, const bf16* b) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < Tile::BK; k += 16) {
    uint32_t x[Tile::M][4], w[Tile::N][4];
#pragma unroll
    for (int i = 0; i < Tile::M; i++)
      ldmatrix_x4(x[i], a + (i * 16 + lane % 16) * Tile::LD + k + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < Tile::N; j++)
      ldmatrix_x4(w[j], b + (j * 16 + lane % 8 + lane / 16 * 8) * Tile::LD + k + lane / 8 % 2 * 8);
#pragma unroll
    for (int i = 0; i < Tile::M; i++)
#pragma unroll
      for (int j = 0; j < 2 * Tile::N; j++) mma_16816(sums[i][j], x[i], w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
  }
}

DEVICE void load_pair(float v[2], const float* p) { v[0] = p[0], v[1] = p[1]; }
DEVICE void load_pair(float v[2], const bf16* p) { v[0] = widen(p[0]), v[1] = widen(p[1]); }
DEVICE void store_pair(float* p, float a, float b, bool) { p[0] = a, p[1] = b; }
DEVICE void store_pair(bf16* p, float a, float b, bool even) {
  if (even) *reinterpret_cast<uint32_t*>(p) = to_bf16x2(a, b);
  else p[0] = to_bf16(a), p[1] = to_bf16(b);
}

/** y[t, n] and its right neighbour from their sums. */
template <class E> DEVICE void write_pair(const Product<E>& p, int t, int n, const float* sums) {
  if (t >= p.T || n >= p.N) return;
  E* y = p.y + (int64_t)t * p.N + n;
  float v[2] = {sums[0], sums[1]}, more[2];
  if (n + 1 < p.N) {
    if (p.bias) {
      load_pair(more, p.bias + n);
      v[0] += more[0], v[1] += more[1];
    }
    if (p.accumulate) {
      load_pair(more, y);
      v[0] += more[0], v[1] += more[1];
    }
    store_pair(y, v[0], v[1], (uintptr_t)y % 4 == 0);
  } else {
    if (p.bias) v[0] += widen(p.bias[n]);
    if (p.accumulate) v[0] += widen(*y);
    *y = narrow<E>(v[0]);
  }
}

/** The grid is (tiles of rows, tiles of columns) of y. */
template <class Tile, class E> KERNEL(Tile::THREADS, Tile::BLOCKS) k_gemm(Product<E> p) {
  DYNAMIC_SHARED(bf16, ring);
  const int row = blockIdx.x * Tile::BM, column = blockIdx.y * Tile::BN;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / Tile::WN * (Tile::BM / Tile::WM), warp_column = warp % Tile::WN * (Tile::BN / Tile::WN);
  const int pieces = (p.K + Tile::BK - 1) / Tile::BK;
  auto load = [&](int piece) {
    bf16* to = ring + piece % Tile::STAGES * Tile::STAGE;
    if (piece < pieces) {
      load_rows<Tile, Tile::BM>(to, p.x, row, p.T, piece * Tile::BK, p.K, p.x_stride);
      load_rows<Tile, Tile::BN>(to + Tile::BM * Tile::LD, p.w, column, p.N, piece * Tile::BK, p.K, p.K);
    }
    cp_async_commit();  // also behind the last piece, so that the count of groups stays right
  };
  float sums[Tile::M][2 * Tile::N][4];
#pragma unroll
  for (int i = 0; i < Tile::M; i++)
#pragma unroll
    for (int j = 0; j < 2 * Tile::N; j++)
#pragma unroll
      for (int k = 0; k < 4; k++) sums[i][j][k] = 0;
#pragma unroll
  for (int piece = 0; piece < Tile::STAGES - 1; piece++) load(piece);
  for (int piece = 0; piece < pieces; piece++) {
    cp_async_wait<Tile::STAGES - 2>();
    __syncthreads();  // this piece has come for all, and all are done with the one whose place is filled next
    load(piece + Tile::STAGES - 1);
    const bf16* a = ring + piece % Tile::STAGES * Tile::STAGE;
    multiply_piece<Tile>(sums, a + warp_row * Tile::LD, a + (Tile::BM + warp_column) * Tile::LD);
  }
#pragma unroll
  for (int i = 0; i < Tile::M; i++)
#pragma unroll
    for (int j = 0; j < 2 * Tile::N; j++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        write_pair(p, row + warp_row + i * 16 + half * 8 + lane / 4, column + warp_column + j * 8 + lane % 4 * 2,
            sums[i][j] + 2 * half);
}
