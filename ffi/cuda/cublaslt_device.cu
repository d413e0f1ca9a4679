// Chooses cuBLASLt's algorithms by timing them, and multiplies.
#include "cublaslt_device.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gemm_cache.cuh"

namespace {

constexpr int CHAINS = 256;  // of the table of plans
constexpr int RUNS = 5;      // of an algorithm; their median counts
constexpr float HOPELESS = 1.5f;  // times the best one's time: not worth more runs

/** A shape and what it is multiplied by. */
struct Choice {
  Choice* next;
  LtKey key;  // T is that of all the products that share it
  LtPlan plan;
  LtAlgorithm chosen, used;  // `used` fits `rows`
  int rows;
  bool settled;  // nothing more will be timed
  bool has_chosen, has_used;
  bool none_runs;  // of the proposals that were timed
};

/** The smallest power of two, or middle of two, that is not below T. */
int shared_rows(int T) {
  int64_t rows = LT_ROWS;
  while (rows < T) rows *= 2;
  const int64_t middle = rows / 4 * 3;
  return (int)(middle >= T && middle > LT_ROWS ? middle : rows < INT32_MAX ? rows : INT32_MAX);
}

/** The median of RUNS numbers. */
float median(float* v) {
  for (int i = 1; i < RUNS; i++)
    for (int j = i; j > 0 && v[j - 1] > v[j]; j--) {
      const float t = v[j];
      v[j] = v[j - 1], v[j - 1] = t;
    }
  return v[RUNS / 2];
}

}  // namespace

struct LtDevice {
  const Cublaslt* lt;
  void* handle;
  GemmCache cache;
  Choice* choices[CHAINS];
};

