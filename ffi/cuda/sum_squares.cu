// Sum of squares in double, with the bits of ffi/cpu/elementwise.cc: pieces of 65536 elements, each summed in 32 lanes by
// position, the lanes added one after another, then the pieces.
//
// A warp sums a piece: its lanes are the lanes. One block adds the pieces: all threads fetch 1024 sums, thread 0 adds them.
// budget k_squares: registers 32, shared 0
// budget k_add_pieces: registers 32, shared 8192
#include "kernels.cuh"

namespace {

constexpr int64_t PIECE = 65536;
constexpr int WARPS = 4;      // pieces of one block
constexpr int FETCHED = 1024;  // sums that wait in shared memory

template <class T>
KERNEL(32 * WARPS) k_squares(double* pieces, const T* x, int64_t n, int64_t count) {
  const int lane = threadIdx.x % 32;
  const int64_t piece = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  if (piece >= count) return;
  const int64_t begin = piece * PIECE, end = begin + PIECE < n ? begin + PIECE : n;
  double sum = 0;
#pragma unroll 8
  for (int64_t i = begin + lane; i < end; i += 32) {
    const double value = (double)widen(x[i]);
    sum += value * value;  // of float32 or less, exact before it is added
  }
  double total = 0;
  for (int i = 0; i < 32; i++) total += shfl(sum, i);
  if (lane == 0) pieces[piece] = total;
}

KERNEL(256) k_add_pieces(double* sum, const double* pieces, int64_t count) {
  SHARED(double, fetched, FETCHED);
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += FETCHED) {
    const int some = count - begin < FETCHED ? (int)(count - begin) : FETCHED;
    for (int i = threadIdx.x; i < some; i += blockDim.x) fetched[i] = pieces[begin + i];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int i = 0; i < some; i++) total += fetched[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace

int32_t koala_sum_squares(koala_device* dev, double* sum, const void* x, double n, int32_t dtype) {
  if (check_sum_squares(dev, sum, x, n, dtype)) return -1;
  const int64_t elements = (int64_t)n, count = (elements + PIECE - 1) / PIECE;
  if (begin(dev, "koala_sum_squares", (count + 1) * sizeof(double))) return -1;
  double *total = (double*)dev->scratch, *pieces = total + 1;
  if (count > 0) with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) T;
    LAUNCH((k_squares<T>), blocks_of(count, WARPS), 32 * WARPS, 0, dev->stream, pieces, (const T*)x, elements, count);
    return 0;
  });
  LAUNCH(k_add_pieces, 1, 256, 0, dev->stream, total, pieces, count);
  if (finish(dev)) return -1;
  return copy(dev, sum, total, sizeof(double));  // waits where sum is in host memory
}
