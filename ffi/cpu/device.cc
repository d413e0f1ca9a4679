// Opens the processor: chooses the instruction set, starts the threads, owns scratch; memory and mapped files.
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <initializer_list>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>

namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 { extern const Kernels kernels; }
#endif
namespace portable { extern const Kernels kernels; }

namespace {

constexpr int32_t ABI_VERSION = 4;
constexpr size_t HUGE_PAGE = 2 << 20;
constexpr int64_t STREAMED = 1 << 20;  // bytes of a copy that goes past the caches

thread_local char last_error[1024];

struct Isa {
  const char* name;
  const Kernels* kernels;
  const char* missing;  // instructions this processor lacks, or nullptr
};

/** All builds in this library, best first. */
int list_isas(Isa* isas) {
  int n = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
      && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
      && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  isas[n++] = {"avx512bf16", &avx512bf16::kernels, has_bf16 ? nullptr : "AVX-512 with BF16 and VNNI"};
  isas[n++] = {"avx512", &avx512::kernels, has_avx512 ? nullptr : "AVX-512 (F, BW, VL, DQ)"};
  isas[n++] = {"avx2", &avx2::kernels, has_avx2 ? nullptr : "AVX2, FMA and F16C"};
#endif
  isas[n++] = {"portable", &portable::kernels, nullptr};
  return n;
}

/** The best build that the processor runs, or the one that KOALA_ISA names. */
int32_t choose_isa(koala_device* dev) {
  Isa isas[4];
  const int n = list_isas(isas);
  const char* wanted = getenv("KOALA_ISA");
  for (int i = 0; i < n; i++) {
    if (wanted && *wanted ? strcmp(wanted, isas[i].name) != 0 : isas[i].missing != nullptr) continue;
    REQUIRE(!isas[i].missing,
        "KOALA_ISA asks for %s, but this processor lacks %s. Unset it to use the best there is.", wanted,
        isas[i].missing);
    dev->kernels = dev->chosen = isas[i].kernels;
    dev->isa = isas[i].name;
    return 0;
  }
  return fail("KOALA_ISA is \"%s\"; this library has%s portable.", wanted, n > 1 ? " avx512bf16, avx512, avx2 and"
      : " only");
}

/** First line of a small file, or an empty string. */
void read_line(const char* path, char* line, int bytes) {
  *line = 0;
  FILE* file = fopen(path, "re");
  if (!file) return;
  if (!fgets(line, bytes, file)) *line = 0;
  line[strcspn(line, "\n")] = 0;
  fclose(file);
}

/** Processors that a container's quota allows, or a large number. */
int quota_processors() {
  char line[128], path[600], own[512];
  long long quota = 0, period = 0;
  read_line("/proc/self/cgroup", own, sizeof own);
  snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", strncmp(own, "0::", 3) ? "" : own + 3);
  for (const char* file : {(const char*)path, "/sys/fs/cgroup/cpu.max"}) {
    read_line(file, line, sizeof line);
    if (sscanf(line, "%lld %lld", &quota, &period) == 2 && quota > 0
        && period > 0) return (int)((quota + period - 1) / period);
  }
  read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof line);
  quota = atoll(line);
  read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", line, sizeof line);
  period = atoll(line);
  return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : THREADS_MAX;
}

int available_processors() {
  cpu_set_t set;
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
  const int quota = quota_processors();
  if (quota < n) n = quota;
  return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
}

double memory_limit() {
  double bytes = (double)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    char line[64];
    read_line(path, line, sizeof line);
    const double limit = atof(line);
    if (limit > 0 && limit < bytes) bytes = limit;
  }
  return bytes;
}

