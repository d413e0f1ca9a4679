// y = x w^T without tensor cores, for float32 and float64 sums: reference precision, not speed.
//
// Every element of y is one chain of products in ascending k, whatever the tile: a row's result does not depend on T.
#pragma once
#include "kernels.cuh"

constexpr int SIMT_THREADS = 256;
constexpr int SIMT_K = 16;   // columns in shared memory at a time
constexpr int SIMT_BN = 64;  // columns of y of a block

template <class E, class B> struct SimtProduct {
  E* y;
  const E* x;
  const B* w;
  const E* bias;  // or nullptr
  int T, N, K, w_stride, accumulate;
  POINTERS(y, x, w, bias)
};

/** An element of x as it is multiplied: rounded to bf16 first where the weights are. */
template <class B, class E> DEVICE compute_t<E> operand(E x) {
  if constexpr (Same<B, bf16>::value) return widen(to_bf16(widen(x)));
  else return widen(x);
}

/** A block makes 16 * ROWS x 64 elements of y, a thread ROWS x 4: rows 16 apart, columns 16 apart. */
template <int ROWS, class E, class B> KERNEL(SIMT_THREADS) k_simt_gemm(SimtProduct<E, B> p) {
  typedef compute_t<E> C;
  constexpr int BM = 16 * ROWS;
  SHARED(C, a, SIMT_K * (BM + 1));
  SHARED(C, b, SIMT_K * (SIMT_BN + 1));
  const int row = blockIdx.x * BM, column = blockIdx.y * SIMT_BN;
  const int r = threadIdx.x / 16, c = threadIdx.x % 16;
  C sums[ROWS][4] = {};
  for (int k = 0; k < p.K; k += SIMT_K) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int t = row + r + 16 * i;
      a[c * (BM + 1) + r + 16 * i] = t < p.T && k + c < p.K ? operand<B>(p.x[(int64_t)t * p.K + k + c]) : C(0);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int n = column + r + 16 * j;
      b[c * (SIMT_BN + 1) + r + 16 * j] =
          n < p.N && k + c < p.K ? C(widen(p.w[(int64_t)n * p.w_stride + k + c])) : C(0);
    }
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < SIMT_K; kk++)
#pragma unroll
      for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] += a[kk * (BM + 1) + r + 16 * i] * b[kk * (SIMT_BN + 1) + c + 16 * j];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int t = row + r + 16 * i, n = column + c + 16 * j;
      if (t >= p.T || n >= p.N) continue;
      E* y = p.y + (int64_t)t * p.N + n;
      C v = sums[i][j];
      if (p.bias) v += widen(p.bias[n]);
      if (p.accumulate) v += widen(*y);
      *y = narrow<E>(v);
    }
}
