// Our prototypes of cuBLASLt, called on the real library by a machine that may have no GPU.
#include "../../ffi/cuda/cublaslt.cu"

#include <stdlib.h>

/** The step of a product at which the library in `folder` fails when it has no handle. */
extern "C" const char* contract_failed_step(const char* folder) {
  setenv("KOALA_GEMM", "cublaslt", 1);
  setenv("KOALA_CUDA_LIBS", folder, 1);
  const CublasLt* lt = cublaslt_library();
  if (!lt) return "the library cannot be loaded, or lacks a function";
  static char memory[4096];
  const char* what = "nothing";
  const LtProduct p = {memory, memory, memory, memory, 128, 64, 64, 64, 64, LT_R_32F, 1};
  const int status = cublaslt_multiply(lt, nullptr, p, memory, nullptr, &what);
  return status ? what : "no step";
}

/** What it says to an attribute of three bytes. */
extern "C" int contract_wrong_size() {
  const CublasLt* lt = cublaslt_library();
  void* desc = nullptr;
  const int transposed = LT_OP_T;
  if (lt->MatmulDescCreate(&desc, LT_COMPUTE_32F, LT_R_32F)) return -1;
  const int status = lt->MatmulDescSetAttribute(desc, LT_DESC_TRANSA, &transposed, 3);
  lt->MatmulDescDestroy(desc);
  return status;
}
