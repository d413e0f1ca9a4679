// y = x w^T on tensor cores: x and w are bf16 by rows, sums are float32.
//
// Every element of y is ONE chain of mma.16816 over ascending k, whatever the tile it falls into: that is what makes a
// row's result independent of the batch, and lets the host choose tiles by T. Rows of x and w come through a ring of
// STAGES pieces of BK columns in shared memory (cp.async). Columns behind K are zero there; rows outside of the matrices
// are not copied, and what is made of them is not written: a row of a fragment touches its own row of sums alone.
#pragma once
#include "kernels.cuh"

/** A block makes BM x BN elements of y with WM x WN warps. LOADERS more warps copy, so that those that multiply do nothing
 *  else; without, all copy. */
template <int BM_, int BN_, int BK_, int STAGES_, int WM_, int WN_, int BLOCKS_, int LOADERS_ = 0> struct Tile {
  static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WM = WM_, WN = WN_, LOADERS = LOADERS_;
  static constexpr int BLOCKS = BLOCKS_;  // that should fit a multiprocessor
  static constexpr int THREADS = (WM * WN + LOADERS) * 32, COPYING = (LOADERS ? LOADERS : WM * WN) * 32;
  static constexpr int LD = BK + 8;       // off powers of two: ldmatrix reads eight rows without bank conflicts
  static constexpr int X_BYTES = BM * LD * (int)sizeof(bf16);
  static constexpr int M = BM / WM / 16, N = BN / WN / 16;  // 16 x 16 pieces of a warp
  static_assert(BM % (WM * 16) == 0 && BN % (WN * 16) == 0 && BK % 32 == 0, "warps take whole 16 x 16 pieces");
};

/** What a product reads and writes; K counts padded columns, a multiple of 8. */
template <class E> struct Product {
  E* y;
  const bf16* x;
  const void* w;  // what Weights says
  const E* bias;  // or nullptr
  int T, N, K, x_stride, accumulate;
  POINTERS(y, x, w, bias)
};

/** Starts copying rows [row, row + ROWS) of columns [k, k + BK) to shared memory, by the thread `thread` of those that copy. */
template <class Tile, int ROWS>
DEVICE void load_rows(bf16* to, const bf16* from, int row, int rows, int k, int K, int stride, int thread) {
  constexpr int CHUNKS = Tile::BK / 8;
  static_assert(ROWS * CHUNKS % Tile::COPYING == 0, "every thread copies equally often");
#pragma unroll
  for (int i = 0; i < ROWS * CHUNKS / Tile::COPYING; i++) {
    const int chunk = thread + i * Tile::COPYING, r = chunk / CHUNKS, c = chunk % CHUNKS * 8;
    if (row + r >= rows) continue;
    const bool valid = k + c < K;
    cp_async_16(to + r * Tile::LD + c, valid ? from + (int64_t)(row + r) * stride + k + c : from, valid);
  }
}

/** Rows of w as bf16. Of 32 columns, `Fragments` holds what a warp needs; `get` makes the right operands of 16 rows. */
template <class Tile> struct StoredWeights {
  static constexpr int BYTES = Tile::BN * Tile::LD * (int)sizeof(bf16);
  template <class E> DEVICE static void load(unsigned char* to, const Product<E>& p, int column, int k, int thread) {
    load_rows<Tile, Tile::BN>(reinterpret_cast<bf16*>(to), static_cast<const bf16*>(p.w), column, p.N, k, p.K, p.K, thread);
  }
  struct Fragments {
    const bf16* rows;
    DEVICE Fragments(const unsigned char* stage, int column, int k)
        : rows(reinterpret_cast<const bf16*>(stage) + column * Tile::LD + k) {}
    DEVICE void get(uint32_t (&w)[4], int j, int half) const {
      const int lane = threadIdx.x % 32;
      ldmatrix_x4(w, rows + (j * 16 + lane % 8 + lane / 16 * 8) * Tile::LD + half * 16 + lane / 8 % 2 * 8);
    }
  };
};

/** sums += one piece of BK columns: rows of x from `a`, of this warp; rows of w from `b`, of which the warp has those
 *  from `column` on. */
template <class Tile, class Weights>
DEVICE void multiply_piece(float (&sums)[Tile::M][2 * Tile::N][4], const bf16* a, const unsigned char* b, int column) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < Tile::BK; k += 32) {
    const typename Weights::Fragments fragments(b, column, k);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint32_t x[Tile::M][4], w[Tile::N][4];
#pragma unroll
      for (int i = 0; i < Tile::M; i++)
        ldmatrix_x4(x[i], a + (i * 16 + lane % 16) * Tile::LD + k + half * 16 + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < Tile::N; j++) fragments.get(w[j], j, half);
#pragma unroll
      for (int i = 0; i < Tile::M; i++)
#pragma unroll
        for (int j = 0; j < 2 * Tile::N; j++) mma_16816(sums[i][j], x[i], w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
    }
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

template <class Tile, class Weights> constexpr int STAGE_BYTES = Tile::X_BYTES + Weights::BYTES;

/** The grid is (tiles of rows, tiles of columns) of y. */
template <class Tile, class Weights, class E> KERNEL(Tile::THREADS, Tile::BLOCKS) k_gemm(Product<E> p) {
  DYNAMIC_SHARED(unsigned char, ring);
  constexpr int STAGE = STAGE_BYTES<Tile, Weights>;
  const int row = blockIdx.x * Tile::BM, column = blockIdx.y * Tile::BN;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / Tile::WN * (Tile::BM / Tile::WM), warp_column = warp % Tile::WN * (Tile::BN / Tile::WN);
  const int pieces = (p.K + Tile::BK - 1) / Tile::BK;
  const int thread = (int)threadIdx.x - (Tile::LOADERS ? Tile::WM * Tile::WN * 32 : 0);  // of those that copy
  auto load = [&](int piece) {
    unsigned char* to = ring + piece % Tile::STAGES * STAGE;
    if (piece < pieces && thread >= 0) {
      load_rows<Tile, Tile::BM>(reinterpret_cast<bf16*>(to), p.x, row, p.T, piece * Tile::BK, p.K, p.x_stride, thread);
      Weights::load(to + Tile::X_BYTES, p, column, piece * Tile::BK, thread);
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
#pragma unroll 1
  for (int piece = 0; piece < Tile::STAGES - 1; piece++) load(piece);
  for (int piece = 0; piece < pieces; piece++) {
    cp_async_wait<Tile::STAGES - 2>();
    __syncthreads();  // this piece has come for all, and all are done with the one whose place is filled next
    load(piece + Tile::STAGES - 1);
    if (warp >= Tile::WM * Tile::WN) continue;
    const unsigned char* from = ring + piece % Tile::STAGES * STAGE;
    multiply_piece<Tile, Weights>(sums, reinterpret_cast<const bf16*>(from) + warp_row * Tile::LD, from + Tile::X_BYTES,
        warp_column);
  }
  if (warp >= Tile::WM * Tile::WN) return;
#pragma unroll
  for (int i = 0; i < Tile::M; i++)
#pragma unroll
    for (int j = 0; j < 2 * Tile::N; j++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        write_pair(p, row + warp_row + i * 16 + half * 8 + lane / 4, column + warp_column + j * 8 + lane % 4 * 2,
            sums[i][j] + 2 * half);
}
