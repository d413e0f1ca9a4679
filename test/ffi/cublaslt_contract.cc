// Our prototypes of cuBLASLt, called on the real library by a machine that may have no GPU.
#include "../../ffi/cuda/cublaslt.cu"
#include "../../ffi/cuda/find_library.cu"

#include <stdlib.h>

/** The step at which the library in `folder` fails to plan a product when it has no handle. */
extern "C" const char* contract_failed_step(const char* folder, int kind) {
  setenv("KOALA_CUDA_LIBS", folder, 1);
  const Cublaslt* lt = cublaslt_library();
  if (!lt) return "the library cannot be loaded, or lacks a function";
  const LtKey key = {kind, 136, 64, 72, 72, 72, LT_R_32F, 1, kind == LT_FORWARD};
  static char memory[64];
  LtPlan plan;
  LtHeuristic results[LT_ALGORITHMS];
  int found = 0;
  int status = lt_describe(lt, &plan, key, memory);
  if (!status) status = lt_set_rows(lt, &plan, 130);
  if (!status) status = lt_propose(lt, nullptr, &plan, results, LT_ALGORITHMS, &found);
  const char* step = status ? plan.step : "no step";
  if (!status || lt_fits(lt, nullptr, plan, {{1, 2, 3}})) step = "nothing, though there is no handle";
  lt_discard(lt, &plan);
  return step;
}

/** What it says to values of wrong sizes: of a description, a layout and a preference. */
extern "C" void contract_wrong_sizes(int* statuses) {
  const Cublaslt* lt = cublaslt_library();
  void *desc = nullptr, *layout = nullptr, *preference = nullptr;
  const uint64_t value = 1;
  lt->MatmulDescCreate(&desc, LT_COMPUTE_32F, LT_R_32F);
  lt->MatrixLayoutCreate(&layout, LT_R_16BF, 64, 64, 64);
  lt->MatmulPreferenceCreate(&preference);
  statuses[0] = lt->MatmulDescSetAttribute(desc, LT_DESC_TRANSB, &value, 3);
  statuses[1] = lt->MatrixLayoutSetAttribute(layout, LT_LAYOUT_COLUMNS, &value, 4);
  statuses[2] = lt->MatmulPreferenceSetAttribute(preference, LT_PREF_ALIGNMENT_OF_A + 3, &value, 8);
  lt->MatmulDescDestroy(desc);
  lt->MatrixLayoutDestroy(layout);
  lt->MatmulPreferenceDestroy(preference);
}
