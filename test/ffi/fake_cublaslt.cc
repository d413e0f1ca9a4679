// A cuBLASLt that multiplies on the processor, for the emulator: it keeps what it is told and reads host memory.
//
// Written from the description of the interface (cublasLt.h and its documentation), not from ffi/cuda/cublaslt.cu. It proposes
// several algorithms, as the real one does, and each has a condition that the caller must have asked for or checked:
//   slow      right: the first proposal, so that only timing finds a better one
//   quick     right
//   even      right where the product's rows of tokens are a multiple of 8, and wrong elsewhere: MatmulAlgoCheck says so
//   failing   Matmul answers "not supported"
//   split     proposed where split sums are allowed: adds some noise
//   aligned   proposed where addresses are known to be multiples of 256 bytes: wrong
//   hungry    proposed where there is more than 32 MiB of workspace: wrong
// All take several times the processor time of `quick`. KOALA_FAKE_CUBLASLT_LOG names a file that gets a line for each call that matters;
// KOALA_FAKE_CUBLASLT is "none" (no algorithm for anything), "broken" (it does not start) or "even" (that is the quickest).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#define API extern "C" __attribute__((visibility("default")))

namespace {
enum { OK = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Kind : uint64_t { SLOW = 0xfa4e01, QUICK, EVEN, FAILING, SPLIT, ALIGNED, HUNGRY };

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};
struct Desc {
  int transa = 0, transb = 0, epilogue = 1;
  const void* bias = nullptr;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t schemes = 7, alignment[4] = {256, 256, 256, 256};
};
struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};
int handle;

bool mode(const char* name) {
  const char* asked = getenv("KOALA_FAKE_CUBLASLT");
  return asked && !strcmp(asked, name);
}
template <class... A> void note(const char* format, A... values) {
  const char* path = getenv("KOALA_FAKE_CUBLASLT_LOG");
  FILE* file = path ? fopen(path, "a") : nullptr;
  if (!file) return;
  fprintf(file, format, values...);
  fclose(file);
}

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

struct Sizes { uint64_t rows, columns, depth; };
/** Of op(a) op(b); false where the matrices do not fit each other. */
bool sizes(const Desc& op, const Layout& a, const Layout& b, const Layout& d, Sizes* s) {
  *s = {op.transa ? a.columns : a.rows, op.transb ? b.rows : b.columns, op.transa ? a.rows : a.columns};
  return s->depth == (op.transb ? b.columns : b.rows) && s->rows == d.rows && s->columns == d.columns;
}
/** Tokens are the columns of a forward product, and the depth of a weight's gradient. */
bool fits(const Desc& op, const Sizes& s, uint64_t kind) {
  return kind != EVEN || (op.transb ? s.depth : s.columns) % 8 == 0;
}
}  // namespace

