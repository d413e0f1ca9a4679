// What every op file sees of a GPU: its stream, its scratch, and how an op begins, ends and fails.
//
//   int32_t koala_op(koala_device* dev, ...) {
//     REQUIRE_...                                             arguments that the host can read
//     if (T == 0) return 0;
//     if (begin(dev, "koala_op", scratch_bytes)) return -1;   then dev->scratch has that many bytes
//     LAUNCH(k_op, grid, block, shared_bytes, dev->stream, ...);
//     return finish(dev);
//   }
//
// Ops are queued on the stream and return at once. What only a kernel can see (a token outside the vocabulary) it skips
// and writes to dev->faults; the sentence comes from finish(), or from the first call that waits: koala_memory_copy to
// the host, koala_device_scratch.
//
// While a graph is recorded (graph.cu) ops run nothing, and their arguments are kept. An op that could not be repeated so
// must fail: begin() does where scratch would have to grow, copy() and wait_for() do always.
#pragma once
#include "gpu.h"
#include "../cpu/arguments.h"
#include "../cpu/training_arguments.h"

/** Indices that only kernels can read and check. */
enum FaultKind { FAULT_TOKEN, FAULT_POSITION, FAULT_SLOT, FAULT_ROW, FAULT_PAGE, FAULT_TARGET, FAULT_ORDER, FAULT_KINDS };

/** In memory that host and device see. 0 where all was well, else fault_of(row, value): one store of 8 bytes. */
struct Faults { volatile uint64_t at[FAULT_KINDS]; };

/** What the device does, where others can read it; koala_device_record has the layout. */
struct OpRecord {
  double running;
  char symbol[56];
};

/** What a kind of fault is about: the op that checks it and the least index that is wrong. */
struct Check { const char* symbol; int32_t limit; };

/** Recorded ops, in the list of their device. Scratch that they use stays until the last such graph is closed. */
struct koala_graph {
  cudaGraphExec_t exec = nullptr;
  void* scratch = nullptr;
  size_t scratch_bytes = 0;
  Check checks[FAULT_KINDS] = {};  // of its ops; symbol is null where none checks this kind
  koala_graph* next = nullptr;
};

struct koala_device {
  int32_t ordinal = 0;
  cudaStream_t stream = nullptr;
  void* scratch = nullptr;  // at least what begin() was asked for, 256-byte aligned, undefined contents
  size_t scratch_bytes = 0, scratch_needed = 0;
  bool rehearsing = false;  // ops only note what they need
  bool synchronous = false;  // KOALA_SYNC=1: each op is waited for, so that its error is its own
  const char* symbol = "";  // of the op that began last
  OpRecord* record = nullptr;
  Faults* faults = nullptr;                        // as the host and the device address it
  Check checks[FAULT_KINDS] = {};  // of the last op that checks this kind
  bool recording = false, incomplete = false;  // a graph; an op failed since it began
  koala_graph* graphs = nullptr;  // that live
  char* staging = nullptr;  // page-locked memory that small uploads pass through
  size_t staged = 0;
  struct LtDevice* cublaslt = nullptr;  // nullptr: all products are made by kernels of our own
  char gemm[160] = "";      // who makes products, in words
  int processors = 0;       // streaming multiprocessors
  int architecture = 0;     // 90: sm_90
  size_t shared_bytes = 0;  // that a block may have
};

/** Starts an op: makes this device current and scratch at least this big. In a rehearsal it fails after noting that. */
int32_t begin(koala_device* dev, const char* symbol, size_t scratch_bytes = 0);
/** Ends an op: -1 with a sentence if a launch failed. */
int32_t finish(koala_device* dev);
/** Waits for everything queued on the device; -1 with a sentence if it failed. */
int32_t wait_for(koala_device* dev);
/** Kernels may now write dev->faults->at[kind]; an index not below `limit` (or negative) is the fault. */
Faults* checked(koala_device* dev, FaultKind kind, int32_t limit);
/** Whether the ops of a living graph use this scratch. */
bool is_recorded(const koala_device* dev, const void* scratch);
/** Whether kernels can read the memory at p. */
bool is_device_memory(const void* p);
/** Copies to or from anywhere, in the order of the stream. Waits where the host is the target, or a large source. */
int32_t copy(koala_device* dev, void* to, const void* from, size_t bytes);

/** Returns from a C function with the runtime's words unless `call` succeeds; the next op does not find its error again. */
#define REQUIRE_CUDA(op, call)                                                                          \
  do {                                                                                                  \
    const cudaError_t status_ = (call);                                                                 \
    if (status_ != cudaSuccess) {                                                                       \
      cudaGetLastError();                                                                               \
      return fail("koala_" op ": %s (%s).", cudaGetErrorString(status_), cudaGetErrorName(status_));    \
    }                                                                                                   \
  } while (0)

/** f(element) with a null element of the type that `type` names. */
template <class F> inline int32_t with_type(int32_t type, F&& f) {
  switch (type) {
    case KOALA_F32: return f(float{});
    case KOALA_BF16: return f(bf16{});
    default: return f(double{});
  }
}
/** Blocks of `size` elements that n elements take. */
template <class N> inline unsigned blocks_of(N n, int size) { return (unsigned)(((int64_t)n + size - 1) / size); }
