// A cuBLASLt that multiplies on the processor, for the emulator: it keeps what it is told and reads host memory.
//
// Written from the description of the interface (cublasLt.h's documentation), not from ffi/cuda/cublaslt.cu.
#include <cstdint>
#include <cstring>

#define API extern "C" __attribute__((visibility("default")))

namespace {
enum { OK = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7 };

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};
struct Desc {
  int transa = 0, epilogue = 1;
  const void* bias = nullptr;
};
int handle;

float read(const void* data, int type, int64_t i) {
  if (type == 0) return ((const float*)data)[i];
  const uint32_t bits = (uint32_t)((const uint16_t*)data)[i] << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
void write(void* data, int type, int64_t i, float f) {
  if (type == 0) {
    ((float*)data)[i] = f;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &f, 4);
  ((uint16_t*)data)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
}  // namespace

API size_t cublasLtGetVersion() { return 130100; }
API int cublasLtCreate(void** out) { return *out = &handle, OK; }
API int cublasLtDestroy(void* h) { return h == &handle ? OK : NOT_INITIALIZED; }
API const char* cublasLtGetStatusString(int) { return "fake"; }
API int cublasLtMatmulDescCreate(void** out, int compute, int scale) {
  if (compute != 68 || scale != 0) return INVALID_VALUE;
  return *out = new Desc, OK;
}
API int cublasLtMatmulDescDestroy(void* d) { return delete (Desc*)d, OK; }
API int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
  Desc* d = (Desc*)desc;
  if (attribute == 3 && bytes == 4) return memcpy(&d->transa, value, 4), OK;
  if (attribute == 7 && bytes == 4) return memcpy(&d->epilogue, value, 4), OK;
  if (attribute == 8 && bytes == 8) return memcpy(&d->bias, value, 8), OK;
  return INVALID_VALUE;
}
API int cublasLtMatrixLayoutCreate(void** out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (ld < (int64_t)rows) return INVALID_VALUE;
  return *out = new Layout{type, rows, columns, ld}, OK;
}
API int cublasLtMatrixLayoutDestroy(void* l) { return delete (Layout*)l, OK; }
API int cublasLtMatmulPreferenceCreate(void** out) { return *out = new int(0), OK; }
API int cublasLtMatmulPreferenceDestroy(void* p) { return delete (int*)p, OK; }
API int cublasLtMatmulPreferenceSetAttribute(void*, int attribute, const void*, size_t bytes) {
  return (attribute == 1 && bytes == 8) || (attribute == 3 && bytes == 4) ? OK : INVALID_VALUE;
}
API int cublasLtMatmulAlgoGetHeuristic(void* h, void*, void*, void*, void*, void*, void*, int wanted, void* results, int* found) {
  if (h != &handle || wanted < 1) return NOT_INITIALIZED;
  memset(results, 0, 96);
  memcpy(results, "fake", 4);
  return *found = 1, OK;
}
API int cublasLtMatmul(void* h, void* desc, const void* alpha, const void* a, void* la, const void* b, void* lb,
    const void* beta, const void* c, void* lc, void* d, void* ld, const void* algorithm, void* workspace, size_t bytes, void*) {
  if (h != &handle || memcmp(algorithm, "fake", 4)) return NOT_INITIALIZED;
  const Desc& op = *(Desc*)desc;
  const Layout &A = *(Layout*)la, &B = *(Layout*)lb, &C = *(Layout*)lc, &D = *(Layout*)ld;
  const uint64_t m = op.transa ? A.columns : A.rows, K = op.transa ? A.rows : A.columns;
  if (m != D.rows || K != B.rows || B.columns != D.columns || C.ld != D.ld || (op.epilogue == 4) != (op.bias != nullptr))
    return INVALID_VALUE;
  memset(workspace, 0xff, bytes);  // that nobody relies on it
  for (uint64_t j = 0; j < D.columns; j++)
    for (uint64_t i = 0; i < m; i++) {
      float sum = 0;
      for (uint64_t k = 0; k < K; k++)
        sum += read(a, A.type, op.transa ? i * A.ld + k : k * A.ld + i) * read(b, B.type, j * B.ld + k);
      sum *= *(const float*)alpha;
      if (*(const float*)beta != 0) sum += *(const float*)beta * read(c, C.type, j * C.ld + i);
      if (op.epilogue == 4) sum += read(op.bias, D.type, i);
      write(d, D.type, j * D.ld + i, sum);
    }
  return OK;
}
