// Our prototypes and numbers against NVIDIA's own headers: it compiles where they agree. CUBLASLT or NCCL says which.
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include <type_traits>

/** What a caller has to know of a parameter: its size, and whether it travels as a floating-point number or by value. */
template <class A> constexpr int passing = (int)sizeof(A) * 4 + std::is_floating_point_v<A> * 2 + std::is_class_v<A>;

template <class F, class G> constexpr bool alike = false;
template <class R, class... A, class S, class... B>
constexpr bool alike<R (*)(A...), S (*)(B...)> = [] {
  if constexpr (sizeof...(A) != sizeof...(B)) return false;
  else return passing<R> == passing<S> && ((passing<A> == passing<B>) && ...);
}();

#if defined(CUBLASLT)
#include <cublasLt.h>

#include "../../ffi/cuda/cublaslt.cuh"

#define SAME(name) static_assert(alike<decltype(Cublaslt::name), decltype(&cublasLt##name)>, "cublasLt" #name)
SAME(GetVersion);
SAME(Create);
SAME(Destroy);
SAME(MatmulDescCreate);
SAME(MatmulDescDestroy);
SAME(MatmulDescSetAttribute);
SAME(MatrixLayoutCreate);
SAME(MatrixLayoutDestroy);
SAME(MatrixLayoutSetAttribute);
SAME(MatmulPreferenceCreate);
SAME(MatmulPreferenceDestroy);
SAME(MatmulPreferenceSetAttribute);
SAME(MatmulAlgoGetHeuristic);
SAME(MatmulAlgoCheck);
SAME(Matmul);
SAME(GetStatusString);
static_assert(sizeof(LtAlgorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(LtHeuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(LtHeuristic, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(LtHeuristic, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));
#define VALUE(ours, theirs) static_assert((int)ours == (int)theirs, #ours)
VALUE(LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
VALUE(LT_R_32F, CUDA_R_32F);
VALUE(LT_R_16BF, CUDA_R_16BF);
VALUE(LT_OP_N, CUBLAS_OP_N);
VALUE(LT_OP_T, CUBLAS_OP_T);
VALUE(LT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
VALUE(LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
VALUE(LT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
VALUE(LT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
VALUE(LT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
VALUE(LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
VALUE(LT_LAYOUT_COLUMNS, CUBLASLT_MATRIX_LAYOUT_COLS);
VALUE(LT_PREF_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
VALUE(LT_PREF_REDUCTION_SCHEMES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
VALUE(LT_PREF_ALIGNMENT_OF_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
VALUE(LT_PREF_ALIGNMENT_OF_A + 1, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
VALUE(LT_PREF_ALIGNMENT_OF_A + 2, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
VALUE(LT_PREF_ALIGNMENT_OF_A + 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
VALUE(0, CUBLASLT_REDUCTION_SCHEME_NONE);
#endif

#if defined(NCCL)
#include <nccl.h>

#include "../../ffi/cuda/nccl.cuh"

#define SAME(name) static_assert(alike<decltype(Nccl::name), decltype(&nccl##name)>, "nccl" #name)
SAME(GetVersion);
SAME(GetUniqueId);
SAME(CommInitRankConfig);
SAME(CommDestroy);
SAME(CommAbort);
SAME(CommGetAsyncError);
SAME(GetErrorString);
SAME(GetLastError);
SAME(GroupStart);
SAME(GroupEnd);
SAME(Send);
SAME(Recv);
SAME(AllGather);
SAME(Broadcast);
static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));
static_assert((int)NCCL_BYTES == (int)ncclInt8 && (int)NCCL_SUCCESS == (int)ncclSuccess && (int)NCCL_IN_PROGRESS == (int)ncclInProgress);
// What we write is the beginning of what it reads; size says how far that goes.
static_assert(offsetof(NcclConfig, size) == offsetof(ncclConfig_t, size) && offsetof(NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(NcclConfig, version) == offsetof(ncclConfig_t, version) && offsetof(NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
extern "C" bool contract_config() {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  return NcclConfig().magic == theirs.magic;
}
#endif
