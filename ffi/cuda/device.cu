// Opens a GPU and owns its stream and scratch; memory, copies and mapped files.
#include "cublaslt_device.cuh"
#include "device.cuh"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

constexpr int32_t ABI_VERSION = 4;
constexpr int DRIVER_MIN = 13000;          // what the runtime inside this library needs
constexpr size_t STAGING = 1 << 20;        // page-locked bytes for uploads on their way
constexpr size_t STAGED_MAX = STAGING / 8; // larger ones go directly

thread_local char last_error[1024];

/** What is wrong with this machine's driver, in one sentence; 0 where all is well. */
int32_t check_driver(int* count) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  REQUIRE(driver != 0, "No NVIDIA driver was found (libcuda.so.1). Install driver 580 or newer, or use --device cpu.");
  REQUIRE(driver >= DRIVER_MIN,
      "The NVIDIA driver speaks CUDA %d.%d, and this library needs %d.%d: install driver 580 or newer, or the "
      "package cuda-compat-13-0, or use --device cpu.",
      driver / 1000, driver % 1000 / 10, DRIVER_MIN / 1000, DRIVER_MIN % 1000 / 10);
  const cudaError_t status = cudaGetDeviceCount(count);
  REQUIRE(status == cudaSuccess && *count > 0, "The NVIDIA driver shows no GPU (%s). nvidia-smi says more.",
      cudaGetErrorString(status));
  return 0;
}

/** Takes what a device needs; what was taken before a failure is given back by koala_device_close. */
int32_t prepare(koala_device* dev) {
  cudaDeviceProp properties;
  REQUIRE_CUDA("device_open", cudaSetDevice(dev->ordinal));
  REQUIRE_CUDA("device_open", cudaGetDeviceProperties(&properties, dev->ordinal));
  dev->architecture = properties.major * 10 + properties.minor;
  REQUIRE(dev->architecture >= 80,
      "koala_device_open: GPU %d (%s) has compute capability %d.%d; 8.0 (Ampere) or newer is needed.", dev->ordinal,
      properties.name, properties.major, properties.minor);
  dev->processors = properties.multiProcessorCount;
  dev->shared_bytes = properties.sharedMemPerBlockOptin;
  REQUIRE_CUDA("device_open", cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking));
  REQUIRE_CUDA("device_open", cudaMallocHost(&dev->staging, STAGING));
  REQUIRE_CUDA("device_open", cudaMallocHost(&dev->faults, sizeof(Faults)));
  memset((void*)dev->faults, 0, sizeof(Faults));
  const char* sync = getenv("KOALA_SYNC");
  if (cublaslt_open(dev, properties.name)) return -1;
  dev->synchronous = sync && *sync && strcmp(sync, "0") != 0;
  return 0;
}

/** The sentence of the first index that a kernel found wrong. */
int32_t report_faults(koala_device* dev) {
  static const char* const sentences[FAULT_KINDS] = {
      "%s: token %d of row %d is outside the vocabulary of %d.",
      "%s: position %d of row %d is outside the table of %d.",
      "%s: slot %d of row %d is outside the cache of %d.",
      "%s: index %d of row %d is outside the %d rows.",
      "%s: page %d of row %d is outside the cache of %d.",
      "%s: target %d of row %d is outside the vocabulary of %d.",
      "%1$s: order[%3$d] is %2$d, outside the %4$d rows.",
  };
  static const char* const negative[FAULT_KINDS] = {nullptr, "%s: position %d of row %d is negative.",
      "%s: slot %d of row %d is negative.", "%s: index %d of row %d is negative.",
      "%s: page %d of row %d is negative.", nullptr, nullptr};
  int32_t status = 0;
  for (int kind = 0; kind < FAULT_KINDS; kind++) {
    const uint64_t fault = dev->faults->at[kind];
    if (!fault) continue;
    dev->faults->at[kind] = 0;
    const int value = (int)(uint32_t)fault, row = (int)(uint32_t)(fault >> 32) - 1;
    const char* symbol = dev->checks[kind].symbol;
    if (value < 0 && negative[kind]) status = fail(negative[kind], symbol, value, row);
    else status = fail(sentences[kind], symbol, value, row, dev->checks[kind].limit);
  }
  return status;
}

