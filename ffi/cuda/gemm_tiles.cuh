// Which tiles a product on tensor cores is cut into (gemm.cuh), by T and N.
//
// Up to 64 rows a product takes as long as its weights take to read, and what counts is how many bytes are on their way.
// An H200 reads 4.3 TB/s at 0.6 to 0.8 us of latency: 2.6 to 3.4 MB must be under way, 20 to 26 KB on each of 132
// multiprocessors. A Row tile has (STAGES - 1) pieces of 32 rows x 128 columns under way in a block: 48 KB in bf16, 36 KB in
// q8, and 24 KB in q4 (6 pieces of 256 columns). By N, columns of 7B, with 2 blocks on a multiprocessor:
//   4096 (output, down)    128 blocks, 1 on each of 97 % of the multiprocessors: 48 KB under way
//   12288 (q, k, v)        384 blocks, 22016 (gate, up) 688, 32000 (head) 1000: 96 KB under way
// The other limit is the chain: K / 16 products of mma.16816, each about 33 cycles after the one before it. That is
// 4.8 us at 1.75 GHz for K = 4096, 13 us for K = 11008; the weights of N = 4096 take 7.8 and 21 us in bf16, but in q8 4.1
// and 11, in q4 2.2 and 5.9. There, one block a multiprocessor, the chain decides; where more blocks share a multiprocessor it
// hides. So that a chain waits for nothing else, warps of their own do the copying up to 32 rows.
// This is arithmetic: no chip has measured it yet. Shared memory of a block stays below 99 KB, which all GPUs from sm_80 on have.
#pragma once
#include "gemm.cuh"

/** By rows of y; BK and STAGES of short batches fit what comes through the ring. */
template <template <class> class Weights> struct Tiles {
  typedef Tile<16, 32, 128, 7, 1, 2, 2, 2> Row;
  typedef Tile<32, 32, 128, 5, 1, 2, 2, 2> Short;
  typedef Tile<64, 32, 64, 7, 2, 2, 2> Narrow;
  typedef Tile<64, 64, 64, 4, 2, 2, 2> Square;
  typedef Tile<128, 128, 32, 4, 2, 4, 2> Large;
};

template <template <class> class Weights, class T, class E> int32_t multiply_tiles(koala_device* dev, const Product<E>& p) {
  typedef Weights<T> Rows;
  constexpr int bytes = T::STAGES * STAGE_BYTES<T, Rows>;
  static_assert(bytes <= 99 * 1024, "more shared memory than every GPU has");
  REQUIRE_CUDA("matmul",
      cudaFuncSetAttribute(k_gemm<T, Rows, E>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  LAUNCH((k_gemm<T, Rows, E>), dim3(blocks_of(p.T, T::BM), blocks_of(p.N, T::BN)), T::THREADS, bytes, dev->stream, p);
  return finish(dev);
}

/** The product in tiles that suit its size. */
template <template <class> class Weights, class E> int32_t multiply_in_tiles(koala_device* dev, const Product<E>& p) {
  typedef Tiles<Weights> By;
  if (p.T <= By::Row::BM) return multiply_tiles<Weights, typename By::Row>(dev, p);
  if (p.T <= By::Short::BM) return multiply_tiles<Weights, typename By::Short>(dev, p);
  if (p.T <= By::Narrow::BM) return multiply_tiles<Weights, typename By::Narrow>(dev, p);
  const unsigned large = blocks_of(p.T, By::Large::BM) * blocks_of(p.N, By::Large::BN);
  if (large < 2 * (unsigned)dev->processors) return multiply_tiles<Weights, typename By::Square>(dev, p);
  return multiply_tiles<Weights, typename By::Large>(dev, p);
}