/** The processor's name, without characters that JSON would need escaped. */
void processor_name(char* name, int bytes) {
  snprintf(name, bytes, "CPU");
  FILE* file = fopen("/proc/cpuinfo", "re");
  if (!file) return;
  char line[256];
  while (fgets(line, sizeof line, file)) {
    const char* colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) || !colon) continue;
    int n = 0;
    for (const char* c = colon + 2; *c && n < bytes - 1; c++)
      if (*c >= ' ' && *c < 127 && *c != '"' && *c != '\\') name[n++] = *c;
    name[n] = 0;
    break;
  }
  fclose(file);
}

size_t mapped_bytes(size_t bytes) {
  const size_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : 4096;
  return (bytes + unit - 1) / unit * unit;
}

int32_t grow(Scratch* scratch, size_t bytes, size_t slack) {
  if (bytes <= scratch->bytes) return 0;
  bytes += slack;
  void* data = pages_alloc(bytes);
  REQUIRE(data, "The system has no memory for %.1f MiB of scratch.", bytes / 1048576.);
  pages_free(scratch->data, scratch->bytes);
  *scratch = {(char*)data, bytes};
  return 0;
}


/** memcpy that does not read the destination's lines first and leaves the caches alone. */
void stream(char* to, const char* from, int64_t n) {
#if defined(__x86_64__)
  for (; n > 0 && (uintptr_t)to % 16; n--) *to++ = *from++;
  for (; n >= 64; n -= 64, to += 64, from += 64)
    for (int i = 0; i < 64; i += 16) _mm_stream_si128((__m128i*)(to + i), _mm_loadu_si128((const __m128i*)(from + i)));
  _mm_sfence();
#endif
  memcpy(to, from, n);
}

}  // namespace

int32_t fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(last_error, sizeof last_error, format, values);
  va_end(values);
  return -1;
}

int32_t reserve(koala_device* dev, size_t shared_bytes, size_t local_bytes) {
  if (dev->rehearsing) {
    if (shared_bytes > dev->needed_shared) dev->needed_shared = shared_bytes;
    if (local_bytes > dev->needed_local) dev->needed_local = local_bytes;
    return fail("The device is rehearsing: nothing was computed.");
  }
  if (grow(&dev->shared, shared_bytes, shared_bytes / 4)) return -1;
  for (int i = 0; i < dev->pool.threads; i++)
    if (grow(&dev->local[i], local_bytes, local_bytes / 4)) return -1;
  return 0;
}

