// Matrix products y = x w^T (+ bias) (+ y).
//
// A packed matrix is row-major in the weight type; a row takes a multiple of 16 bytes and ends in zeros (matmul_pack.cu);
// int8 and int4 are in quantised.cuh. These and bf16 weights are multiplied on tensor cores, in tiles chosen by T and N;
// float32 and float64 products without. All sum every element in one order, so a row's bits depend neither on T nor on its
// neighbours. Where cuBLASLt is found, large bf16 products are its own, and their bits may depend on T; KOALA_GEMM=own keeps
// to ours (cublaslt_device.cuh).
// budget k_operand: registers 32, shared 0
// budget k_gemm: registers 144, shared 0
// budget k_simt_gemm: registers 96, shared 16640
#include "cublaslt_device.cuh"
#include "gemm_tiles.cuh"
#include "packed.cuh"
#include "quantised.cuh"
#include "simt_gemm.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int EACH = 8;

/** The rows of x in bf16, K columns and zeros up to `stride`; the grid is (rows, pieces of a row). */
template <class E> KERNEL(THREADS) k_operand(bf16* to, const E* x, int K, int stride, bool wide) {
  const int k = (blockIdx.y * THREADS + threadIdx.x) * EACH;
  if (k >= stride) return;
  compute_t<E> v[EACH];
  load_some(v, x + (int64_t)blockIdx.x * K, k, K, wide);
  store_some(to + (int64_t)blockIdx.x * stride, v, k, stride, true);
}

/** *done is false where cuBLASLt has no algorithm for it. */
template <class E> int32_t multiply_cublaslt(koala_device* dev, const Product<E>& p, char* workspace, bool* done) {
  const int type = Same<E, bf16>::value ? LT_R_16BF : LT_R_32F;
  const LtKey key = {LT_FORWARD, p.T, p.N, p.K, p.K, p.x_stride, type, p.accumulate ? 1 : 0, p.bias ? 1 : 0};
  return cublaslt_multiply(dev, {key, p.y, p.w, p.x, p.bias}, workspace, done);
}

/** bf16 weights. */
template <class E>
int32_t multiply_bf16(koala_device* dev, E* y, const E* x, const bf16* w, const E* bias, int T, int N, int K, int accumulate) {
  const int padded = packed_stride<bf16>(K);
  const bool direct = Same<E, bf16>::value && K == padded && is_aligned(x);
  const bool cublaslt = cublaslt_takes(dev, T, N, padded) && is_aligned(y) && is_aligned(bias);
  const size_t operand_bytes = direct ? 0 : ((size_t)T * padded * sizeof(bf16) + 255) / 256 * 256;
  if (begin(dev, "koala_matmul", operand_bytes + (cublaslt ? LT_WORKSPACE : 0))) return -1;
  const bf16* operand = (const bf16*)x;
  if (!direct) {
    operand = (const bf16*)dev->scratch;
    LAUNCH((k_operand<E>), dim3(T, blocks_of(padded, THREADS * EACH)), THREADS, 0, dev->stream, (bf16*)dev->scratch, x, K,
        padded, is_aligned(x) && K % EACH == 0);
  }
  const Product<E> p = {y, operand, w, bias, T, N, padded, padded, accumulate};
  bool done = false;
  if (cublaslt && multiply_cublaslt(dev, p, (char*)dev->scratch + operand_bytes, &done)) return -1;
  if (done) return finish(dev);
  return multiply_in_tiles<StoredWeights>(dev, p);
}

/** int8 and int4 weights. */
template <class E>
int32_t multiply_quantised(koala_device* dev, E* y, const E* x, const void* w, const E* bias, int T, int N, int K,
    int accumulate, int32_t wtype) {
  const bool direct = Same<E, bf16>::value && is_aligned(x);  // K is a multiple of 32
  if (begin(dev, "koala_matmul", direct ? 0 : (size_t)T * K * sizeof(bf16))) return -1;
  if (!direct)
    LAUNCH((k_operand<E>), dim3(T, blocks_of(K, THREADS * EACH)), THREADS, 0, dev->stream, (bf16*)dev->scratch, x, K, K,
        is_aligned(x));
  const Product<E> p = {y, direct ? (const bf16*)x : (const bf16*)dev->scratch, w, bias, T, N, K, K, accumulate};
  return wtype == KOALA_Q8 ? multiply_in_tiles<Q8Weights>(dev, p) : multiply_in_tiles<Q4Weights>(dev, p);
}

/** All other types. */
template <class E, class B>
int32_t multiply_simt(koala_device* dev, E* y, const E* x, const B* w, const E* bias, int T, int N, int K, int accumulate) {
  if (begin(dev, "koala_matmul")) return -1;
  const SimtProduct<E, B> p = {y, x, w, bias, T, N, K, packed_stride<B>(K), accumulate};
  const unsigned columns = blocks_of(N, SIMT_BN);
  if (T <= 16) LAUNCH((k_simt_gemm<1, E, B>), dim3(1, columns), SIMT_THREADS, 0, dev->stream, p);
  else LAUNCH((k_simt_gemm<4, E, B>), dim3(blocks_of(T, 64), columns), SIMT_THREADS, 0, dev->stream, p);
  return finish(dev);
}

}  // namespace

int32_t koala_matmul(koala_device* dev, void* y, const void* x, const void* packed, const void* bias, int32_t T,
    int32_t N, int32_t K, int32_t accumulate, int32_t wtype, int32_t dtype) {
  if (check_matmul(dev, y, x, packed, T, N, K, wtype, dtype)) return -1;
  REQUIRE(is_aligned(packed), "koala_matmul: the packed matrix does not start at a multiple of 16 bytes.");
  if (T == 0) return 0;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    E* to = (E*)y;
    const E *from = (const E*)x, *add = (const E*)bias;
    if (wtype == KOALA_F32) return multiply_simt(dev, to, from, (const float*)packed, add, T, N, K, accumulate);
    if constexpr (Same<E, double>::value) {
      if (is_quantised(wtype))
        return fail("koala_matmul: %s weights need f32 or bf16 activations, and these are f64.", type_name(wtype));
      if (wtype == KOALA_BF16) return multiply_simt(dev, to, from, (const bf16*)packed, add, T, N, K, accumulate);
      return multiply_simt(dev, to, from, (const double*)packed, add, T, N, K, accumulate);
    } else {
      if (wtype == KOALA_BF16) return multiply_bf16(dev, to, from, (const bf16*)packed, add, T, N, K, accumulate);
      if (is_quantised(wtype)) return multiply_quantised(dev, to, from, packed, add, T, N, K, accumulate, wtype);
      return fail("koala_matmul: f64 weights need f64 activations, and these are %s.", type_name(dtype));
    }
  });
}
