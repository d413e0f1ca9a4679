// Collectives through NCCL: it moves bytes between GPUs, our kernel adds them in rank order. So every rank, every run and
// every transport gets the same bits, at the traffic of NCCL's own ring.
//
// A sum goes in rounds: each rank sends every other its part and adds what came, kept apart in `staging`, rank by rank.
// NCCL never blocks this thread (blocking = 0): what is under way is asked for again and again, beside the question whether
// a rank is lost. Ranks of one host have a shared memory object, too (comm.cc): there they meet before each collective, so
// that different calls, ranks that end and aborts are noticed at once; memory of the host goes through it altogether.
// Without it, on several hosts, NCCL's own errors and the time tell.
#include "rank_sums.cuh"
#include "nccl.cuh"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

namespace {

constexpr size_t STAGING = 64 << 20;         // bytes of a round
constexpr int64_t SPIN_NS = 100000;          // before a wait sleeps
constexpr int64_t GRACE_NS = 2000000000;     // for what a rank sent before it ended
constexpr int64_t LOOK_NS = 20000000;        // between looks for ranks that ended

struct NcclEnd {
  const Nccl* library = nullptr;
  NcclComm* comm = nullptr;
  char* staging = nullptr;
  cudaEvent_t done = nullptr;
  bool controlled = false;  // by shared memory
  int gave_up = 0;          // without it: 1 + the rank that did
};

NcclEnd* end_of(koala_comm* c) { return (NcclEnd*)c->carrier; }

/** One collective while it is waited for. */
struct Wait {
  koala_comm* c;
  NcclEnd* end;
  double timeout_s;
  int64_t start, look = 0, missed = 0;
  Wait(koala_comm* c, double timeout_s) : c(c), end(end_of(c)), timeout_s(timeout_s), start(clock_ns()) {}

