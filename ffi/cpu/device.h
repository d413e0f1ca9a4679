// What every op file sees of a device: its threads, its scratch and its table of kernels.
//
// The files of the ops are compiled once per instruction set, each time in a namespace of its own (KOALA_NS), and fill
// one `Kernels` table. The portable build also defines KOALA_EXPORTS: it carries the C functions, which check their
// arguments and call through the table of the device. Nothing here or in an op file may use templates or inline
// functions of the standard library: the linker would keep one copy, perhaps the AVX-512 one, for all.
#pragma once
#include "arguments.h"
#include "training_arguments.h"
#include "pool.h"

#define KOALA_KERNELS(X)                                                                                       \
  X(matmul_pack) X(matmul) X(embed) X(rms_norm) X(add_rms_norm) X(qk_norm) X(rope) X(cache_write)              \
  X(attention) X(silu_mul) X(gather_rows) X(sum_rows) X(contrast) X(sample) X(logprobs) X(device_measure)      \
  X(matmul_pack_transposed) X(matmul_weight_gradient) X(bias_gradient) X(embed_backward)                       \
  X(rms_norm_backward) X(qk_norm_backward) X(rope_backward) X(document_attention)                              \
  X(document_attention_backward) X(silu_mul_backward) X(dropout) X(axpby) X(cast) X(cross_entropy)             \
  X(cross_entropy_backward) X(sum_squares) X(adamw) X(master_split) X(master_join) X(accumulate)               \
  X(fill_normal)

/** One build's kernels; the arguments are those of koala.h and were checked. */
struct Kernels {
#define X(name) decltype(&koala_##name) name;
  KOALA_KERNELS(X)
#undef X
};

struct Scratch {
  char* data = nullptr;
  size_t bytes = 0;
};

/** What the device does, where others can read it; koala_device_record has the layout. */
struct OpRecord {
  double running;
  char symbol[56];
};

struct koala_device {
  Pool pool;
  const Kernels* kernels = nullptr;  // that are called: the chosen ones, or those that write the record first
  const Kernels* chosen = nullptr;
  OpRecord* record = nullptr;
  const char* isa = "";
  Scratch shared;              // one block that all threads of a job see
  Scratch local[THREADS_MAX];  // one block a thread
  bool rehearsing = false;     // ops only note what they need
  size_t needed_shared = 0, needed_local = 0;
};

/** Makes the shared block and every thread's own block at least this big. Contents are undefined afterwards. */
int32_t reserve(koala_device* dev, size_t shared_bytes, size_t local_bytes);

/** Memory on huge pages, 64-byte aligned and zeroed; nullptr if there is none. */
void* pages_alloc(size_t bytes);
void pages_free(void* data, size_t bytes);

#ifdef KOALA_NS
namespace KOALA_NS {
#define X(name) decltype(koala_##name) name;
KOALA_KERNELS(X)
#undef X
}  // namespace KOALA_NS
#endif
