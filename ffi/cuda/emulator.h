// Runs kernels on the processor: every GPU thread is a fiber, one block after another, warps in random order.
//
// Finds what a GPU shows rarely and never explains:
//  - a lost barrier: a warp runs on, greedily, until it must wait; which warp is next is random (KOALA_EMULATOR_SEED)
//  - a lost wait: the bytes of cp.async arrive at the wait that covers them, not before
//  - memory that nobody wrote: shared memory holds NaNs when a block starts
//  - memory of the host that a kernel is given, which a GPU without shared page tables does not reach
//  - barriers and warp operations that not all threads reach, unaligned vector accesses: the launch fails with a sentence
// What it cannot show: speed, and races inside a warp. Each OS thread emulates a GPU of its own.
#pragma once
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <random>
#include <vector>

#if !defined(__x86_64__)
#error "The emulator switches fibers in x86-64 assembly and has no such code for this processor."
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define DEVICE inline
#define HOST_DEVICE inline
#define KERNEL(...) void
#define SHARED(T, name, n)            \
  static const char name##_site = 0;  \
  T* const name = (T*)emulator::static_shared(&name##_site, sizeof(T) * (n))
#define DYNAMIC_SHARED(T, name) T* const name = (T*)emulator::gpu->dynamic_shared
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (emulator::require_reachable(__VA_ARGS__),                   \
   emulator::launch(grid, block, shared_bytes, stream, kernel, __VA_ARGS__))
#define POINTERS(...) \
  template <class F> void each_pointer(F&& f) const { f(__VA_ARGS__); }

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };

namespace emulator {

constexpr size_t STACK = 64 << 10;
constexpr int SLOT = 64;  // bytes that a lane shows to its warp at once

enum Wait { RUNNABLE, AT_BARRIER, AT_WARP_OP, ENDED };

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

struct Fiber {
  void* stack_pointer;
  char* stack;
  dim3 thread;
  unsigned lane, warp;
  Wait wait;
  const char* warp_op;                     // that it waits at
  unsigned parity;                         // of its warp operations
  std::vector<Copy> open;                  // copies of the group that is not committed
  std::vector<std::vector<Copy>> groups;   // committed, not waited for; oldest first
};

/** What the lanes show each other: two sides, since a lane may be one operation ahead of another that still reads. */
struct Warp { alignas(16) unsigned char slot[2][32][SLOT]; };

struct StaticShared {
  const void* site;
  unsigned char* data;
  size_t bytes;
};

/** A call of the kernel with its arguments. */
struct Body {
  void (*call)(void* context);
  void* context;
};

struct Gpu {
  std::vector<Fiber> fibers;  // as many as the largest block had
  std::vector<Warp> warps;
  std::vector<StaticShared> statics;
  unsigned char* dynamic_shared = nullptr;
  Fiber* current = nullptr;
  void* scheduler = nullptr;  // its stack pointer
  dim3 block, block_size, grid_size;
  Body body;
  std::mt19937 random{getenv("KOALA_EMULATOR_SEED") ? (unsigned)atoi(getenv("KOALA_EMULATOR_SEED")) : 1u};
  const char* kernel = "";
  char error[400] = "";  // of the first launch that failed since it was asked for
};
/** Whether the GPU failed for good, as KOALA_EMULATOR_LOST plans. */
inline bool lost = false;
inline bool fall() {
  static const char* plan = getenv("KOALA_EMULATOR_LOST");
  static unsigned kernels = 0;
  if (plan && *plan && ++kernels >= (unsigned)atoi(plan)) lost = true;
  return lost;
}

/** Of this thread; made by the first launch and never given back. */
inline thread_local Gpu* gpu __attribute__((tls_model("initial-exec"))) = nullptr;
inline Gpu* open_gpu() { return gpu ? gpu : gpu = new Gpu; }

/** Notes why the launch fails. */
inline void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline void report(const char* format, ...) {
  if (gpu->error[0]) return;
  int n = snprintf(gpu->error, sizeof gpu->error, "emulator: block (%u,%u,%u): ", gpu->block.x, gpu->block.y, gpu->block.z);
  va_list values;
  va_start(values, format);
  vsnprintf(gpu->error + n, sizeof gpu->error - n, format, values);
  va_end(values);
}

/** Whether kernels can read memory at p: the device's, or page-locked. */
inline bool is_reachable(const volatile void* p);
/** `which`: place among the kernel's arguments, from 0. */
template <class T> inline void require_argument(int which, T* p) {
  if (p && !is_reachable(p))
    report("argument %d of the kernel points to memory of the host at %p, which a GPU does not reach", which, (const void*)p);
}
template <class T> inline void require_argument(int which, const T& v);
struct RequireMembers {
  int which;
  template <class... M> void operator()(const M&... members) const { (require_argument(which, members), ...); }
};
template <class T> inline auto require_members(int which, const T& v, int) -> decltype(v.each_pointer(RequireMembers{which})) {
  v.each_pointer(RequireMembers{which});
}
template <class T> inline void require_members(int, const T&, long) {}
template <class T> inline void require_argument(int which, const T& v) { require_members(which, v, 0); }
template <class... A> inline void require_reachable(const A&... arguments) {
  int which = 0;
  open_gpu()->block = dim3(0, 0, 0);
  (require_argument(which++, arguments), ...);
}

/** Memory of exactly this size, so that ASan sees the first byte behind it. */
inline void* allocate_exactly(size_t alignment, size_t bytes) {
  void* data = nullptr;
  return posix_memalign(&data, alignment, bytes ? bytes : 1) == 0 ? data : nullptr;
}

// ---- fibers ----
/** Saves the registers that a function must keep, and goes on where `to` did so. */
extern "C" void koala_emulator_switch(void** save, void* to);
asm(R"(
.text
.weak koala_emulator_switch
.hidden koala_emulator_switch
.type koala_emulator_switch,@function
koala_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size koala_emulator_switch,.-koala_emulator_switch
)");

#if defined(__SANITIZE_ADDRESS__)
inline thread_local const void* scheduler_stack;
inline thread_local size_t scheduler_stack_bytes;
inline void run(Fiber* f) {
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, f->stack, STACK);
  koala_emulator_switch(&gpu->scheduler, f->stack_pointer);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
inline void leave(Fiber* f) {
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(f->wait == ENDED ? nullptr : &fake, scheduler_stack, scheduler_stack_bytes);
  koala_emulator_switch(&f->stack_pointer, gpu->scheduler);
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_bytes);
}
inline void arrive() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes); }
inline void clear_stack(const Fiber& f) { __asan_unpoison_memory_region(f.stack, STACK); }
#else
inline void run(Fiber* f) { koala_emulator_switch(&gpu->scheduler, f->stack_pointer); }
inline void leave(Fiber* f) { koala_emulator_switch(&f->stack_pointer, gpu->scheduler); }
inline void arrive() {}
inline void clear_stack(const Fiber&) {}
#endif