  int32_t failed(int result) {
    const char* more = end->comm ? end->library->GetLastError(end->comm) : "";
    return fail("%s: NCCL failed: %s. %.300s", c->what, end->library->GetErrorString(result), more ? more : "");
  }
  int32_t missing(int64_t now) {
    if (now < look) return 0;
    look = now + LOOK_NS;
    const int rank = comm_missing(c);
    if (rank < 0) return 0;
    if (!missed) missed = now;
    if (now - missed < GRACE_NS) return 0;
    shared_memory.give_up(c, rank, false);
    return comm_look(c);
  }
  /** -1 with a sentence, if what is waited for will not come; else a pause. */
  int32_t pause() {
    const int64_t now = clock_ns();
    if (end->controlled && (comm_look(c) || missing(now))) return -1;
    const int rank = __atomic_load_n(&end->gave_up, __ATOMIC_ACQUIRE);
    if (rank) return fail("%s: rank %d aborted.", c->what, rank - 1);
    if (now - start > timeout_s * 1e9)
      return fail("%s: not over within %g seconds; another rank is gone or hangs.", c->what, timeout_s);
    if (now - start < SPIN_NS) sched_yield();
    else usleep(50);
    return 0;
  }
  /** Returns when NCCL has taken the call that gave `result`. */
  int32_t taken(int result) {
    while (result == NCCL_IN_PROGRESS) {
      const int status = end->library->CommGetAsyncError(end->comm, &result);
      if (status != NCCL_SUCCESS) return failed(status);
      if (result == NCCL_IN_PROGRESS && pause()) return -1;
    }
    return result == NCCL_SUCCESS ? 0 : failed(result);
  }
  /** Returns when all that was queued is over. */
  int32_t over() {
    REQUIRE_CUDA("comm", cudaEventRecord(end->done, of_device(c)->stream));
    for (;;) {
      const cudaError_t status = cudaEventQuery(end->done);
      if (status == cudaSuccess) return 0;
      if (status != cudaErrorNotReady) return fail("%s: %s.", c->what, cudaGetErrorString(status));
      cudaGetLastError();
      if (taken(NCCL_IN_PROGRESS) || pause()) return -1;
    }
  }
};

/** Sends every rank r `lengths.length(r)` elements from `from` + r * stride, and takes this rank's of all to staging. */
template <class T> int32_t exchange_parts(Wait& wait, const T* from, int64_t stride, const Parts& parts) {
  NcclEnd* end = wait.end;
  koala_comm* c = wait.c;
  cudaStream_t stream = of_device(c)->stream;
  const int64_t own = parts.length(c->rank);
  int result = end->library->GroupStart();
  for (int r = 0; r < c->world && result == NCCL_SUCCESS; r++) {
    if (parts.length(r) > 0)
      result = end->library->Send(from + r * stride, parts.length(r) * sizeof(T), NCCL_BYTES, r, end->comm, stream);
    if (own > 0 && result == NCCL_SUCCESS)
      result = end->library->Recv((T*)end->staging + r * parts.part, own * sizeof(T), NCCL_BYTES, r, end->comm, stream);
  }
  const int ended = end->library->GroupEnd();
  return wait.taken(result == NCCL_SUCCESS ? ended : result);
}

/** Sends this rank's part of x to all, and takes theirs. */
template <class T> int32_t share_parts(Wait& wait, T* x, const Parts& parts) {
  NcclEnd* end = wait.end;
  koala_comm* c = wait.c;
  cudaStream_t stream = of_device(c)->stream;
  const int64_t own = parts.length(c->rank);
  int result = end->library->GroupStart();
  for (int r = 0; r < c->world && result == NCCL_SUCCESS; r++) {
    if (r == c->rank) continue;
    if (own > 0)
      result = end->library->Send(x + c->rank * parts.part, own * sizeof(T), NCCL_BYTES, r, end->comm, stream);
    if (parts.length(r) > 0 && result == NCCL_SUCCESS)
      result = end->library->Recv(x + r * parts.part, parts.length(r) * sizeof(T), NCCL_BYTES, r, end->comm, stream);
  }
  const int ended = end->library->GroupEnd();
  return wait.taken(result == NCCL_SUCCESS ? ended : result);
}

template <class Out, class T> int32_t sum_parts(Wait& wait, Out* to, int64_t stride, int64_t n, bool accumulate) {
  RankParts parts;
  for (int r = 0; r < wait.c->world; r++) parts.at[r] = (const T*)wait.end->staging + r * stride;
  return sum_ranks<Out, T>(wait.c, to, parts, n, accumulate);
}

/** Elements of a rank's part of one round: whole 16-byte groups. */
template <class T> int64_t part_max(koala_comm* c) { return (int64_t)(STAGING / sizeof(T) / c->world) / 16 * 16; }

template <class T> int32_t all_reduce(Wait& wait, const Collective& collective) {
  T* x = (T*)collective.out;
  const int world = wait.c->world, rank = wait.c->rank;
  const int64_t n = (int64_t)collective.n, round = part_max<T>(wait.c) * world;
  for (int64_t at = 0; at < n; at += round) {
    const int64_t count = n - at < round ? n - at : round;
    const Parts parts = {count, (count + world - 1) / world};
    if (exchange_parts(wait, x + at, parts.part, parts)) return -1;
    if (sum_parts<T, T>(wait, x + at + rank * parts.part, parts.part, parts.length(rank), false)) return -1;
    if (share_parts(wait, x + at, parts)) return -1;
  }
  return wait.over();
}

template <class Out, class T> int32_t reduce_scatter(Wait& wait, const Collective& collective) {
  Out* out = (Out*)collective.out;
  const T* x = (const T*)collective.x;
  const int world = wait.c->world;
  const int64_t part = (int64_t)collective.n / world, round = part_max<T>(wait.c);
  for (int64_t at = 0; at < part; at += round) {
    const int64_t count = part - at < round ? part - at : round;
    if (exchange_parts(wait, x + at, part, Parts{count * world, count})) return -1;
    if (sum_parts<Out, T>(wait, out + at, count, count, collective.accumulate != 0)) return -1;
  }
  return wait.over();
}

int32_t all_gather(Wait& wait, const Collective& collective) {
  NcclEnd* end = wait.end;
  const size_t bytes = (size_t)collective.n;
  if (bytes > 0 && wait.taken(end->library->AllGather(collective.x, collective.out, bytes, NCCL_BYTES, end->comm,
      of_device(wait.c)->stream))) return -1;
  return wait.over();
}

int32_t broadcast(Wait& wait, const Collective& collective) {
  NcclEnd* end = wait.end;
  const size_t bytes = (size_t)collective.n;
  if (bytes > 0 && wait.taken(end->library->Broadcast(collective.out, collective.out, bytes, NCCL_BYTES, collective.type,
      end->comm, of_device(wait.c)->stream))) return -1;
  return wait.over();
}

/** Without shared memory: all have sent all a byte. */
int32_t barrier(Wait& wait, const Collective& collective) {
  Collective bytes = collective;
  bytes.out = wait.end->staging, bytes.x = wait.end->staging + wait.c->rank, bytes.n = 1;
  return all_gather(wait, bytes);
}

/** Without shared memory: every rank's bytes, of host memory, by way of the GPU. */
int32_t all_gather_of_host(Wait& wait, const Collective& collective) {
  koala_comm* c = wait.c;
  const size_t bytes = (size_t)collective.n;
  REQUIRE(bytes * c->world <= STAGING, "%s: %zu bytes of host memory a rank; at most %zu can be gathered without shared memory.",
      c->what, bytes, STAGING / c->world);
  Collective staged = collective;
  staged.out = wait.end->staging, staged.x = wait.end->staging + c->rank * bytes;
  if (comm_copy(c, (void*)staged.x, collective.x, bytes) || all_gather(wait, staged)) return -1;
  return comm_copy(c, collective.out, wait.end->staging, bytes * c->world) || comm_settle(c) ? -1 : 0;
}

int32_t run_on_device(Wait& wait, const Collective& x) {
  switch (x.kind) {
    case ALL_REDUCE:
      if (x.type == KOALA_F64) return all_reduce<double>(wait, x);
      return x.type == KOALA_BF16 ? all_reduce<bf16>(wait, x) : all_reduce<float>(wait, x);
    case REDUCE_SCATTER:
      if (x.type == KOALA_F64) return reduce_scatter<double, double>(wait, x);
      if (x.type == KOALA_BF16) return reduce_scatter<bf16, bf16>(wait, x);
      return x.accumulate == 2 ? reduce_scatter<bf16, float>(wait, x) : reduce_scatter<float, float>(wait, x);
    case ALL_GATHER: return all_gather(wait, x);
    case BROADCAST: return broadcast(wait, x);
    default: return barrier(wait, x);
  }
}

/** After a failure nothing of NCCL can be used any more. */
int32_t lose(koala_comm* c) {
  NcclEnd* end = end_of(c);
  if (end->controlled) shared_memory.give_up(c, c->rank, true);
  if (end->comm) end->library->CommAbort(end->comm);
  end->comm = nullptr;
  return -1;
}

int32_t run(koala_comm* c, const Collective& collective) {
  NcclEnd* end = end_of(c);
  const bool on_host = collective.kind != BARRIER && !is_device_memory(collective.out);
  Wait wait(c, collective.timeout_s);
  if (end->controlled) {
    if (collective.kind == BARRIER || on_host) return shared_memory.run(c, collective) ? lose(c) : 0;
    if (comm_meet(c, collective)) return lose(c);
  } else if (on_host) {
    if (collective.kind == ALL_GATHER) return all_gather_of_host(wait, collective) ? lose(c) : 0;
    fail("%s: the memory is the host's; ranks on several hosts exchange memory of the GPU.", c->what);
    return lose(c);
  }
  return run_on_device(wait, collective) ? lose(c) : 0;
}

void give_up(koala_comm* c, int rank, bool aborted) {
  NcclEnd* end = end_of(c);
  if (end->controlled) shared_memory.give_up(c, rank, aborted);
  else __atomic_store_n(&end->gave_up, rank + 1, __ATOMIC_RELEASE);
}

void leave(koala_comm* c) {
  NcclEnd* end = end_of(c);
  if (end->comm) end->library->CommDestroy(end->comm);
  if (end->controlled) shared_memory.leave(c);
  if (end->staging) cudaFree(end->staging);
  if (end->done) cudaEventDestroy(end->done);
  free(end);
  c->carrier = nullptr;
}

NcclId id_of(const char* name) {
  NcclId id;
  const char* digits = name + NCCL_PREFIX_LENGTH;
  auto value = [](char digit) { return digit <= '9' ? digit - '0' : digit - 'a' + 10; };
  for (int i = 0; i < NCCL_ID_DIGITS / 2; i++) id.bytes[i] = (char)(value(digits[2 * i]) * 16 + value(digits[2 * i + 1]));
  return id;
}

int32_t connect(koala_comm* c, const char* name, double timeout_s) {
  NcclEnd* end = end_of(c);
  REQUIRE_CUDA("comm_open", cudaSetDevice(of_device(c)->dev->ordinal));
  REQUIRE_CUDA("comm_open", cudaMalloc(&end->staging, STAGING));
  REQUIRE_CUDA("comm_open", cudaEventCreateWithFlags(&end->done, cudaEventDisableTiming));
  Wait wait(c, timeout_s);
  NcclConfig config;
  const int result = end->library->CommInitRankConfig(&end->comm, c->world, id_of(name), c->rank, &config);
  return wait.taken(result);
}

int32_t join(koala_comm* c, const char* name, double timeout_s) {
  const Nccl* library = nccl_library();
  if (!library) return -1;
  NcclEnd* end = (NcclEnd*)malloc(sizeof(NcclEnd));
  REQUIRE(end, "koala_comm_open: the system has no memory for a communicator.");
  *end = NcclEnd();
  end->library = library;
  c->carrier = end;
  const char* object = name + NCCL_PREFIX_LENGTH + NCCL_ID_DIGITS;
  if (*object && shared_memory.join(c, object, timeout_s)) {
    leave(c);
    return -1;
  }
  end->controlled = *object != 0;
  strcpy(c->what, "koala_comm_open");
  if (connect(c, name, timeout_s) == 0) return 0;
  lose(c);
  leave(c);
  return -1;
}

}  // namespace