/** Notes that the graph that is recorded lacks an op, whose sentence is told already. */
int32_t lacking(koala_device* dev) {
  dev->incomplete = true;
  return -1;
}

int32_t grow_scratch(koala_device* dev, size_t bytes) {
  if (bytes <= dev->scratch_bytes) return 0;
  if (dev->recording) {
    fail("The device records a graph, and an op of it needs %.0f bytes of scratch where %.0f are held: call it once before.",
        (double)bytes, (double)dev->scratch_bytes);
    return lacking(dev);
  }
  REQUIRE_CUDA("device", cudaStreamSynchronize(dev->stream));  // ops that use the old block
  if (!is_recorded(dev, dev->scratch)) cudaFree(dev->scratch);
  dev->scratch = nullptr;
  dev->scratch_bytes = 0;
  if (cudaMalloc(&dev->scratch, bytes) != cudaSuccess) {
    cudaGetLastError();
    return fail("The GPU has no memory for %.1f MiB of scratch.", bytes / 1048576.);
  }
  dev->scratch_bytes = bytes;
  return 0;
}

/** Of blocks that living graphs use and ops do not any more. */
size_t retired_bytes(const koala_device* dev) {
  size_t bytes = 0;
  const void* counted = dev->scratch;
  for (const koala_graph* graph = dev->graphs; graph; graph = graph->next) {
    if (graph->scratch != counted && graph->scratch != dev->scratch) bytes += graph->scratch_bytes;
    counted = graph->scratch;  // graphs of one block stand together: the list is in the order of the recordings
  }
  return bytes;
}

/** A small upload: through page-locked memory, so that the caller may change `from` at once. */
int32_t stage(koala_device* dev, void* to, const void* from, size_t bytes) {
  if (dev->staged + bytes > STAGING) {
    REQUIRE_CUDA("memory_copy", cudaStreamSynchronize(dev->stream));
    dev->staged = 0;
  }
  char* place = dev->staging + dev->staged;
  memcpy(place, from, bytes);
  dev->staged += (bytes + 255) / 256 * 256;
  REQUIRE_CUDA("memory_copy", cudaMemcpyAsync(to, place, bytes, cudaMemcpyHostToDevice, dev->stream));
  return 0;
}

/** Within the device; ranges may overlap. */
int32_t move(koala_device* dev, void* to, const void* from, size_t bytes) {
  const bool overlap = (const char*)to < (const char*)from + bytes && (const char*)from < (const char*)to + bytes;
  if (overlap) {
    if (grow_scratch(dev, bytes)) return -1;
    REQUIRE_CUDA("memory_copy", cudaMemcpyAsync(dev->scratch, from, bytes, cudaMemcpyDeviceToDevice, dev->stream));
    from = dev->scratch;
  }
  REQUIRE_CUDA("memory_copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, dev->stream));
  return 0;
}

}  // namespace

int32_t fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(last_error, sizeof last_error, format, values);
  va_end(values);
  return -1;
}

