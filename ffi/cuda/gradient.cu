// Gradients of matrix products: dw = dy^T x on tensor cores (bf16) or lane by lane (float32), and db. dx is koala_matmul.
//
// A block makes a tile of dw; tokens are summed in ascending order in registers, and the sum is added to dw once. No tile
// is made by two blocks, so nothing is atomic and the order is fixed.
// Tensor cores: tiles of 128 x 128, 32 tokens a step, three steps on their way (cp.async); 8 warps of 64 x 32. Both
// operands lie token by token, so ldmatrix transposes both. Rows that cannot be read 16 bytes at a time, or are not bf16,
// are first copied to scratch, rounded and padded. The tiles take 52224 bytes of shared memory besides the budget.
// Where cuBLASLt is found, large bf16 products are its own (cublaslt_device.cuh).
// budget k_weight_gradient_bf16: registers 128, shared 0
// budget k_weight_gradient: registers 64, shared 16384
// budget k_rounded_rows: registers 24, shared 0
// budget k_bias_gradient: registers 32, shared 2048
#include "column_sums.cuh"
#include "cublaslt_device.cuh"

namespace {

// ---- tensor cores ----
constexpr int TILE = 128, STEP = 32, STAGES = 3, THREADS = 256;
constexpr int LINE = TILE + 8;  // elements from a token of a tile to the next: rows of ldmatrix lie in different banks
constexpr int STAGE = 2 * STEP * LINE;
constexpr int SHARED_BYTES = STAGES * STAGE * (int)sizeof(bf16);

/** A matrix [tokens, columns] of bf16 whose rows lie `line` elements apart, a multiple of 8; zeros behind the columns. */
struct Operand {
  const bf16* data;
  int line;
  POINTERS(data)
};

/** Starts copying STEP tokens of TILE columns. */
DEVICE void fetch(bf16* tile, Operand from, int token, int tokens, int column) {
#pragma unroll
  for (int i = 0; i < STEP * TILE / 8 / THREADS; i++) {
    const int group = threadIdx.x + i * THREADS, row = group / (TILE / 8), c = group % (TILE / 8) * 8;
    const bool valid = token + row < tokens && column + c < from.line;
    cp_async_16(tile + row * LINE + c, from.data + (valid ? (int64_t)(token + row) * from.line + column + c : 0), valid);
  }
}

KERNEL(THREADS) k_weight_gradient_bf16(float* dw, Operand dy, Operand x, int tokens, int N, int K) {
  DYNAMIC_SHARED(bf16, tiles);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int n0 = blockIdx.y * TILE, k0 = blockIdx.x * TILE, wn = warp % 2 * 64, wk = warp / 2 * 32;
  float sums[4][4][4];
#pragma unroll
  for (int i = 0; i < 64; i++) sums[i / 16][i / 4 % 4][i % 4] = 0;
  const int steps = (tokens + STEP - 1) / STEP;
  auto start = [&](int step) {
    bf16* left = tiles + step % STAGES * STAGE;
    if (step < steps) {
      fetch(left, dy, step * STEP, tokens, n0);
      fetch(left + STAGE / 2, x, step * STEP, tokens, k0);
    }
    cp_async_commit();  // an empty group, too: the wait counts groups
  };
  for (int step = 0; step < STAGES - 1; step++) start(step);
  for (int step = 0; step < steps; step++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    start(step + STAGES - 1);
    const bf16 *left = tiles + step % STAGES * STAGE, *right = left + STAGE / 2;
#pragma unroll
    for (int t = 0; t < STEP; t += 16) {
      uint32_t a[4][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        ldmatrix_x4_trans(a[i], left + (t + lane / 16 * 8 + lane % 8) * LINE + wn + i * 16 + lane / 8 % 2 * 8);
#pragma unroll
      for (int j = 0; j < 2; j++)
        ldmatrix_x4_trans(b[j], right + (t + lane % 16) * LINE + wk + j * 16 + lane / 16 * 8);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma_16816(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int n = n0 + wn + i * 16 + lane / 4 + e / 2 * 8, k = k0 + wk + j * 8 + lane % 4 * 2 + e % 2;
        if (n < N && k < K) dw[(int64_t)n * K + k] += sums[i][j][e];
      }
}

/** to [tokens, line] = from [tokens, columns] rounded to bf16, zeros behind the columns; a thread takes eight. */
template <class T>
KERNEL(THREADS) k_rounded_rows(bf16* to, const T* from, int64_t groups, int columns, int line) {
  const int64_t group = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (group >= groups) return;
  const int c = (int)(group % (line / 8)) * 8;
  const int64_t row = group / (line / 8);
  float v[8];
  load_some<T>(v, from + row * columns, c, columns, false);
  store_8(to + row * line + c, v);
}

/** The operand as it is, or its copy at *scratch, which then moves on. */
template <class T> Operand operand(koala_device* dev, char** scratch, const T* from, int tokens, int columns) {
  if (Same<T, bf16>::value && is_aligned(from) && columns % 8 == 0) return {(const bf16*)from, columns};
  const Operand rounded = {(bf16*)*scratch, (columns + 7) / 8 * 8};
  const int64_t groups = (int64_t)tokens * rounded.line / 8;
  LAUNCH((k_rounded_rows<T>), blocks_of(groups, THREADS), THREADS, 0, dev->stream, (bf16*)*scratch, from, groups, columns,
      rounded.line);
  *scratch += groups * 16;
  return rounded;
}

size_t copy_bytes(int tokens, int columns) { return (size_t)tokens * ((columns + 7) / 8) * 16; }

template <class T>
int32_t on_tensor_cores(koala_device* dev, float* dw, const T* dy, const T* x, int tokens, int N, int K) {
  const bool cublaslt = cublaslt_takes(dev, tokens, N, K) && is_aligned(dw);
  const size_t copies = (copy_bytes(tokens, N) + copy_bytes(tokens, K) + 255) / 256 * 256;
  if (begin(dev, "koala_matmul_weight_gradient", copies + (cublaslt ? LT_WORKSPACE : 0))) return -1;
  char* scratch = (char*)dev->scratch;
  const Operand left = operand(dev, &scratch, dy, tokens, N), right = operand(dev, &scratch, x, tokens, K);
  bool done = false;
  const LtKey key = {LT_WEIGHTS, tokens, N, K, right.line, left.line, LT_R_32F, 1, 0};
  if (cublaslt && cublaslt_multiply(dev, {key, dw, right.data, left.data, nullptr}, (char*)dev->scratch + copies, &done))
    return -1;
  if (done) return finish(dev);
  REQUIRE_CUDA("matmul_weight_gradient", cudaFuncSetAttribute(k_weight_gradient_bf16,
      cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  LAUNCH(k_weight_gradient_bf16, dim3(blocks_of(K, TILE), blocks_of(N, TILE)), THREADS, SHARED_BYTES, dev->stream, dw,
      left, right, tokens, N, K);
  return finish(dev);
}

// ---- lane by lane: tiles of 64 x 64, a thread makes 4 x 4 ----
constexpr int SMALL = 64, DEPTH = 16;

/** x rounded to element type B. */
template <class B, class C> DEVICE C rounded(C x) { return (C)widen(narrow<B>(x)); }

template <class T, class B>
KERNEL(THREADS) k_weight_gradient(compute_t<T>* dw, const T* dy, const T* x, int tokens, int N, int K) {
  typedef compute_t<T> C;
  SHARED(C, left, DEPTH * SMALL);
  SHARED(C, right, DEPTH * SMALL);
  const int n0 = blockIdx.y * SMALL, k0 = blockIdx.x * SMALL, row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  C sums[4][4];
#pragma unroll
  for (int i = 0; i < 16; i++) sums[i / 4][i % 4] = 0;
  for (int first = 0; first < tokens; first += DEPTH) {
    for (int i = threadIdx.x; i < DEPTH * SMALL; i += THREADS) {
      const int c = i % SMALL;
      const int64_t t = first + i / SMALL;
      left[i] = t < tokens && n0 + c < N ? rounded<B, C>(widen(dy[t * N + n0 + c])) : C(0);
      right[i] = t < tokens && k0 + c < K ? rounded<B, C>(widen(x[t * K + k0 + c])) : C(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int t = 0; t < DEPTH; t++)
#pragma unroll
      for (int i = 0; i < 16; i++)
        sums[i / 4][i % 4] += left[t * SMALL + row + i / 4] * right[t * SMALL + column + i % 4];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const int n = n0 + row + i / 4, k = k0 + column + i % 4;
    if (n < N && k < K) dw[(int64_t)n * K + k] += sums[i / 4][i % 4];
  }
}

template <class B, class T>
int32_t lane_by_lane(koala_device* dev, void* dw, const T* dy, const T* x, int tokens, int N, int K) {
  if (begin(dev, "koala_matmul_weight_gradient")) return -1;
  LAUNCH((k_weight_gradient<T, B>), dim3(blocks_of(K, SMALL), blocks_of(N, SMALL)), THREADS, 0, dev->stream,
      (compute_t<T>*)dw, dy, x, tokens, N, K);
  return finish(dev);
}

template <class T, class C> KERNEL(COLUMN_THREADS) k_bias_gradient(C* db, const T* dy, int tokens, int N) {
  sum_columns(db, dy, tokens, N, N);
}

}  // namespace

int32_t koala_matmul_weight_gradient(koala_device* dev, void* dw, const void* dy, const void* x, int32_t T, int32_t N,
    int32_t K, int32_t ctype, int32_t dtype) {
  if (check_matmul_weight_gradient(dev, dw, dy, x, T, N, K, ctype, dtype)) return -1;
  REQUIRE(ctype != KOALA_F64 || dtype == KOALA_F64,
      "koala_matmul_weight_gradient: products in f64 need f64 activations, and these are %s.", type_name(dtype));
  if (T == 0) return 0;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    const E *left = (const E*)dy, *right = (const E*)x;
    if (ctype == KOALA_F32) return lane_by_lane<float>(dev, dw, left, right, T, N, K);
    if constexpr (Same<E, double>::value)
      return ctype == KOALA_F64 ? lane_by_lane<double>(dev, dw, left, right, T, N, K)
                                : lane_by_lane<bf16>(dev, dw, left, right, T, N, K);
    else return on_tensor_cores(dev, (float*)dw, left, right, T, N, K);
  });
}

int32_t koala_bias_gradient(koala_device* dev, void* db, const void* dy, int32_t T, int32_t N, int32_t dtype) {
  if (check_bias_gradient(dev, db, dy, T, N, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_bias_gradient")) return -1;
  with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_bias_gradient<E, compute_t<E>>), blocks_of(N, 32), COLUMN_THREADS, 0, dev->stream, (compute_t<E>*)db,
        (const E*)dy, T, N);
    return 0;
  });
  return finish(dev);
}
