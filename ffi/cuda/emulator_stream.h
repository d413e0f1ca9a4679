// Streams of the emulator: what is queued runs at once, unless the stream captures; then it is kept, and runs when the
// graph is launched. Arguments are kept by value, as a GPU does.
//
// Finds what a recording may not do:
//  - a call that a capture forbids (waiting, taking or freeing memory, copies through pageable memory) fails and spoils it
//  - an argument on the host's stack, which is another's when the graph is launched
//  - a launch after memory was freed that an argument pointed to
#pragma once
#include <pthread.h>

#include <functional>
#include <tuple>

enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive, cudaStreamCaptureStatusInvalidated };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };

namespace emulator {

/** An allocation that an argument pointed into when it was captured. */
struct Reference {
  uintptr_t data;
  uint64_t number;
};

struct Node {
  std::function<void()> run;
  std::vector<Reference> memory;
};

struct Capture {
  pthread_t thread;
  uintptr_t stack, stack_end;  // of that thread
  bool spoiled = false;
  std::vector<Node> nodes;
};

}  // namespace emulator

struct emulated_stream { emulator::Capture* capture = nullptr; };
struct emulated_graph { std::vector<emulator::Node> nodes; };
typedef struct emulated_graph* cudaGraph_t;
typedef struct emulated_graph* cudaGraphExec_t;

namespace emulator {

inline thread_local Capture* capture = nullptr;  // that this thread began

/** The error of a call that is not permitted in a capture. */
inline cudaError_t spoil(Capture* c) {
  c->spoiled = true;
  return last_status = cudaErrorStreamCaptureUnsupported;
}
inline cudaError_t forbidden() { return capture ? spoil(capture) : cudaSuccess; }

/** Notes the addresses among the words of an argument, and refuses those of the stack. */
inline void note_addresses(const Capture& c, const void* argument, size_t bytes, std::vector<Reference>* memory_used) {
  for (size_t at = 0; at + sizeof(uintptr_t) <= bytes; at += sizeof(uintptr_t)) {
    uintptr_t word;
    memcpy(&word, (const char*)argument + at, sizeof word);
    if (word >= c.stack && word < c.stack_end) report("a captured argument points to the host's stack");
    std::lock_guard<std::mutex> lock(memory.mutex);
    const auto found = allocation_of(word);
    if (found != memory.allocations.end()) memory_used->push_back({found->first, found->second.number});
  }
}

inline bool is_alive(const Reference& r) {
  std::lock_guard<std::mutex> lock(memory.mutex);
  const auto found = memory.allocations.find(r.data);
  return found != memory.allocations.end() && found->second.number == r.number;
}

/** Runs f, or keeps it with what its arguments, one after another, point to. */
template <class F, class... A> inline cudaError_t queue(cudaStream_t stream, F&& f, const A&... arguments) {
  Capture* c = stream ? stream->capture : nullptr;
  if (!c) {
    f();
    return cudaSuccess;
  }
  if (c->spoiled) return last_status = cudaErrorStreamCaptureInvalidated;
  open_gpu()->block = dim3(0, 0, 0);
  Node node{f, {}};
  (note_addresses(*c, &arguments, sizeof arguments, &node.memory), ...);
  c->nodes.push_back(std::move(node));
  return cudaSuccess;
}

template <class... P, class... A>
inline void launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, void (*kernel)(P...), A&&... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> values;
  };
  Call call{kernel, std::tuple<P...>(std::forward<A>(arguments)...)};
  auto run = [grid, block, shared_bytes, call]() mutable {
    launch_body(grid, block, shared_bytes, {[](void* context) {
      Call* c = (Call*)context;
      std::apply(c->kernel, c->values);
    }, &call});
  };
  std::apply([&](const P&... values) { queue(stream, run, values...); }, call.values);
}

}  // namespace emulator

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { *s = new emulated_stream; return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t s) { delete s; return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (s && s->capture) return emulator::spoil(s->capture);
  return cudaPeekAtLastError();
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t s) {
  if (emulator::lost) return cudaErrorIllegalAddress;
  if (s && s->capture) {
    cudaPointerAttributes source, target;
    cudaPointerGetAttributes(&source, from);
    cudaPointerGetAttributes(&target, to);
    if (source.type == cudaMemoryTypeUnregistered || target.type == cudaMemoryTypeUnregistered) return emulator::spoil(s->capture);
  }
  return emulator::queue(s, [=]() { memmove(to, from, n); }, to, from);
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  if (emulator::lost) return cudaErrorIllegalAddress;
  if (const cudaError_t status = emulator::forbidden()) return status;
  memmove(to, from, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t s) {
  return emulator::queue(s, [=]() { memset(p, value, n); }, p);
}

// ---- graphs ----
inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (!s) return cudaErrorStreamCaptureUnsupported;
  if (s->capture || emulator::capture) return cudaErrorIllegalState;
  emulator::Capture* c = emulator::capture = s->capture = new emulator::Capture;
  c->thread = pthread_self();
  pthread_attr_t attributes;
  void* stack = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(c->thread, &attributes) == 0) {
    pthread_attr_getstack(&attributes, &stack, &bytes);
    pthread_attr_destroy(&attributes);
  }
  c->stack = (uintptr_t)stack, c->stack_end = (uintptr_t)stack + bytes;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!s || !s->capture) return cudaErrorIllegalState;
  if (!pthread_equal(s->capture->thread, pthread_self())) return cudaErrorStreamCaptureWrongThread;
  emulator::Capture* c = s->capture;
  s->capture = emulator::capture = nullptr;
  if (!c->spoiled) *graph = new emulated_graph{std::move(c->nodes)};
  const bool spoiled = c->spoiled;
  delete c;
  return spoiled ? emulator::last_status = cudaErrorStreamCaptureInvalidated : cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  const emulator::Capture* c = s ? s->capture : nullptr;
  *status = !c ? cudaStreamCaptureStatusNone : c->spoiled ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long = 0) {
  *exec = new emulated_graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { delete graph; return cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { delete exec; return cudaSuccess; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  if (s && s->capture) return emulator::spoil(s->capture);
  for (const emulator::Node& node : exec->nodes) {
    if (emulator::open_gpu()->error[0]) break;
    emulator::gpu->block = dim3(0, 0, 0);
    for (const emulator::Reference& r : node.memory)
      if (!emulator::is_alive(r)) emulator::report("memory that a captured argument points to was freed before the launch");
    if (!emulator::gpu->error[0]) node.run();
  }
  return cudaSuccess;
}