const CommTransport nccl = {join, leave, run, give_up};

int32_t koala_comm_offer(koala_device* dev, char* json, int32_t bytes) {
  REQUIRE_POINTER("comm_offer", dev);
  REQUIRE_POINTER("comm_offer", json);
  char bus[64] = "", version[16] = "", name[NCCL_PREFIX_LENGTH + NCCL_ID_DIGITS + 1] = "";
  REQUIRE_CUDA("comm_offer", cudaDeviceGetPCIBusId(bus, sizeof bus, dev->ordinal));
  if (const Nccl* library = nccl_library()) {
    NcclId id;
    const int result = library->GetUniqueId(&id);
    REQUIRE(result == NCCL_SUCCESS, "koala_comm_offer: NCCL gives no id: %s. %.300s", library->GetErrorString(result),
        library->GetLastError(nullptr));
    snprintf(version, sizeof version, "%d.%d.%d", library->version / 10000, library->version / 100 % 100,
        library->version % 100);
    strcpy(name, NCCL_PREFIX);
    for (int i = 0; i < NCCL_ID_DIGITS / 2; i++)
      snprintf(name + NCCL_PREFIX_LENGTH + 2 * i, 3, "%02x", (unsigned char)id.bytes[i]);
  }
  char peers[600] = "";
  if (list_peers(dev, peers, sizeof peers)) return -1;
  const int n = snprintf(json, bytes > 0 ? bytes : 0,
      "{\"nccl\":\"%s\",\"device\":\"%s\",\"name\":\"%s\",\"peers\":[%s]}", version, bus, name, peers);
  REQUIRE(n < bytes, "koala_comm_offer: the offer takes %d bytes and the buffer has %d.", n + 1, bytes);
  return 0;
}
