// Finds cuBLASLt and describes products to it.
//
// Its matrices lie by columns: a matrix [rows, columns] of ours by rows is its [columns, rows]. So y^T [N,T] is w (K x N,
// transposed) times x (K x T), and dw^T [K,N] is x (K x T) times dy (N x T, transposed): nothing has to be copied for it.
#include "cublaslt.cuh"

#include <dlfcn.h>
#include <initializer_list>
#include <pthread.h>
#include <string.h>

#include "find_library.cuh"

namespace {

const char* const SONAMES[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

Cublaslt library;
bool usable = false;
pthread_once_t searched = PTHREAD_ONCE_INIT;

/** Whether every function is there. */
bool load(Cublaslt* lt, void* handle) {
#define FUNCTION(name) ((*(void**)&lt->name = dlsym(handle, "cublasLt" #name)) != nullptr)
  return FUNCTION(GetVersion) && FUNCTION(Create) && FUNCTION(Destroy) && FUNCTION(MatmulDescCreate)
      && FUNCTION(MatmulDescDestroy) && FUNCTION(MatmulDescSetAttribute) && FUNCTION(MatrixLayoutCreate)
      && FUNCTION(MatrixLayoutDestroy) && FUNCTION(MatrixLayoutSetAttribute) && FUNCTION(MatmulPreferenceCreate)
      && FUNCTION(MatmulPreferenceDestroy) && FUNCTION(MatmulPreferenceSetAttribute)
      && FUNCTION(MatmulAlgoGetHeuristic) && FUNCTION(MatmulAlgoCheck) && FUNCTION(Matmul) && FUNCTION(GetStatusString);
#undef FUNCTION
}

void search() {
  void* handle = find_library(SONAMES, 2);
#if defined(KOALA_EMULATOR)
  // The real one would hand addresses of this process to a GPU.
  if (handle && !dlsym(handle, "emulatedCublasLt")) return;
#endif
  usable = handle && load(&library, handle);
  if (usable) library.version = library.GetVersion();
}

}  // namespace

const Cublaslt* cublaslt_library() {
  pthread_once(&searched, search);
  return usable ? &library : nullptr;
}

#define STEP(call)                            \
  do {                                        \
    const int status_ = (call);               \
    if (status_ != 0) {                       \
      plan->step = #call;                     \
      return status_;                         \
    }                                         \
  } while (0)

int lt_describe(const Cublaslt* lt, LtPlan* plan, const LtKey& key, const void* bias) {
  *plan = {key, nullptr, nullptr, nullptr, nullptr, nullptr, ""};
  const bool forward = key.kind == LT_FORWARD;
  const int left_op = forward ? LT_OP_T : LT_OP_N, right_op = forward ? LT_OP_N : LT_OP_T, with_bias = LT_EPILOGUE_BIAS;
  STEP(lt->MatmulDescCreate(&plan->desc, LT_COMPUTE_32F, LT_R_32F));
  STEP(lt->MatmulDescSetAttribute(plan->desc, LT_DESC_TRANSA, &left_op, sizeof left_op));
  STEP(lt->MatmulDescSetAttribute(plan->desc, LT_DESC_TRANSB, &right_op, sizeof right_op));
  if (key.bias) {
    STEP(lt->MatmulDescSetAttribute(plan->desc, LT_DESC_EPILOGUE, &with_bias, sizeof with_bias));
    STEP(lt->MatmulDescSetAttribute(plan->desc, LT_DESC_BIAS_POINTER, &bias, sizeof bias));
  }
  STEP(lt->MatrixLayoutCreate(&plan->left, LT_R_16BF, key.K, forward ? key.N : key.T, key.left_stride));
  STEP(lt->MatrixLayoutCreate(&plan->right, LT_R_16BF, forward ? key.K : key.N, key.T, key.right_stride));
  const int rows = forward ? key.N : key.K, columns = forward ? key.T : key.N;
  STEP(lt->MatrixLayoutCreate(&plan->to, key.type, rows, columns, rows));
  const uint64_t workspace = LT_WORKSPACE;
  const uint32_t no_split = 0, alignment = LT_ALIGNMENT;
  STEP(lt->MatmulPreferenceCreate(&plan->preference));
  STEP(lt->MatmulPreferenceSetAttribute(plan->preference, LT_PREF_WORKSPACE_BYTES, &workspace, sizeof workspace));
  STEP(lt->MatmulPreferenceSetAttribute(plan->preference, LT_PREF_REDUCTION_SCHEMES, &no_split, sizeof no_split));
  // Unasked, the library takes all addresses to be multiples of 256 bytes.
  for (int matrix = 0; matrix < 4; matrix++)
    STEP(lt->MatmulPreferenceSetAttribute(plan->preference, LT_PREF_ALIGNMENT_OF_A + matrix, &alignment, sizeof alignment));
  return 0;
}

void lt_discard(const Cublaslt* lt, LtPlan* plan) {
  if (plan->desc) lt->MatmulDescDestroy(plan->desc);
  for (void* layout : {plan->left, plan->right, plan->to})
    if (layout) lt->MatrixLayoutDestroy(layout);
  if (plan->preference) lt->MatmulPreferenceDestroy(plan->preference);
  plan->desc = plan->left = plan->right = plan->to = plan->preference = nullptr;
}

int lt_set_rows(const Cublaslt* lt, LtPlan* plan, int T) {
  const uint64_t columns = T;
  void* const first = plan->key.kind == LT_FORWARD ? plan->to : plan->left;
  STEP(lt->MatrixLayoutSetAttribute(first, LT_LAYOUT_COLUMNS, &columns, sizeof columns));
  STEP(lt->MatrixLayoutSetAttribute(plan->right, LT_LAYOUT_COLUMNS, &columns, sizeof columns));
  return 0;
}

int lt_propose(const Cublaslt* lt, void* handle, LtPlan* plan, LtHeuristic* results, int wanted, int* found) {
  *found = 0;
  const int status = lt->MatmulAlgoGetHeuristic(handle, plan->desc, plan->left, plan->right, plan->to, plan->to,
      plan->preference, wanted, results, found);
  plan->step = "MatmulAlgoGetHeuristic";
  if (status == LT_NOT_SUPPORTED) *found = 0;
  else if (status != 0) return status;
  int kept = 0;
  for (int i = 0; i < *found; i++)
    if (results[i].status == 0 && results[i].workspace_bytes <= LT_WORKSPACE) results[kept++] = results[i];
  *found = kept;
  return 0;
}

bool lt_fits(const Cublaslt* lt, void* handle, const LtPlan& plan, const LtAlgorithm& algorithm) {
  LtHeuristic result;
  memset(&result, 0, sizeof result);
  const int status = lt->MatmulAlgoCheck(handle, plan.desc, plan.left, plan.right, plan.to, plan.to, &algorithm, &result);
  return status == 0 && result.workspace_bytes <= LT_WORKSPACE;
}

int lt_run(const Cublaslt* lt, void* handle, LtPlan* plan, const LtProduct& p, const void* old, void* to,
    const LtAlgorithm& algorithm, void* workspace, void* stream) {
  if (p.key.bias) STEP(lt->MatmulDescSetAttribute(plan->desc, LT_DESC_BIAS_POINTER, &p.bias, sizeof p.bias));
  const float alpha = 1, beta = p.key.accumulate ? 1.f : 0.f;
  STEP(lt->Matmul(handle, plan->desc, &alpha, p.left, plan->left, p.right, plan->right, &beta, old, plan->to, to, plan->to,
      &algorithm, workspace, LT_WORKSPACE, stream));
  return 0;
}
