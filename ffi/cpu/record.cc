// Says which op runs, in memory that outlives the process: a table of kernels that write their symbol first.
//
// A device without a record calls its kernels directly; with one, an op costs a copy of 64 bytes more.
#include "device.h"

#include <string.h>

namespace {

struct Symbol {
  char text[sizeof(OpRecord::symbol)];
};

/** A kernel with the arguments of `member` that writes the record, and calls the chosen kernel. */
template <auto member, const Symbol* symbol> struct Recorded;

template <class... Args, int32_t (*Kernels::*member)(koala_device*, Args...), const Symbol* symbol>
struct Recorded<member, symbol> {
  static int32_t call(koala_device* dev, Args... args) {
    OpRecord* record = dev->record;
    // In this order: whoever reads 1 finds the symbol that it is about.
    memcpy(record->symbol, symbol->text, sizeof symbol->text);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    *(volatile double*)&record->running = 1;
    const int32_t status = (dev->chosen->*member)(dev, args...);
    *(volatile double*)&record->running = 0;
    return status;
  }
};

#define X(name) constexpr Symbol symbol_##name = {"koala_" #name};
KOALA_KERNELS(X)
#undef X

const Kernels recorded = {
#define X(name) Recorded<&Kernels::name, &symbol_##name>::call,
    KOALA_KERNELS(X)
#undef X
};

}  // namespace

int32_t koala_device_record(koala_device* dev, void* record) {
  REQUIRE_POINTER("device_record", dev);
  dev->record = (OpRecord*)record;
  dev->kernels = record ? &recorded : dev->chosen;
  return 0;
}
