// Finds cuBLASLt and multiplies with it. Its matrices lie by columns: our y [T,N] by rows is its y^T [N,T], so w comes
// first, transposed, and x second.
//
// Searched: the folders of KOALA_CUDA_LIBS, the loader's own places, then those of the toolkit (koala doctor lists them).
#include "cublaslt.cuh"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

const char* const SONAMES[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

void* open_in(const char* folder, size_t length) {
  for (const char* soname : SONAMES) {
    char path[1024];
    const int n = snprintf(path, sizeof path, "%.*s/%s", (int)length, folder, soname);
    if (n >= (int)sizeof path) continue;
    if (void* found = dlopen(path, RTLD_NOW | RTLD_LOCAL)) return found;
  }
  return nullptr;
}

void* find() {
  const char* folders = getenv("KOALA_CUDA_LIBS");
  while (folders && *folders) {
    const size_t length = strcspn(folders, ":");
    if (length > 0)
      if (void* found = open_in(folders, length)) return found;
    folders += length + (folders[length] == ':');
  }
  for (const char* soname : SONAMES)
    if (void* found = dlopen(soname, RTLD_NOW | RTLD_LOCAL)) return found;
  const char toolkit[] = "/usr/local/cuda/lib64";
  return open_in(toolkit, sizeof toolkit - 1);
}

/** Whether every function is there. */
bool load(CublasLt* lt, void* library) {
#define FUNCTION(name) *(void**)&lt->name = dlsym(library, "cublasLt" #name)
  FUNCTION(GetVersion), FUNCTION(Create), FUNCTION(Destroy), FUNCTION(MatmulDescCreate), FUNCTION(MatmulDescDestroy);
  FUNCTION(MatmulDescSetAttribute), FUNCTION(MatrixLayoutCreate), FUNCTION(MatrixLayoutDestroy);
  FUNCTION(MatmulPreferenceCreate), FUNCTION(MatmulPreferenceDestroy), FUNCTION(MatmulPreferenceSetAttribute);
  FUNCTION(MatmulAlgoGetHeuristic), FUNCTION(Matmul), FUNCTION(GetStatusString);
#undef FUNCTION
  return lt->GetVersion && lt->Create && lt->Destroy && lt->MatmulDescCreate && lt->MatmulDescDestroy
      && lt->MatmulDescSetAttribute && lt->MatrixLayoutCreate && lt->MatrixLayoutDestroy && lt->MatmulPreferenceCreate
      && lt->MatmulPreferenceDestroy && lt->MatmulPreferenceSetAttribute && lt->MatmulAlgoGetHeuristic && lt->Matmul
      && lt->GetStatusString;
}

/** The descriptions of one product; whatever was made is given back. */
struct Plan {
  const CublasLt* lt;
  void *desc = nullptr, *w = nullptr, *x = nullptr, *y = nullptr, *preference = nullptr;
  LtHeuristic best;
  const char* what = "";

  explicit Plan(const CublasLt* lt) : lt(lt) {}
  ~Plan() {
    if (desc) lt->MatmulDescDestroy(desc);
    if (w) lt->MatrixLayoutDestroy(w);
    if (x) lt->MatrixLayoutDestroy(x);
    if (y) lt->MatrixLayoutDestroy(y);
    if (preference) lt->MatmulPreferenceDestroy(preference);
  }
  int describe(const LtProduct& p) {
    const int transposed = LT_OP_T, with_bias = LT_EPILOGUE_BIAS, no_split = 0;
    const size_t workspace = LT_WORKSPACE;
    int status = 0;
#define STEP(call) \
  if ((status = (call)) != 0) return what = #call, status
    STEP(lt->MatmulDescCreate(&desc, LT_COMPUTE_32F, LT_R_32F));
    STEP(lt->MatmulDescSetAttribute(desc, LT_DESC_TRANSA, &transposed, sizeof transposed));
    if (p.bias) {
      STEP(lt->MatmulDescSetAttribute(desc, LT_DESC_EPILOGUE, &with_bias, sizeof with_bias));
      STEP(lt->MatmulDescSetAttribute(desc, LT_DESC_BIAS_POINTER, &p.bias, sizeof p.bias));
    }
    STEP(lt->MatrixLayoutCreate(&w, LT_R_16BF, p.K, p.N, p.w_stride));
    STEP(lt->MatrixLayoutCreate(&x, LT_R_16BF, p.K, p.T, p.x_stride));
    STEP(lt->MatrixLayoutCreate(&y, p.type, p.N, p.T, p.N));
    STEP(lt->MatmulPreferenceCreate(&preference));
    STEP(lt->MatmulPreferenceSetAttribute(preference, LT_PREF_WORKSPACE_BYTES, &workspace, sizeof workspace));
    // Sums that are split over blocks would be added in an order of chance.
    STEP(lt->MatmulPreferenceSetAttribute(preference, LT_PREF_REDUCTION_SCHEMES, &no_split, sizeof no_split));
    return 0;
  }
  /** The first that the library proposes: measuring would let chance choose the bits. */
  int choose(void* handle) {
    int found = 0, status = 0;
    STEP(lt->MatmulAlgoGetHeuristic(handle, desc, w, x, y, y, preference, 1, &best, &found));
    if (found == 0) return what = "no algorithm for this shape", 15;  // CUBLAS_STATUS_NOT_SUPPORTED
    return 0;
#undef STEP
  }
};

}  // namespace

const CublasLt* cublaslt_library() {
  static CublasLt lt;
  static bool searched = false, found = false;  // devices are used by one thread at a time
  if (searched) return found ? &lt : nullptr;
  searched = true;
  const char* asked = getenv("KOALA_GEMM");
  if (!asked || strcmp(asked, "cublaslt") != 0) return nullptr;
  void* library = find();
  found = library && load(&lt, library);
  if (found) lt.version = lt.GetVersion();
  return found ? &lt : nullptr;
}

int cublaslt_multiply(const CublasLt* lt, void* handle, const LtProduct& p, void* workspace, void* stream, const char** what) {
  Plan plan(lt);
  int status = plan.describe(p);
  if (!status) status = plan.choose(handle);
  *what = plan.what;
  if (status) return status;
  const float alpha = 1, beta = p.accumulate ? 1.f : 0.f;
  *what = "cublasLtMatmul";
  return lt->Matmul(handle, plan.desc, &alpha, p.w, plan.w, p.x, plan.x, &beta, p.y, plan.y, p.y, plan.y,
      plan.best.algorithm, workspace, LT_WORKSPACE, stream);
}
