// NVIDIA's cuBLASLt, found when it is first needed: our own prototypes of the functions that multiply matrices.
//
// The C interface is the same in CUDA 12 and 13. KOALA_GEMM=cublaslt lets koala_matmul use it for bf16 weights and long
// batches. That is faster, and gives up one promise: which algorithm it takes, and so the order of its sums, depends on
// T. Without it every row has the same bits in every batch.
#pragma once
#include <stddef.h>
#include <stdint.h>

/** Values of cublasComputeType_t, cudaDataType_t, cublasOperation_t and the attribute enumerations of cublasLt.h. */
enum { LT_COMPUTE_32F = 68, LT_R_32F = 0, LT_R_16BF = 14, LT_OP_T = 1 };
enum { LT_DESC_TRANSA = 3, LT_DESC_EPILOGUE = 7, LT_DESC_BIAS_POINTER = 8, LT_EPILOGUE_BIAS = 4 };
enum { LT_PREF_WORKSPACE_BYTES = 1, LT_PREF_REDUCTION_SCHEMES = 3 };

/** cublasLtMatmulHeuristicResult_t */
struct LtHeuristic {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

struct CublasLt {
  size_t version = 0;  // 130100: 13.1.0
  size_t (*GetVersion)();
  int (*Create)(void** handle);
  int (*Destroy)(void* handle);
  int (*MatmulDescCreate)(void** desc, int compute, int scale);
  int (*MatmulDescDestroy)(void* desc);
  int (*MatmulDescSetAttribute)(void* desc, int attribute, const void* value, size_t bytes);
  int (*MatrixLayoutCreate)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld);
  int (*MatrixLayoutDestroy)(void* layout);
  int (*MatmulPreferenceCreate)(void** preference);
  int (*MatmulPreferenceDestroy)(void* preference);
  int (*MatmulPreferenceSetAttribute)(void* preference, int attribute, const void* value, size_t bytes);
  int (*MatmulAlgoGetHeuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted,
      LtHeuristic* results, int* found);
  int (*Matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
      const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const void* algorithm, void* workspace,
      size_t workspace_bytes, void* stream);
  const char* (*GetStatusString)(int status);
};

constexpr size_t LT_WORKSPACE = 32 << 20;

/** y = x w^T (+ bias) (+ y): rows of x and w of K bf16 elements at their strides, y of type `type` and bias of the same. */
struct LtProduct {
  void* y;
  const void *x, *w, *bias;
  int T, N, K, x_stride, w_stride, type, accumulate;
};

/** nullptr where it was not asked for (KOALA_GEMM) or is not to be found. */
const CublasLt* cublaslt_library();
/** A product on `stream` with a workspace of LT_WORKSPACE bytes; 0, or the status of what failed, named in *what. */
int cublaslt_multiply(const CublasLt* lt, void* handle, const LtProduct& p, void* workspace, void* stream, const char** what);
