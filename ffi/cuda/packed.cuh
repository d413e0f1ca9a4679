// The layout of packed matrices on a GPU: row-major in the weight type, rows of a multiple of 16 bytes, zeros at their ends.
#pragma once
#include "kernels.cuh"

/** Elements from one row to the next. */
template <class B> HOST_DEVICE int packed_stride(int K) {
  constexpr int unit = 16 / (int)sizeof(B);
  return (K + unit - 1) / unit * unit;
}