/** The current thread stops until it may go on. */
inline void wait(Wait reason) {
  Fiber* f = gpu->current;
  f->wait = reason;
  leave(f);
}

/** The current thread ends with an error. */
inline void trap(const char* what, const void* address) {
  const dim3 t = gpu->current->thread;
  report("thread (%u,%u,%u): %s %p is not 16-byte aligned", t.x, t.y, t.z, what, address);
  wait(ENDED);
}
inline void require_aligned(const char* what, const void* p) {
  if ((uintptr_t)p % 16) trap(what, p);
}

inline void fiber_main() {
  arrive();
  gpu->body.call(gpu->body.context);
  wait(ENDED);
  abort();  // nothing resumes a fiber that ended
}

inline void start_fiber(Fiber& f, unsigned i) {
  const dim3 size = gpu->block_size;
  f.thread = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
  f.lane = i % 32;
  f.warp = i / 32;
  f.wait = RUNNABLE;
  f.parity = 0;
  f.open.clear();
  f.groups.clear();
  clear_stack(f);
  void** top = (void**)(((uintptr_t)f.stack + STACK) & ~(uintptr_t)15);
  *--top = nullptr;
  *--top = (void*)fiber_main;
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  f.stack_pointer = top;
}

// ---- scheduling ----
/** Runs lanes [first, end), a warp, until all wait at a barrier or have ended; sometimes stops earlier. */
inline bool run_warp(unsigned first, unsigned end, unsigned* live) {
  for (bool progress = false;; progress = true) {
    bool ran = false;
    const unsigned turn = gpu->random() % 32;
    for (unsigned j = 0; j < 32; j++) {
      const unsigned i = first + (j + turn) % 32;
      if (i >= end || gpu->fibers[i].wait != RUNNABLE) continue;
      gpu->current = &gpu->fibers[i];
      run(gpu->current);
      ran = true;
      if (gpu->fibers[i].wait == ENDED) --*live;
    }
    if (!ran) return progress;
    unsigned at_op = 0, at_barrier = 0;
    for (unsigned i = first; i < end; i++) {
      at_op += gpu->fibers[i].wait == AT_WARP_OP;
      at_barrier += gpu->fibers[i].wait == AT_BARRIER;
    }
    if (at_op == 0) return true;
    if (at_op < end - first) {
      report("of the %u lanes of warp %u, %u are at a warp operation, %u at __syncthreads and %u have ended",
          end - first, first / 32, at_op, at_barrier, end - first - at_op - at_barrier);
      return false;
    }
    for (unsigned i = first; i < end; i++) {
      if (gpu->fibers[i].warp_op != gpu->fibers[first].warp_op)
        report("lanes of warp %u are at %s and at %s", first / 32, gpu->fibers[first].warp_op, gpu->fibers[i].warp_op);
      gpu->fibers[i].wait = RUNNABLE;
    }
    if (gpu->random() % 64 == 0) return true;
  }
}

