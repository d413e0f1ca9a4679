// The calls of the CUDA runtime that the host side makes, for the emulator: one device whose memory is this process's own.
//
// Everything has happened when a call returns, so streams and events are empty. cudaPointerGetAttributes knows what
// cudaMalloc and cudaMallocHost gave and calls the rest the host's, as a GPU without shared page tables would.
#pragma once
#include <unistd.h>

#include <map>
#include <mutex>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoDevice = 100,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2, cudaHostRegisterPortable = 1 };
typedef struct emulated_stream* cudaStream_t;
typedef struct emulated_event* cudaEvent_t;

struct cudaPointerAttributes { cudaMemoryType type; int device; void* devicePointer; void* hostPointer; };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  size_t sharedMemPerBlockOptin;
  int multiProcessorCount, major, minor;
};

namespace emulator {
struct Allocation { size_t bytes; cudaMemoryType type; };
struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;  // by address
};
inline Memory memory;
inline thread_local char shown_error[400] = "no error";

inline cudaError_t allocate(void** out, size_t bytes, cudaMemoryType type) {
  *out = nullptr;
  if (bytes > (size_t)1 << 40) return cudaErrorMemoryAllocation;
  *out = allocate_exactly(256, bytes);
  if (!*out) return cudaErrorMemoryAllocation;
  memset(*out, 0xff, std::min(bytes, (size_t)16 << 20));  // NaNs, where a test would look
  std::lock_guard<std::mutex> lock(memory.mutex);
  memory.allocations[(uintptr_t)*out] = {bytes, type};
  return cudaSuccess;
}
inline cudaError_t release(void* p) {
  std::lock_guard<std::mutex> lock(memory.mutex);
  if (!p) return cudaSuccess;
  if (!memory.allocations.erase((uintptr_t)p)) return cudaErrorInvalidValue;
  free(p);
  return cudaSuccess;
}
/** The allocation that holds p, or nullptr. The caller has the lock. */
inline const Allocation* find_allocation(const volatile void* p) {
  auto at = memory.allocations.upper_bound((uintptr_t)p);
  if (at == memory.allocations.begin()) return nullptr;
  --at;
  return (uintptr_t)p < at->first + std::max<size_t>(at->second.bytes, 1) ? &at->second : nullptr;
}
inline bool is_reachable(const volatile void* p) {
  std::lock_guard<std::mutex> lock(memory.mutex);
  return find_allocation(p) != nullptr;
}
}  // namespace emulator

inline const char* cudaGetErrorName(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : e ? "cudaErrorLaunchFailure" : "cudaSuccess"; }
inline const char* cudaGetErrorString(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "out of memory" : e == cudaErrorLaunchFailure ? emulator::shown_error : e ? "invalid value" : "no error"; }
inline cudaError_t cudaGetLastError() {
  if (!emulator::open_gpu()->error[0]) return cudaSuccess;
  memcpy(emulator::shown_error, emulator::gpu->error, sizeof emulator::shown_error);
  emulator::gpu->error[0] = 0;
  return cudaErrorLaunchFailure;
}
inline cudaError_t cudaPeekAtLastError() { return emulator::open_gpu()->error[0] ? cudaErrorLaunchFailure : cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
inline cudaError_t cudaSetDevice(int i) { return i == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"Emulated GPU", (size_t)8 << 30, 227 << 10, 4, 9, 0};
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) { *free_bytes = *total = (size_t)8 << 30; return cudaSuccess; }
template <class T> inline cudaError_t cudaMalloc(T** p, size_t n) { return emulator::allocate((void**)p, n, cudaMemoryTypeDevice); }
template <class T> inline cudaError_t cudaMallocHost(T** p, size_t n) { return emulator::allocate((void**)p, n, cudaMemoryTypeHost); }
inline cudaError_t cudaFree(void* p) { return emulator::release(p); }
inline cudaError_t cudaFreeHost(void* p) { return emulator::release(p); }
/** Processes have different ones, as ranks on a machine with several GPUs. */
inline cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int) { snprintf(id, bytes, "emulated:%d", getpid()); return cudaSuccess; }
inline cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
  std::lock_guard<std::mutex> lock(emulator::memory.mutex);
  emulator::memory.allocations[(uintptr_t)p] = {n, cudaMemoryTypeHost};
  return cudaSuccess;
}
inline cudaError_t cudaHostUnregister(void* p) {
  std::lock_guard<std::mutex> lock(emulator::memory.mutex);
  return emulator::memory.allocations.erase((uintptr_t)p) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  std::lock_guard<std::mutex> lock(emulator::memory.mutex);
  const emulator::Allocation* allocation = emulator::find_allocation(p);
  *a = {cudaMemoryTypeUnregistered, 0, nullptr, (void*)p};
  if (allocation) *a = {allocation->type, 0, (void*)p, (void*)p};
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) { memmove(to, from, n); return cudaSuccess; }
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) { memmove(to, from, n); return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t) { memset(p, value, n); return cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { *s = nullptr; return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaPeekAtLastError(); }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaPeekAtLastError(); }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = nullptr; return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
template <class F> inline cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) { return cudaSuccess; }