void* pages_alloc(size_t bytes) {
  const size_t size = mapped_bytes(bytes ? bytes : 1), slack = size >= HUGE_PAGE ? HUGE_PAGE : 0;
  char* data = (char*)mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
      -1, 0);
  if (data == MAP_FAILED) return nullptr;
  if (!slack) return data;
  // Huge pages need an aligned start: give back what lies before it and behind the end.
  char* start = (char*)(((uintptr_t)data + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
  if (start > data) munmap(data, start - data);
  if (start + size < data + size + slack) munmap(start + size, data + slack - start);
  madvise(start, size, MADV_HUGEPAGE);
  return start;
}

void pages_free(void* data, size_t bytes) {
  if (data) munmap(data, mapped_bytes(bytes ? bytes : 1));
}

int32_t koala_abi_version(void) { return ABI_VERSION; }
const char* koala_last_error(void) { return last_error; }

int32_t koala_device_open(koala_device** out, int32_t ordinal, int32_t threads) {
  REQUIRE_POINTER("device_open", out);
  REQUIRE(ordinal == 0, "koala_device_open: there is no CPU device %d; the CPU is device 0.", ordinal);
  REQUIRE(threads >= 0 && threads <= THREADS_MAX,
      "koala_device_open: %d threads were asked for; 0 (one per core) to %d are possible.", threads, THREADS_MAX);
  koala_device* dev = new (std::nothrow) koala_device;
  REQUIRE(dev, "koala_device_open: the system has no memory for a device.");
  if (choose_isa(dev)) {
    delete dev;
    return -1;
  }
  const int count = threads ? threads : available_processors();
  if (!pool_start(&dev->pool, count)) {
    delete dev;
    return fail("koala_device_open: the system refused to start %d threads. Ask for fewer.", count);
  }
  *out = dev;
  return 0;
}

int32_t koala_device_close(koala_device* dev) {
  REQUIRE_POINTER("device_close", dev);
  pool_stop(&dev->pool);
  pages_free(dev->shared.data, dev->shared.bytes);
  for (Scratch& s : dev->local) pages_free(s.data, s.bytes);
  delete dev;
  return 0;
}

int32_t koala_device_info(koala_device* dev, char* json, int32_t bytes) {
  REQUIRE_POINTER("device_info", dev);
  REQUIRE_POINTER("device_info", json);
  char name[128];
  processor_name(name, sizeof name);
  const int n = snprintf(json, bytes > 0 ? bytes : 0,
      "{\"name\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"memory_bytes\":%.0f}", name, dev->isa, dev->pool.threads,
      memory_limit());
  REQUIRE(n < bytes, "koala_device_info: the description takes %d bytes and the buffer has %d.", n + 1, bytes);
  return 0;
}

int32_t koala_device_rehearse(koala_device* dev, int32_t on) {
  REQUIRE_POINTER("device_rehearse", dev);
  dev->rehearsing = on != 0;
  if (on) dev->needed_shared = dev->needed_local = 0;
  return 0;
}

int32_t koala_device_scratch(koala_device* dev, double* bytes, int32_t reserve) {
  REQUIRE_POINTER("device_scratch", dev);
  REQUIRE_POINTER("device_scratch", bytes);
  const int threads = dev->pool.threads;
  auto pages = [](size_t n) { return n ? (double)mapped_bytes(n) : 0.; };
  if (reserve) {
    if (grow(&dev->shared, dev->needed_shared, 0)) return -1;
    for (int i = 0; i < threads; i++)
      if (grow(&dev->local[i], dev->needed_local, 0)) return -1;
  }
  bytes[0] = pages(dev->shared.bytes);
  for (int i = 0; i < threads; i++) bytes[0] += pages(dev->local[i].bytes);
  bytes[1] = pages(dev->needed_shared) + threads * pages(dev->needed_local);
  return 0;
}

int32_t koala_memory_alloc(koala_device* dev, void** out, double bytes) {
  REQUIRE_POINTER("memory_alloc", dev);
  REQUIRE_POINTER("memory_alloc", out);
  REQUIRE(is_byte_count(bytes), "koala_memory_alloc: %g is not a number of bytes.", bytes);
  *out = pages_alloc((size_t)bytes);
  REQUIRE(*out, "The system has no memory for %.1f MiB more.", bytes / 1048576.);
  return 0;
}

int32_t koala_memory_free(koala_device* dev, void* data, double bytes) {
  REQUIRE_POINTER("memory_free", dev);
  REQUIRE_POINTER("memory_free", data);
  REQUIRE(is_byte_count(bytes), "koala_memory_free: %g is not a number of bytes.", bytes);
  pages_free(data, (size_t)bytes);
  return 0;
}

int32_t koala_memory_copy(koala_device* dev, void* to, const void* from, double bytes) {
  REQUIRE_POINTER("memory_copy", dev);
  REQUIRE(is_byte_count(bytes), "koala_memory_copy: %g is not a number of bytes.", bytes);
  if (bytes == 0) return 0;
  REQUIRE_POINTER("memory_copy", to);
  REQUIRE_POINTER("memory_copy", from);
  const int64_t count = (int64_t)bytes, piece = 1 << 17;
  const bool overlap = (const char*)to < (const char*)from + count && (const char*)from < (const char*)to + count;
  parallel_for(&dev->pool, !overlap, count, overlap ? count : piece, [&](int64_t begin, int64_t end, int) {
    if (overlap || count < STREAMED) memmove((char*)to + begin, (const char*)from + begin, end - begin);
    else stream((char*)to + begin, (const char*)from + begin, end - begin);
  });
  return 0;
}
