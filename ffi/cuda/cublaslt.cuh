// NVIDIA's cuBLASLt: our own prototypes of the functions that multiply matrices, and the description of one product.
//
// The C interface is the same in CUDA 12 and 13. Which products it makes, and by which of its algorithms, is decided in
// cublaslt_device.cu; nothing here knows of a device's memory.
#pragma once
#include <stddef.h>
#include <stdint.h>

/** Values of cublasComputeType_t, cudaDataType_t, cublasOperation_t, cublasStatus_t and the attributes of cublasLt.h. */
enum { LT_COMPUTE_32F = 68, LT_R_32F = 0, LT_R_16BF = 14, LT_OP_N = 0, LT_OP_T = 1, LT_NOT_SUPPORTED = 15 };
enum { LT_DESC_TRANSA = 3, LT_DESC_TRANSB = 4, LT_DESC_EPILOGUE = 7, LT_DESC_BIAS_POINTER = 8, LT_EPILOGUE_BIAS = 4 };
enum { LT_LAYOUT_COLUMNS = 3 };
enum { LT_PREF_WORKSPACE_BYTES = 1, LT_PREF_REDUCTION_SCHEMES = 3, LT_PREF_ALIGNMENT_OF_A = 5 };  // then of B, C, D

/** cublasLtMatmulAlgo_t: words that its own version of the library reads, and that may lie in a file. */
struct LtAlgorithm { uint64_t words[8]; };

/** cublasLtMatmulHeuristicResult_t */
struct LtHeuristic {
  LtAlgorithm algorithm;
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

struct Cublaslt {
  size_t version = 0;  // 130100: 13.1.0
  size_t (*GetVersion)();
  int (*Create)(void** handle);
  int (*Destroy)(void* handle);
  int (*MatmulDescCreate)(void** desc, int compute, int scale);
  int (*MatmulDescDestroy)(void* desc);
  int (*MatmulDescSetAttribute)(void* desc, int attribute, const void* value, size_t bytes);
  int (*MatrixLayoutCreate)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld);
  int (*MatrixLayoutDestroy)(void* layout);
  int (*MatrixLayoutSetAttribute)(void* layout, int attribute, const void* value, size_t bytes);
  int (*MatmulPreferenceCreate)(void** preference);
  int (*MatmulPreferenceDestroy)(void* preference);
  int (*MatmulPreferenceSetAttribute)(void* preference, int attribute, const void* value, size_t bytes);
  int (*MatmulAlgoGetHeuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted,
      LtHeuristic* results, int* found);
  int (*MatmulAlgoCheck)(void* handle, void* desc, void* a, void* b, void* c, void* d, const LtAlgorithm* algorithm,
      LtHeuristic* result);
  int (*Matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
      const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const LtAlgorithm* algorithm, void* workspace,
      size_t workspace_bytes, void* stream);
  const char* (*GetStatusString)(int status);
};

/** nullptr where it is not to be found, or lacks one of these functions. Searched for once. */
const Cublaslt* cublaslt_library();

constexpr size_t LT_WORKSPACE = 32 << 20;
constexpr int LT_ALIGNMENT = 16;   // of all addresses and rows, in bytes
constexpr int LT_ALGORITHMS = 8;  // that the library is asked for

enum LtKind {
  LT_FORWARD,  // y[T,N] = x[T,K] w[N,K]^T (+ bias) (+ y): left is w, right is x
  LT_WEIGHTS   // dw[N,K] = dy[T,N]^T x[T,K] (+ dw): left is x, right is dy
};

/** What an algorithm is chosen by. Always: plain int32_t without gaps, compared and kept as they lie. */
struct LtKey {
  int32_t kind, T, N, K;
  int32_t left_stride, right_stride;  // elements from row to row, multiples of 8
  int32_t type;                       // of the result and the bias, which lies without gaps: LT_R_32F or LT_R_16BF
  int32_t accumulate, bias;           // 0 or 1
};

struct LtProduct {
  LtKey key;
  void* to;
  const void *left, *right;  // bf16
  const void* bias;          // or nullptr
};

/** The library's own descriptions of a product. T may change, and nothing else. */
struct LtPlan {
  LtKey key;
  void *desc, *left, *right, *to, *preference;
  const char* step;  // that failed
};

/** Fills `plan`; 0, or the status of plan->step. Whatever was made is given back by lt_discard. */
int lt_describe(const Cublaslt* lt, LtPlan* plan, const LtKey& key, const void* bias);
void lt_discard(const Cublaslt* lt, LtPlan* plan);
/** From now on the product has T rows (of y, or of dy and x). */
int lt_set_rows(const Cublaslt* lt, LtPlan* plan, int T);
/** Up to `wanted` algorithms in *found places of `results`, the library's best guess first. All keep to LT_WORKSPACE, and to
 *  sums that are not split over blocks: those would be added in an order of chance. */
int lt_propose(const Cublaslt* lt, void* handle, LtPlan* plan, LtHeuristic* results, int wanted, int* found);
/** Whether `algorithm` multiplies what the plan describes. */
bool lt_fits(const Cublaslt* lt, void* handle, const LtPlan& plan, const LtAlgorithm& algorithm);
/** Queues the product on `stream`: `to` = ... (+ `old`, which may be `to`). */
int lt_run(const Cublaslt* lt, void* handle, LtPlan* plan, const LtProduct& p, const void* old, void* to,
    const LtAlgorithm& algorithm, void* workspace, void* stream);