int32_t begin(koala_device* dev, const char* symbol, size_t scratch_bytes) {
  if (dev->rehearsing) {
    if (scratch_bytes > dev->scratch_needed) dev->scratch_needed = scratch_bytes;
    return fail("The device is rehearsing: nothing was computed.");
  }
  REQUIRE_CUDA("device", cudaSetDevice(dev->ordinal));  // which costs nothing where it is current
  if (grow_scratch(dev, scratch_bytes)) return -1;
  dev->symbol = symbol;
  if (OpRecord* record = dev->record) {
    // In this order: whoever reads 1 finds the symbol that it is about.
    memset(record->symbol, 0, sizeof record->symbol);
    strncpy(record->symbol, symbol, sizeof record->symbol - 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    *(volatile double*)&record->running = 1;
  }
  return 0;
}

int32_t finish(koala_device* dev) {
  cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) dev->incomplete = true;
  if (status == cudaSuccess && dev->synchronous && !dev->recording) status = cudaStreamSynchronize(dev->stream);
  if (dev->record) *(volatile double*)&dev->record->running = 0;
  if (status != cudaSuccess) return fail("%s: %s (%s).", dev->symbol, cudaGetErrorString(status), cudaGetErrorName(status));
  return report_faults(dev);
}

int32_t wait_for(koala_device* dev) {
  if (dev->recording) {
    fail("The device records a graph: nothing can wait for it, or be copied to or from the host, before the recording ends.");
    return lacking(dev);
  }
  REQUIRE_CUDA("device", cudaStreamSynchronize(dev->stream));
  dev->staged = 0;
  return report_faults(dev);
}

Faults* checked(koala_device* dev, FaultKind kind, int32_t limit) {
  dev->checks[kind] = {dev->symbol, limit};
  return dev->faults;
}

bool is_recorded(const koala_device* dev, const void* scratch) {
  for (const koala_graph* graph = dev->graphs; graph; graph = graph->next)
    if (scratch && graph->scratch == scratch) return true;
  return false;
}

bool is_device_memory(const void* p) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, p) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