namespace {

int32_t failed(koala_device* dev, const LtProduct& p, const char* step, int status) {
  return fail("%s: cuBLASLt failed for T=%d N=%d K=%d (%s: %s).", dev->symbol, p.key.T, p.key.N, p.key.K, step,
      dev->cublaslt->lt->GetStatusString(status));
}

/** Where the key's choice is, or would be appended. */
Choice** find(LtDevice* own, const LtKey& key) {
  int32_t numbers[sizeof key / sizeof(int32_t)];
  memcpy(numbers, &key, sizeof key);
  uint32_t hash = 0;
  for (int32_t number : numbers) hash = (hash ^ (uint32_t)number) * 0x9e3779b1u;
  Choice** at = &own->choices[hash >> 24];
  while (*at && memcmp(&(*at)->key, &key, sizeof key) != 0) at = &(*at)->next;
  return at;
}

/** A choice that is still open. */
int32_t add(koala_device* dev, Choice** at, const LtKey& key, const LtProduct& p) {
  Choice* made = (Choice*)calloc(1, sizeof(Choice));
  REQUIRE(made, "%s: the system has no memory for the plan of a product.", dev->symbol);
  made->key = key;
  const Cublaslt* lt = dev->cublaslt->lt;
  if (const int status = lt_describe(lt, &made->plan, p.key, p.bias)) {
    const char* step = made->plan.step;
    lt_discard(lt, &made->plan);
    free(made);
    return failed(dev, p, step, status);
  }
  *at = made;
  return 0;
}

/** Whether the device can be waited for. */
bool may_wait(koala_device* dev) {
  cudaStreamCaptureStatus status;
  return cudaStreamIsCapturing(dev->stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusNone;
}

/** What timing takes: marks on the stream, and a place for results where the old ones are still needed. */
struct Clock {
  cudaEvent_t start = nullptr, end = nullptr;
  void* place = nullptr;
  ~Clock() {
    if (start) cudaEventDestroy(start);
    if (end) cudaEventDestroy(end);
    cudaFree(place);
  }
};

/** Milliseconds of a run with `algorithm`; infinite where it does not run. `best` is the least so far. */
int32_t time_one(koala_device* dev, Choice* choice, const LtProduct& p, const LtAlgorithm& algorithm, const Clock& clock,
    void* workspace, float best, float* took) {
  LtDevice* own = dev->cublaslt;
  void* const to = clock.place ? clock.place : p.to;
  float runs[RUNS];
  for (int run = -1; run < RUNS; run++) {  // the first one warms up
    REQUIRE_CUDA("matmul", cudaEventRecord(clock.start, dev->stream));
    if (lt_run(own->lt, own->handle, &choice->plan, p, p.to, to, algorithm, workspace, dev->stream) != 0) {
      cudaGetLastError();
      *took = INFINITY;
      return 0;
    }
    REQUIRE_CUDA("matmul", cudaEventRecord(clock.end, dev->stream));
    REQUIRE_CUDA("matmul", cudaEventSynchronize(clock.end));
    if (run < 0) continue;
    REQUIRE_CUDA("matmul", cudaEventElapsedTime(&runs[run], clock.start, clock.end));
    if (run == 0 && runs[0] > HOPELESS * best) {
      *took = runs[0];
      return 0;
    }
  }
  *took = median(runs);
  return 0;
}

/** The fastest of `count` proposals goes to choice->chosen. *timed is false where there was no memory for that, and none
 *  where none runs. */
int32_t time_all(koala_device* dev, Choice* choice, const LtProduct& p, const LtHeuristic* proposals, int count,
    void* workspace, bool* timed) {
  *timed = false;
  choice->chosen = proposals[0].algorithm;
  choice->has_chosen = true;
  if (count == 1) return *timed = true, 0;
  Clock clock;
  if (p.key.accumulate) {
    const size_t columns = p.key.kind == LT_FORWARD ? p.key.T : p.key.K;
    if (cudaMalloc(&clock.place, columns * p.key.N * (p.key.type == LT_R_32F ? 4 : 2)) != cudaSuccess) {
      cudaGetLastError();
      clock.place = nullptr;
      return 0;
    }
  }
  REQUIRE_CUDA("matmul", cudaEventCreateWithFlags(&clock.start, cudaEventDefault));
  REQUIRE_CUDA("matmul", cudaEventCreateWithFlags(&clock.end, cudaEventDefault));
  float best = INFINITY;
  for (int i = 0; i < count; i++) {
    float took;
    if (time_one(dev, choice, p, proposals[i].algorithm, clock, workspace, best, &took)) return -1;
    if (took < best) best = took, choice->chosen = proposals[i].algorithm;
  }
  choice->has_chosen = best < INFINITY;
  choice->none_runs = !choice->has_chosen;
  return *timed = true, 0;
}

/** Takes the file's choice, or times the library's proposals. */
int32_t settle(koala_device* dev, Choice* choice, const LtProduct& p, void* workspace) {
  LtDevice* own = dev->cublaslt;
  if (gemm_cache_find(own->cache, choice->key, &choice->chosen)) {
    choice->settled = choice->has_chosen = true;
    return 0;
  }
  if (!may_wait(dev)) return 0;
  LtHeuristic proposals[LT_ALGORITHMS];
  int count = 0;
  if (const int status = lt_propose(own->lt, own->handle, &choice->plan, proposals, LT_ALGORITHMS, &count))
    return failed(dev, p, choice->plan.step, status);
  bool timed = false;
  if (count > 0 && time_all(dev, choice, p, proposals, count, workspace, &timed)) return -1;
  choice->settled = true;
  if (timed && choice->has_chosen) gemm_cache_keep(own->cache, choice->key, &choice->chosen);
  return 0;
}

/** Finds what to use for p's rows: what was chosen, where it fits them, or else the library's first proposal; nothing,
 *  where none of the proposals ran. */
int32_t fit(koala_device* dev, Choice* choice, const LtProduct& p) {
  LtDevice* own = dev->cublaslt;
  choice->has_used = false;
  if (choice->none_runs) return 0;
  choice->used = choice->chosen;
  choice->has_used = choice->has_chosen && lt_fits(own->lt, own->handle, choice->plan, choice->chosen);
  if (choice->has_used) return 0;
  LtHeuristic first;
  int count = 0;
  if (const int status = lt_propose(own->lt, own->handle, &choice->plan, &first, 1, &count))
    return failed(dev, p, choice->plan.step, status);
  choice->used = first.algorithm;
  choice->has_used = count > 0;
  return 0;
}

}  // namespace

int32_t cublaslt_open(koala_device* dev, const char* gpu) {
  const char* asked = getenv("KOALA_GEMM");
  if (!asked || !*asked) asked = "auto";
  snprintf(dev->gemm, sizeof dev->gemm, "own kernels");
  if (strcmp(asked, "own") == 0) return 0;
  const bool needed = strcmp(asked, "cublaslt") == 0;
  REQUIRE(needed || strcmp(asked, "auto") == 0, "KOALA_GEMM is \"%s\", and there are auto, cublaslt and own.", asked);
  const Cublaslt* lt = cublaslt_library();
  REQUIRE(lt || !needed, "KOALA_GEMM is \"cublaslt\", and cuBLASLt was not found. Name its folder in KOALA_CUDA_LIBS, or "
      "unset KOALA_GEMM to multiply with kernels of our own.");
  if (!lt) return 0;
  const int major = (int)(lt->version / 10000), minor = (int)(lt->version / 100 % 100), patch = (int)(lt->version % 100);
  void* handle = nullptr;
  const int status = lt->Create(&handle);
  REQUIRE(status == 0 || !needed, "koala_device_open: cuBLASLt does not start (%s).", lt->GetStatusString(status));
  if (status != 0) {
    snprintf(dev->gemm, sizeof dev->gemm, "own kernels, as cuBLASLt %d.%d.%d does not start (%.80s)", major, minor, patch,
        lt->GetStatusString(status));
    return 0;
  }
  dev->cublaslt = (LtDevice*)calloc(1, sizeof(LtDevice));
  if (!dev->cublaslt) lt->Destroy(handle);
  REQUIRE(dev->cublaslt, "koala_device_open: the system has no memory for a device.");
  dev->cublaslt->lt = lt;
  dev->cublaslt->handle = handle;
  gemm_cache_open(&dev->cublaslt->cache, gpu, dev->architecture, lt->version);
  snprintf(dev->gemm, sizeof dev->gemm, "cuBLASLt %d.%d.%d", major, minor, patch);
  return 0;
}

void cublaslt_close(koala_device* dev) {
  LtDevice* own = dev->cublaslt;
  if (!own) return;
  for (Choice* choice : own->choices)
    while (choice) {
      Choice* next = choice->next;
      lt_discard(own->lt, &choice->plan);
      free(choice);
      choice = next;
    }
  own->lt->Destroy(own->handle);
  free(own);
  dev->cublaslt = nullptr;
}

bool cublaslt_takes(const koala_device* dev, int T, int N, int K) {
  return dev->cublaslt && T >= LT_ROWS && N >= LT_SIDE && K >= LT_SIDE && N % 8 == 0 && K % 8 == 0;
}

int32_t cublaslt_multiply(koala_device* dev, const LtProduct& p, void* workspace, bool* done) {
  LtDevice* own = dev->cublaslt;
  LtKey key = p.key;
  key.T = shared_rows(p.key.T);
  Choice** at = find(own, key);
  if (!*at && add(dev, at, key, p)) return -1;
  Choice* choice = *at;
  if (!choice->settled || choice->rows != p.key.T) {
    choice->rows = 0;
    if (const int status = lt_set_rows(own->lt, &choice->plan, p.key.T)) return failed(dev, p, choice->plan.step, status);
    if (!choice->settled && settle(dev, choice, p, workspace)) return -1;
    if (fit(dev, choice, p)) return -1;
    choice->rows = p.key.T;
  }
  *done = choice->has_used;
  if (!choice->has_used) return 0;
  const int status = lt_run(own->lt, own->handle, &choice->plan, p, p.to, p.to, choice->used, workspace, dev->stream);
  return status == 0 ? 0 : failed(dev, p, choice->plan.step, status);
}