inline void run_block(unsigned threads) {
  for (unsigned i = 0; i < threads; i++) start_fiber(gpu->fibers[i], i);
  std::vector<unsigned> order((threads + 31) / 32);
  for (unsigned w = 0; w < order.size(); w++) order[w] = w;
  for (unsigned live = threads; live > 0 && !gpu->error[0];) {
    std::shuffle(order.begin(), order.end(), gpu->random);
    bool progress = false;
    for (unsigned w : order) {
      progress |= run_warp(32 * w, std::min(threads, 32 * w + 32), &live);
      if (gpu->error[0]) return;
    }
    unsigned waiting = 0;
    for (unsigned i = 0; i < threads; i++) waiting += gpu->fibers[i].wait == AT_BARRIER;
    if (waiting > 0 && waiting == live) {
      for (unsigned i = 0; i < threads; i++)
        if (gpu->fibers[i].wait == AT_BARRIER) gpu->fibers[i].wait = RUNNABLE;
      progress = true;
    }
    if (!progress && live > 0) report("%u of %u threads wait at __syncthreads for ever", waiting, live);
  }
}

/** Shared memory of one declaration, filled with NaNs for each block. */
inline void* static_shared(const void* site, size_t bytes) {
  for (const StaticShared& s : gpu->statics)
    if (s.site == site) return s.data;
  unsigned char* data = (unsigned char*)allocate_exactly(16, bytes);
  memset(data, 0xff, bytes);
  gpu->statics.push_back({site, data, bytes});
  return data;
}

inline void launch_body(dim3 grid, dim3 block, size_t shared_bytes, Body body) {
  if (fall() || open_gpu()->error[0]) return;  // as on a GPU, nothing runs after a failure until it is asked for
  const unsigned threads = block.x * block.y * block.z;
  gpu->grid_size = grid;
  gpu->block_size = block;
  gpu->block = dim3(0, 0, 0);
  gpu->body = body;
  if (threads == 0 || threads > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) {
    report("a grid of (%u,%u,%u) blocks of %u threads cannot be launched", grid.x, grid.y, grid.z, threads);
    return;
  }
  for (size_t i = gpu->fibers.size(); i < threads; i++) {
    gpu->fibers.push_back({});
    gpu->fibers[i].stack = (char*)aligned_alloc(64, STACK);
  }
  gpu->warps.resize((gpu->fibers.size() + 31) / 32);
  gpu->dynamic_shared = (unsigned char*)allocate_exactly(16, shared_bytes);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x && !gpu->error[0]; x++) {
        gpu->block = dim3(x, y, z);
        memset(gpu->dynamic_shared, 0xff, shared_bytes);
        for (const StaticShared& s : gpu->statics) memset(s.data, 0xff, s.bytes);
        run_block(threads);
      }
  free(gpu->dynamic_shared);
  for (const StaticShared& s : gpu->statics) free(s.data);
  gpu->statics.clear();
}

/** Shows v to the warp and returns when all lanes did: slot 0 of 32. */
template <class T> inline const unsigned char* show(const char* op, const T& v) {
  static_assert(sizeof(T) <= SLOT, "a lane shows at most 64 bytes");
  Fiber* f = gpu->current;
  unsigned char(*slots)[SLOT] = gpu->warps[f->warp].slot[f->parity];
  memcpy(slots[f->lane], &v, sizeof(T));
  f->warp_op = op;
  wait(AT_WARP_OP);
  f->parity ^= 1;
  return slots[0];
}
template <class T> inline T shown(const unsigned char* slots, unsigned lane) {
  T v;
  memcpy(&v, slots + SLOT * (lane % 32), sizeof v);
  return v;
}

}  // namespace emulator

#define threadIdx (emulator::gpu->current->thread)
#define blockIdx (emulator::gpu->block)
#define blockDim (emulator::gpu->block_size)
#define gridDim (emulator::gpu->grid_size)

inline void __syncthreads() { emulator::wait(emulator::AT_BARRIER); }
inline void __syncwarp() { emulator::show("__syncwarp", 0); }

#include "emulator_ops.h"
#include "emulator_runtime.h"
#include "emulator_stream.h"
