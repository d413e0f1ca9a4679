// The calls of the CUDA runtime that the host side makes, for the emulator: one device whose memory is this process's own.
//
// Everything has happened when a call returns, unless it was captured (emulator_stream.h). cudaPointerGetAttributes knows
// what cudaMalloc and cudaMallocHost gave and calls the rest the host's, as a GPU without shared page tables would.
//  KOALA_EMULATOR_GPU=name    what the GPU's bus calls it; processes with one name have one GPU
//  KOALA_EMULATOR_PEERS=b,-c  further GPUs that are seen, of which those with a dash are no peers
//  KOALA_EMULATOR_LOST=n      the GPU fails for good when its n-th kernel begins
#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <string>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoDevice = 100,
  cudaErrorInsufficientDriver = 35,
  cudaErrorIllegalState = 401,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureWrongThread = 908
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaIpcMemLazyEnablePeerAccess = 1, cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2, cudaHostRegisterPortable = 1 };
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
struct Allocation { size_t bytes; cudaMemoryType type; uint64_t number = 0; int file = -1; bool foreign = false; };
struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;  // by address
  uint64_t made = 0;  // the number of the youngest
};
inline Memory memory;
inline thread_local char shown_error[400] = "no error";
constexpr size_t PAGE = 4096;
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
  if (lost) return cudaErrorIllegalAddress;
  if (const cudaError_t status = forbidden()) return status;
  if (bytes > (size_t)1 << 40) return cudaErrorMemoryAllocation;
  // Whole pages may be shown to other processes.
  *out = allocate_exactly(type == cudaMemoryTypeDevice && bytes % PAGE == 0 ? PAGE : 256, bytes);
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
  auto at = memory.allocations.find((uintptr_t)p);
  if (at == memory.allocations.end() || at->second.foreign) return cudaErrorInvalidValue;
  if (at->second.file >= 0) {
    // A process that still reads it ends, where CUDA promises nothing.
    if (ftruncate(at->second.file, 0) != 0) return cudaErrorInvalidValue;
    mmap(p, at->second.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    close(at->second.file);
  }
  memory.allocations.erase(at);
  free(p);
  return cudaSuccess;
}
inline bool is_reachable(const volatile void* p) {
  std::lock_guard<std::mutex> lock(memory.mutex);
  return allocation_of((uintptr_t)p) != memory.allocations.end();
}
/** Names of the GPUs that this process sees, its own first; by default processes have different ones. */
inline std::vector<std::string> gpus() {
  const char* own = getenv("KOALA_EMULATOR_GPU");
  std::vector<std::string> names = {"emulated:" + (own && *own ? std::string(own) : std::to_string(getpid()))};
  const char* peers = getenv("KOALA_EMULATOR_PEERS");
  for (std::string rest = peers ? peers : ""; !rest.empty();) {
    const size_t comma = rest.find(',');
    names.push_back((rest[0] == '-' ? "-emulated:" : "emulated:") + rest.substr(rest[0] == '-', comma - (rest[0] == '-')));
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
  }
  return names;
}
}  // namespace emulator

inline const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaErrorLaunchFailure";
  }
}
inline const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return emulator::shown_error;
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "invalid value";
  }
}
inline cudaError_t cudaGetLastError() {
  if (emulator::lost) return cudaErrorIllegalAddress;
  const cudaError_t status = emulator::last_status;
  emulator::last_status = cudaSuccess;
  if (!emulator::open_gpu()->error[0]) return status;
  memcpy(emulator::shown_error, emulator::gpu->error, sizeof emulator::shown_error);
  emulator::gpu->error[0] = 0;
  return cudaErrorLaunchFailure;
}
inline cudaError_t cudaPeekAtLastError() { return emulator::lost ? cudaErrorIllegalAddress : emulator::open_gpu()->error[0] ? cudaErrorLaunchFailure : emulator::last_status; }
inline cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* n) { *n = (int)emulator::gpus().size(); return cudaSuccess; }
inline cudaError_t cudaSetDevice(int i) { return i == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"Emulated GPU", (size_t)8 << 30, 227 << 10, 4, 9, 0};
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *free_bytes = *total = (size_t)8 << 30;
  return emulator::lost ? cudaErrorIllegalAddress : cudaSuccess;
}
template <class T> inline cudaError_t cudaMalloc(T** p, size_t n) { return emulator::allocate((void**)p, n, cudaMemoryTypeDevice); }
template <class T> inline cudaError_t cudaMallocHost(T** p, size_t n) { return emulator::allocate((void**)p, n, cudaMemoryTypeHost); }
inline cudaError_t cudaFree(void* p) { return emulator::release(p); }
inline cudaError_t cudaFreeHost(void* p) { return emulator::release(p); }
inline cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
  std::lock_guard<std::mutex> lock(emulator::memory.mutex);
  emulator::memory.allocations[(uintptr_t)p] = {n, cudaMemoryTypeHost, ++emulator::memory.made};
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