int32_t copy(koala_device* dev, void* to, const void* from, size_t bytes) {
  const bool on_device = is_device_memory(from);
  if (is_device_memory(to)) {
    if (on_device) return move(dev, to, from, bytes);
    if (dev->recording) return wait_for(dev);  // which says that it cannot be
    if (bytes <= STAGED_MAX) return stage(dev, to, from, bytes);
    REQUIRE_CUDA("memory_copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, dev->stream));
    return wait_for(dev);
  }
  if (on_device && !dev->recording) REQUIRE_CUDA("memory_copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, dev->stream));
  if (wait_for(dev)) return -1;
  if (!on_device) memmove(to, from, bytes);
  return 0;
}

int32_t koala_abi_version(void) { return ABI_VERSION; }
const char* koala_last_error(void) { return last_error; }

int32_t koala_device_open(koala_device** out, int32_t ordinal, int32_t) {
  REQUIRE_POINTER("device_open", out);
  int count = 0;
  if (check_driver(&count)) return -1;
  REQUIRE(ordinal >= 0 && ordinal < count, "koala_device_open: there is no GPU %d; this machine has %d, counted from 0.",
      ordinal, count);
  koala_device* dev = (koala_device*)malloc(sizeof(koala_device));
  REQUIRE(dev, "koala_device_open: the system has no memory for a device.");
  *dev = koala_device();
  dev->ordinal = ordinal;
  if (prepare(dev)) {
    koala_device_close(dev);
    return -1;
  }
  *out = dev;
  return 0;
}

int32_t koala_device_close(koala_device* dev) {
  REQUIRE_POINTER("device_close", dev);
  if (dev->recording) koala_graph_end(dev, nullptr);
  if (dev->stream) cudaStreamSynchronize(dev->stream);
  while (dev->graphs) koala_graph_close(dev, dev->graphs);
  cudaFree(dev->scratch);
  if (dev->staging) cudaFreeHost(dev->staging);
  if (dev->faults) cudaFreeHost(dev->faults);
  cublaslt_close(dev);
  if (dev->stream) cudaStreamDestroy(dev->stream);
  cudaGetLastError();
  free(dev);
  return 0;
}

int32_t koala_device_info(koala_device* dev, char* json, int32_t bytes) {
  REQUIRE_POINTER("device_info", dev);
  REQUIRE_POINTER("device_info", json);
  cudaDeviceProp properties;
  REQUIRE_CUDA("device_info", cudaGetDeviceProperties(&properties, dev->ordinal));
  size_t free_bytes = 0, total = 0;
  REQUIRE_CUDA("device_info", cudaSetDevice(dev->ordinal));
  REQUIRE_CUDA("device_info", cudaMemGetInfo(&free_bytes, &total));
  const int n = snprintf(json, bytes > 0 ? bytes : 0,
      "{\"name\":\"%s\",\"isa\":\"sm_%d\",\"threads\":%d,\"memory_bytes\":%.0f,\"free_bytes\":%.0f,\"gemm\":\"%s\"}",
      properties.name, dev->architecture, dev->processors, (double)total, (double)free_bytes, dev->gemm);
  REQUIRE(n < bytes, "koala_device_info: the description takes %d bytes and the buffer has %d.", n + 1, bytes);
  return 0;
}

int32_t koala_device_rehearse(koala_device* dev, int32_t on) {
  REQUIRE_POINTER("device_rehearse", dev);
  dev->rehearsing = on != 0;
  if (on) dev->scratch_needed = 0;
  return 0;
}

int32_t koala_device_scratch(koala_device* dev, double* bytes, int32_t reserve) {
  REQUIRE_POINTER("device_scratch", dev);
  REQUIRE_POINTER("device_scratch", bytes);
  if (reserve && grow_scratch(dev, dev->scratch_needed)) return -1;
  bytes[0] = (double)(dev->scratch_bytes + retired_bytes(dev));
  bytes[1] = (double)dev->scratch_needed;
  return 0;
}

int32_t koala_device_record(koala_device* dev, void* record) {
  REQUIRE_POINTER("device_record", dev);
  dev->record = (OpRecord*)record;
  return 0;
}

int32_t koala_memory_alloc(koala_device* dev, void** out, double bytes) {
  REQUIRE_POINTER("memory_alloc", dev);
  REQUIRE_POINTER("memory_alloc", out);
  REQUIRE(is_byte_count(bytes), "koala_memory_alloc: %g is not a number of bytes.", bytes);
  REQUIRE(!dev->recording, "koala_memory_alloc: the device records a graph; memory is taken before or after.");
  REQUIRE_CUDA("memory_alloc", cudaSetDevice(dev->ordinal));
  if (cudaMalloc(out, (size_t)(bytes < 1 ? 1 : bytes)) != cudaSuccess) {
    cudaGetLastError();
    return fail("The GPU has no memory for %.1f MiB more.", bytes / 1048576.);
  }
  REQUIRE_CUDA("memory_alloc", cudaMemsetAsync(*out, 0, (size_t)bytes, dev->stream));
  return 0;
}

int32_t koala_memory_free(koala_device* dev, void* data, double bytes) {
  REQUIRE_POINTER("memory_free", dev);
  REQUIRE_POINTER("memory_free", data);
  REQUIRE(is_byte_count(bytes), "koala_memory_free: %g is not a number of bytes.", bytes);
  REQUIRE(!dev->recording, "koala_memory_free: the device records a graph; memory is given back before or after.");
  REQUIRE_CUDA("memory_free", cudaStreamSynchronize(dev->stream));
  REQUIRE_CUDA("memory_free", cudaFree(data));
  return 0;
}

int32_t koala_memory_copy(koala_device* dev, void* to, const void* from, double bytes) {
  REQUIRE_POINTER("memory_copy", dev);
  REQUIRE(is_byte_count(bytes), "koala_memory_copy: %g is not a number of bytes.", bytes);
  if (bytes == 0) return 0;
  REQUIRE_POINTER("memory_copy", to);
  REQUIRE_POINTER("memory_copy", from);
  REQUIRE_CUDA("memory_copy", cudaSetDevice(dev->ordinal));
  return copy(dev, to, from, (size_t)bytes);
}
