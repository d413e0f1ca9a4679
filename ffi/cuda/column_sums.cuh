// Sums of columns over rows, added to what is there: t ascending, in one order that depends on the number of rows only.
//
// A block takes 32 columns; each of its 8 warps sums an eighth of the rows one after another, and the eighths are added.
#pragma once
#include "kernels.cuh"

constexpr int COLUMN_WARPS = 8, COLUMN_THREADS = 32 * COLUMN_WARPS;

/** total[c] += sum over r of x[r * stride + c], c < columns */
template <class T, class C> DEVICE void sum_columns(C* total, const T* x, int64_t rows, int64_t stride, int columns) {
  SHARED(C, parts, COLUMN_THREADS);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 32 + lane;
  const int64_t each = (rows + COLUMN_WARPS - 1) / COLUMN_WARPS, begin = warp * each;
  const int64_t end = begin + each < rows ? begin + each : rows;
  C sum = 0;
  if (column < columns)
#pragma unroll 8
    for (int64_t r = begin; r < end; r++) sum += widen(x[r * stride + column]);
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (warp > 0 || column >= columns) return;
  for (int w = 1; w < COLUMN_WARPS; w++) sum += parts[w * 32 + lane];
  total[column] += sum;
}
