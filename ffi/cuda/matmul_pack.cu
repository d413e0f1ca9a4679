// Packs matrices from row-major weights in host or device memory, as they are or transposed.
//
// Weights in host memory (a mapped file) pass through scratch, some rows at a time.
// budget k_pack: registers 48, shared 0
// budget k_pack_transposed: registers 40, shared 8448
#include "packed.cuh"
#include "quantised_pack.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int EACH = 8;
constexpr int SIDE = 32;  // of a block of k_pack_transposed
constexpr size_t PIECE = 32 << 20;  // bytes of host memory on their way at once

/** Rows of K elements, zeros up to `stride`; the grid is (pieces of a row, rows). */
template <class B, class S> KERNEL(THREADS) k_pack(B* packed, const S* weight, int R, int K, int stride, bool wide) {
  const int k = (blockIdx.x * THREADS + threadIdx.x) * EACH;
  if (k >= stride) return;
  for (int r = blockIdx.y; r < R; r += gridDim.y) {
    compute_t<S> v[EACH];
    load_some(v, weight + (int64_t)r * K, k, K, wide);
    store_some(packed + (int64_t)r * stride, v, k, stride, true);
  }
}

/** packed[k, first + r] = weight[r, k]; columns [first + R, end) become 0. The grid is (blocks of k, blocks of r). */
template <class B, class S>
KERNEL(THREADS) k_pack_transposed(B* packed, const S* weight, int first, int R, int end, int K, int stride) {
  typedef compute_t<S> C;
  SHARED(C, block, SIDE * (SIDE + 1));
  const int k0 = blockIdx.x * SIDE, r0 = blockIdx.y * SIDE, x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
  for (int i = y; i < SIDE; i += THREADS / SIDE)
    block[i * (SIDE + 1) + x] = r0 + i < R && k0 + x < K ? widen(weight[(int64_t)(r0 + i) * K + k0 + x]) : C(0);
  __syncthreads();
  for (int i = y; i < SIDE; i += THREADS / SIDE)
    if (k0 + i < K && first + r0 + x < end)
      packed[(int64_t)(k0 + i) * stride + first + r0 + x] = narrow<B>(block[x * (SIDE + 1) + i]);
}

/** Calls f(rows on the device, first row, rows) until all R rows of `bytes` bytes have been there. */
template <class F> int32_t over_rows(koala_device* dev, const char* symbol, const void* weight, int R, size_t bytes, F&& f) {
  if (is_device_memory(weight)) {
    if (begin(dev, symbol)) return -1;
    f(weight, 0, R);
    return finish(dev);
  }
  const int step = (int)(PIECE / bytes < 1 ? 1 : PIECE / bytes < (size_t)R ? PIECE / bytes : R);
  if (begin(dev, symbol, step * bytes)) return -1;
  for (int row = 0; row < R; row += step) {
    const int rows = R - row < step ? R - row : step;
    if (copy(dev, dev->scratch, (const char*)weight + row * bytes, rows * bytes)) return -1;
    f((const void*)dev->scratch, row, rows);
  }
  return finish(dev);
}

/** f(null element of type stype) */
template <class F> int32_t with_source_type(int32_t stype, F&& f) {
  if (stype == KOALA_F16) return f(f16{});
  return with_type(stype, f);
}

}  // namespace

int32_t koala_matmul_pack_bytes(koala_device* dev, double* bytes, int32_t N, int32_t K, int32_t wtype) {
  if (check_matmul_pack_bytes(dev, bytes, N, K, wtype)) return -1;
  if (is_quantised(wtype)) {
    *bytes = wtype == KOALA_Q8 ? quantised_bytes<8>(N, K) : quantised_bytes<4>(N, K);
    return 0;
  }
  return with_type(wtype, [&](auto element) -> int32_t {
    typedef decltype(element) B;
    *bytes = (double)N * packed_stride<B>(K) * sizeof(B);
    return 0;
  });
}

int32_t koala_matmul_pack(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K, int32_t row,
    int32_t R, int32_t wtype, int32_t stype) {
  if (check_matmul_pack(dev, packed, weight, N, K, row, R, wtype, stype)) return -1;
  if (R == 0) return 0;
  if (is_quantised(wtype))
    return with_source_type(stype, [&](auto source) -> int32_t {
      typedef decltype(source) S;
      return over_rows(dev, "koala_matmul_pack", weight, R, (size_t)K * sizeof(S), [&](const void* at, int first, int rows) {
        if (wtype == KOALA_Q8) quantise_rows<8>(dev, packed, (const S*)at, N, K, row + first, rows);
        else quantise_rows<4>(dev, packed, (const S*)at, N, K, row + first, rows);
      });
    });
  return with_type(wtype, [&](auto target) -> int32_t {
    typedef decltype(target) B;
    return with_source_type(stype, [&](auto source) -> int32_t {
      typedef decltype(source) S;
      const int stride = packed_stride<B>(K);
      return over_rows(dev, "koala_matmul_pack", weight, R, (size_t)K * sizeof(S), [&](const void* at, int first, int rows) {
        LAUNCH((k_pack<B, S>), dim3(blocks_of(stride, THREADS * EACH), rows < 65535 ? rows : 65535), THREADS, 0, dev->stream,
            (B*)packed + (int64_t)(row + first) * stride, (const S*)at, rows, K, stride, is_aligned(at) && K % EACH == 0);
      });
    });
  });
}

int32_t koala_matmul_pack_transposed(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K,
    int32_t wtype, int32_t stype) {
  if (check_matmul_pack_transposed(dev, packed, weight, N, K, wtype, stype)) return -1;
  return with_type(wtype, [&](auto target) -> int32_t {
    typedef decltype(target) B;
    return with_source_type(stype, [&](auto source) -> int32_t {
      typedef decltype(source) S;
      const int stride = packed_stride<B>(N);
      return over_rows(dev, "koala_matmul_pack_transposed", weight, N, (size_t)K * sizeof(S),
          [&](const void* at, int first, int rows) {
            const int end = first + rows == N ? stride : first + rows;  // the last rows also write the zeros at the end
            LAUNCH((k_pack_transposed<B, S>), dim3(blocks_of(K, SIDE), blocks_of(end - first, SIDE)), THREADS, 0,
                dev->stream, (B*)packed, (const S*)at, first, rows, end, K, stride);
          });
    });
  });
}
