// The calls of the CUDA runtime that the host side makes, for the emulator: one device whose memory is this process's own.
//
// Everything has happened when a call returns, unless it was captured (emulator_stream.h). cudaPointerGetAttributes knows
// what cudaMalloc and cudaMallocHost gave and calls the rest the host's, as a GPU without shared page tables would.
#pragma once
#include <time.h>
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
  cudaErrorIllegalState = 401,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureWrongThread = 908
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2, cudaHostRegisterPortable = 1 };
typedef struct emulated_stream* cudaStream_t;
typedef struct emulated_event { double ms; }* cudaEvent_t;

struct cudaPointerAttributes { cudaMemoryType type; int device; void* devicePointer; void* hostPointer; };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  size_t sharedMemPerBlockOptin;
  int multiProcessorCount, major, minor;
};

namespace emulator {
struct Allocation { size_t bytes; cudaMemoryType type; uint64_t number = 0; };
struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;  // by address
  uint64_t made = 0;  // the number of the youngest
};
inline Memory memory;
inline thread_local char shown_error[400] = "no error";
inline thread_local cudaError_t last_status = cudaSuccess;  // of calls, beside gpu->error of kernels

/** The error of a call that may not be made while this thread captures; it spoils the capture, as on a GPU. */
inline cudaError_t forbidden();

/** The allocation that p points into, or end(); under the mutex. */
inline std::map<uintptr_t, Allocation>::iterator allocation_of(uintptr_t p) {
  auto at = memory.allocations.upper_bound(p);
  if (at == memory.allocations.begin()) return memory.allocations.end();
  --at;
  return p < at->first + std::max<size_t>(at->second.bytes, 1) ? at : memory.allocations.end();
}

inline cudaError_t allocate(void** out, size_t bytes, cudaMemoryType type) {
  *out = nullptr;
  if (const cudaError_t status = forbidden()) return status;
  if (bytes > (size_t)1 << 40) return cudaErrorMemoryAllocation;
  *out = allocate_exactly(256, bytes);
  if (!*out) return cudaErrorMemoryAllocation;
  memset(*out, 0xff, std::min(bytes, (size_t)16 << 20));  // NaNs, where a test would look
  std::lock_guard<std::mutex> lock(memory.mutex);
  Allocation& made = memory.allocations[(uintptr_t)*out] = {bytes, type};
  made.number = ++memory.made;
  return cudaSuccess;
}
inline cudaError_t release(void* p) {
  if (const cudaError_t status = forbidden()) return status;
  std::lock_guard<std::mutex> lock(memory.mutex);
  if (!p) return cudaSuccess;
  if (!memory.allocations.erase((uintptr_t)p)) return cudaErrorInvalidValue;
  free(p);
  return cudaSuccess;
}
inline bool is_reachable(const volatile void* p) {
  std::lock_guard<std::mutex> lock(memory.mutex);
  return allocation_of((uintptr_t)p) != memory.allocations.end();
}
}  // namespace emulator

inline const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaErrorLaunchFailure";
  }
}
inline const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorLaunchFailure: return emulator::shown_error;
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "invalid value";
  }
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t status = emulator::last_status;
  emulator::last_status = cudaSuccess;
  if (!emulator::open_gpu()->error[0]) return status;
  memcpy(emulator::shown_error, emulator::gpu->error, sizeof emulator::shown_error);
  emulator::gpu->error[0] = 0;
  return cudaErrorLaunchFailure;
}
inline cudaError_t cudaPeekAtLastError() { return emulator::open_gpu()->error[0] ? cudaErrorLaunchFailure : emulator::last_status; }
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
  const auto at = emulator::allocation_of((uintptr_t)p);
  *a = {cudaMemoryTypeUnregistered, 0, nullptr, (void*)p};
  if (at != emulator::memory.allocations.end()) *a = {at->second.type, 0, (void*)p, (void*)p};
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t status = emulator::forbidden()) return status;
  return cudaPeekAtLastError();
}
/** Marks processor time of this thread, so that nothing else that runs here counts; one that is not for timing is nothing. */
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) { *e = flags & cudaEventDisableTiming ? nullptr : (cudaEvent_t)calloc(1, sizeof **e); return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  if (e) e->ms = t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
  return cudaSuccess;
}
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) { *ms = (float)(end->ms - start->ms); return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
template <class F> inline cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) { return cudaSuccess; }