// ---- several processes, several GPUs ----
inline cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int i) {
  const std::string name = emulator::gpus()[i];
  snprintf(id, bytes, "%s", name.c_str() + (name[0] == '-'));
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetByPCIBusId(int* i, const char* id) {
  const std::vector<std::string> names = emulator::gpus();
  for (size_t at = 0; at < names.size(); at++)
    if (names[at] == id || names[at] == "-" + std::string(id)) return *i = (int)at, cudaSuccess;
  return cudaErrorInvalidDevice;
}
inline cudaError_t cudaDeviceCanAccessPeer(int* can, int own, int other) {
  *can = own != other && emulator::gpus()[other][0] != '-';
  return cudaSuccess;
}

struct cudaIpcMemHandle_t { char reserved[64]; };
namespace emulator {
/** The memory behind a handle: an open file of its process. */
struct SharedPages { pid_t process; int file; size_t bytes; };
}  // namespace emulator

/** The pages move into a file, where they lie. */
inline cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* p) {
  std::lock_guard<std::mutex> lock(emulator::memory.mutex);
  auto at = emulator::memory.allocations.find((uintptr_t)p);
  if (at == emulator::memory.allocations.end() || at->second.foreign || at->second.bytes % emulator::PAGE) return cudaErrorInvalidValue;
  emulator::Allocation& a = at->second;
  if (a.file < 0) {
    const int file = memfd_create("koala-emulator", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)a.bytes) != 0) return cudaErrorMemoryAllocation;
    for (size_t done = 0; done < a.bytes;) {
      const ssize_t n = pwrite(file, (char*)p + done, a.bytes - done, (off_t)done);
      if (n <= 0) return cudaErrorMemoryAllocation;
      done += (size_t)n;
    }
    if (mmap(p, a.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) return cudaErrorMemoryAllocation;
    a.file = file;
  }
  const emulator::SharedPages pages = {getpid(), a.file, a.bytes};
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &pages, sizeof pages);
  return cudaSuccess;
}
/** As CUDA: of other processes only. */
inline cudaError_t cudaIpcOpenMemHandle(void** p, cudaIpcMemHandle_t handle, unsigned) {
  emulator::SharedPages pages;
  memcpy(&pages, &handle, sizeof pages);
  if (pages.process == getpid()) return cudaErrorInvalidValue;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", pages.process, pages.file);
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return cudaErrorInvalidValue;
  void* data = mmap(nullptr, pages.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (data == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::lock_guard<std::mutex> lock(emulator::memory.mutex);
  emulator::memory.allocations[(uintptr_t)data] = {pages.bytes, cudaMemoryTypeDevice, ++emulator::memory.made, -1, true};
  *p = data;
  return cudaSuccess;
}
inline cudaError_t cudaIpcCloseMemHandle(void* p) {
  std::lock_guard<std::mutex> lock(emulator::memory.mutex);
  auto at = emulator::memory.allocations.find((uintptr_t)p);
  if (at == emulator::memory.allocations.end() || !at->second.foreign) return cudaErrorInvalidValue;
  munmap(p, at->second.bytes);
  emulator::memory.allocations.erase(at);
  return cudaSuccess;
}