API int emulatedCublasLt;
int emulatedCublasLt = 1;
API size_t cublasLtGetVersion() { return 130100; }
API int cublasLtCreate(void** out) { return *out = &handle, mode("broken") ? NOT_INITIALIZED : OK; }
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
  if (attribute == 4 && bytes == 4) return memcpy(&d->transb, value, 4), OK;
  if (attribute == 7 && bytes == 4) return memcpy(&d->epilogue, value, 4), OK;
  if (attribute == 8 && bytes == 8) return memcpy(&d->bias, value, 8), OK;
  return INVALID_VALUE;
}
API int cublasLtMatrixLayoutCreate(void** out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (ld < (int64_t)rows) return INVALID_VALUE;
  return *out = new Layout{type, rows, columns, ld}, OK;
}
API int cublasLtMatrixLayoutDestroy(void* l) { return delete (Layout*)l, OK; }
API int cublasLtMatrixLayoutSetAttribute(void* l, int attribute, const void* value, size_t bytes) {
  if (attribute != 3 || bytes != 8) return INVALID_VALUE;
  return memcpy(&((Layout*)l)->columns, value, 8), OK;
}
API int cublasLtMatmulPreferenceCreate(void** out) { return *out = new Preference, OK; }
API int cublasLtMatmulPreferenceDestroy(void* p) { return delete (Preference*)p, OK; }
API int cublasLtMatmulPreferenceSetAttribute(void* p, int attribute, const void* value, size_t bytes) {
  Preference* preference = (Preference*)p;
  if (attribute == 1 && bytes == 8) return memcpy(&preference->workspace, value, 8), OK;
  if (attribute == 3 && bytes == 4) return memcpy(&preference->schemes, value, 4), OK;
  if (attribute >= 5 && attribute <= 8 && bytes == 4) return memcpy(&preference->alignment[attribute - 5], value, 4), OK;
  return INVALID_VALUE;
}
API int cublasLtMatmulAlgoGetHeuristic(void* h, void* desc, void* la, void* lb, void*, void* ld, void* p, int wanted,
    Heuristic* results, int* found) {
  const Preference& preference = *(Preference*)p;
  const Desc& op = *(Desc*)desc;
  Sizes s;
  *found = 0;
  if (h != &handle || wanted < 1) return NOT_INITIALIZED;
  if (!sizes(op, *(Layout*)la, *(Layout*)lb, *(Layout*)ld, &s)) return INVALID_VALUE;
  note("propose %d %zu %zu %zu\n", wanted, (size_t)s.rows, (size_t)s.columns, (size_t)s.depth);
  if (mode("none")) return NOT_SUPPORTED;
  auto offer = [&](uint64_t kind, bool condition) {
    if (!condition || *found == wanted) return;
    Heuristic& result = results[(*found)++];
    memset(&result, 0, sizeof result);
    for (int i = 0; i < 8; i++) result.algorithm[i] = kind << 8 * i;
    result.workspace = kind == HUNGRY ? 64 << 20 : 32 << 20;
  };
  bool aligned = true;
  for (uint32_t bytes : preference.alignment) aligned = aligned && bytes == 256;
  offer(ALIGNED, aligned);
  offer(SPLIT, preference.schemes != 0);
  offer(HUNGRY, preference.workspace > 32 << 20);
  offer(SLOW, true);
  offer(FAILING, true);
  offer(EVEN, fits(op, s, EVEN));
  offer(QUICK, true);
  return OK;
}
API int cublasLtMatmulAlgoCheck(void* h, void* desc, void* la, void* lb, void*, void* ld, const uint64_t* algorithm,
    Heuristic* result) {
  Sizes s;
  if (h != &handle) return NOT_INITIALIZED;
  if (!sizes(*(Desc*)desc, *(Layout*)la, *(Layout*)lb, *(Layout*)ld, &s)) return INVALID_VALUE;
  const uint64_t kind = algorithm[0];
  note("check %zx %zu %zu %zu\n", (size_t)kind, (size_t)s.rows, (size_t)s.columns, (size_t)s.depth);
  if (kind < SLOW || kind > HUNGRY || algorithm[7] != kind << 56 || !fits(*(Desc*)desc, s, kind)) return NOT_SUPPORTED;
  result->workspace = kind == HUNGRY ? 64 << 20 : 32 << 20;
  return OK;
}
API int cublasLtMatmul(void* h, void* desc, const void* alpha, const void* a, void* la, const void* b, void* lb,
    const void* beta, const void* c, void* lc, void* d, void* ld, const uint64_t* algorithm, void* workspace, size_t bytes, void*) {
  const uint64_t kind = algorithm[0];
  if (h != &handle || kind < SLOW || kind > HUNGRY) return NOT_INITIALIZED;
  const Desc& op = *(Desc*)desc;
  const Layout &A = *(Layout*)la, &B = *(Layout*)lb, &C = *(Layout*)lc, &D = *(Layout*)ld;
  Sizes s;
  if (!sizes(op, A, B, D, &s) || C.ld != D.ld || (op.epilogue == 4) != (op.bias != nullptr) || bytes != 32 << 20)
    return INVALID_VALUE;
  for (const void* address : {a, b, c, (const void*)d, (const void*)op.bias, (const void*)workspace})
    if ((uintptr_t)address % 16) return INVALID_VALUE;
  note("multiply %zx %zu %zu %zu beta %g\n", (size_t)kind, (size_t)s.rows, (size_t)s.columns, (size_t)s.depth, *(const float*)beta);
  if (kind == FAILING) return NOT_SUPPORTED;
  const float error = kind >= SPLIT || !fits(op, s, kind) ? 1000.f : 0.f;
  memset(workspace, 0xff, 4096);  // that nobody relies on it
  const int times = kind == (mode("even") ? EVEN : QUICK) ? 1 : 4;
  for (uint64_t j = 0; j < s.columns; j++)
    for (uint64_t i = 0; i < s.rows; i++) {
      volatile float sums = 0;
      for (int time = 0; time < times; time++) {
        float sum = error;
        for (uint64_t k = 0; k < s.depth; k++)
          sum += read(a, A.type, op.transa ? i * A.ld + k : k * A.ld + i) * read(b, B.type, op.transb ? k * B.ld + j : j * B.ld + k);
        sums = sum;
      }
      float sum = sums;
      sum *= *(const float*)alpha;
      if (*(const float*)beta != 0) sum += *(const float*)beta * read(c, C.type, j * C.ld + i);
      if (op.epilogue == 4) sum += read(op.bias, D.type, i);
      write(d, D.type, j * D.ld + i, sum);
    }
  return OK;
}
