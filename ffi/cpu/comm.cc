// Communicator of the ranks of one host: one shared memory object with a slot for each rank.
//
// A collective goes through the slots piece by piece. Each slot has two halves used in turn: whoever writes a half
// again has met all ranks since they read it. Sums run over ranks 0, 1, 2 ..., so all ranks get equal bits.
// Each rank holds a lock on its own byte of the object; the system drops it when the process ends, however it ends, and
// waiting ranks look for that every 20 ms. The object has no name any more once all ranks have joined.
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <new>

namespace {

constexpr int RANKS_MAX = 64;
constexpr int64_t LOOK_NS = 20000000;  // between looks for ranks that ended
constexpr int64_t SPIN_NS = 30000;

/** What a rank is doing, so that ranks that call different things are told so instead of exchanging nonsense. */
struct Operation {
  int32_t kind, dtype;
  double n;
};

struct alignas(64) RankCell {
  uint64_t arrived;  // barriers that this rank has reached
  uint32_t joined;
  Operation operation[2];  // of odd and even barriers
};

struct Header {
  alignas(64) uint32_t events;    // changes whenever a rank arrives or gives up; the word that sleepers wait on
  alignas(64) uint32_t sleepers;
  uint32_t failed;                // 0, or 1 + the rank that aborted or ended
  uint32_t aborted;               // whether it said so itself
  uint32_t world;
  uint64_t slot;
  RankCell ranks[RANKS_MAX];
};

constexpr const char* KINDS[] = {"barrier", "all_reduce", "reduce_scatter", "all_gather", "broadcast"};
enum Kind { BARRIER, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST };

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

size_t header_bytes() { return (sizeof(Header) + 4095) & ~(size_t)4095; }

}  // namespace

struct koala_comm {
  int rank, world, file;
  size_t slot, bytes;
  Header* header;
  char* slots;
  uint64_t barriers = 0;  // that this rank has passed
  uint64_t pieces = 0;    // that went through the slots: even ones use the first halves
};

namespace {

void announce(Header* h) {
  __atomic_fetch_add(&h->events, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&h->sleepers, __ATOMIC_SEQ_CST)) syscall(SYS_futex, &h->events, FUTEX_WAKE, INT_MAX, nullptr,
      nullptr, 0);
}

void give_up(koala_comm* c, int rank, bool aborted) {
  if (aborted) __atomic_store_n(&c->header->aborted, 1, __ATOMIC_RELEASE);
  uint32_t none = 0;
  __atomic_compare_exchange_n(&c->header->failed, &none, (uint32_t)rank + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  announce(c->header);
}

/** Whether the process of a rank that had joined has ended or closed its communicator. */
bool has_left(koala_comm* c, int rank) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return fcntl(c->file, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

int32_t report_failure(koala_comm* c, const char* what) {
  const int rank = (int)__atomic_load_n(&c->header->failed, __ATOMIC_ACQUIRE) - 1;
  if (__atomic_load_n(&c->header->aborted, __ATOMIC_ACQUIRE)) return fail("koala_comm_%s: rank %d aborted.", what,
      rank);
  return fail("koala_comm_%s: rank %d has ended or closed its communicator.", what, rank);
}

/** Waits until ready(rank) of every rank. `what` is told if it fails. */
template <class F> int32_t wait_for_all(koala_comm* c, const char* what, double timeout_s, F&& ready) {
  Header* h = c->header;
  const int64_t start = now_ns(), deadline = timeout_s < 1e9 ? start + (int64_t)(timeout_s * 1e9) : INT64_MAX;
  int64_t look = start + LOOK_NS;
  for (int rank = 0; rank < c->world;) {
    const uint32_t seen = __atomic_load_n(&h->events, __ATOMIC_SEQ_CST);
    if (ready(rank)) {
      rank++;
      continue;
    }
    if (__atomic_load_n(&h->failed, __ATOMIC_ACQUIRE)) return report_failure(c, what);
    const int64_t now = now_ns();
    if (now >= look) {
      look = now + LOOK_NS;
      for (int r = 0; r < c->world; r++)
        if (__atomic_load_n(&h->ranks[r].joined, __ATOMIC_ACQUIRE) && has_left(c, r) && !ready(r)) {
          give_up(c, r, false);
          return report_failure(c, what);
        }
    }
    if (now >= deadline) {
      give_up(c, c->rank, true);
      return fail("koala_comm_%s: rank %d did not come within %g seconds.", what, rank, timeout_s);
    }
    if (now - start < SPIN_NS) {
      sched_yield();
      continue;
    }
    const timespec pause = {0, LOOK_NS};
    __atomic_fetch_add(&h->sleepers, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &h->events, FUTEX_WAIT, seen, &pause, nullptr, 0);
    __atomic_fetch_sub(&h->sleepers, 1, __ATOMIC_SEQ_CST);
  }
  return 0;
}

/** Waits for all ranks; afterwards what they wrote to the halves they held before is visible. */
int32_t meet(koala_comm* c, Operation operation, double timeout_s) {
  const char* what = KINDS[operation.kind];
  const int turn = c->barriers & 1;
  const uint64_t target = c->barriers + 1;
  if (__atomic_load_n(&c->header->failed, __ATOMIC_ACQUIRE)) return report_failure(c, what);
  RankCell& own = c->header->ranks[c->rank];
  own.operation[turn] = operation;
  __atomic_store_n(&own.arrived, target, __ATOMIC_RELEASE);
  announce(c->header);
  if (wait_for_all(c, what, timeout_s, [&](int r) { return __atomic_load_n(&c->header->ranks[r].arrived,
      __ATOMIC_ACQUIRE) >= target; })) return -1;
  c->barriers = target;
  for (int r = 0; r < c->world; r++) {
    const Operation& other = c->header->ranks[r].operation[turn];
    if (other.kind == operation.kind && other.dtype == operation.dtype && other.n == operation.n) continue;
    give_up(c, c->rank, true);
    return fail("koala_comm_%s: rank %d calls %s of %.0f (type or root %d), "
        "but rank %d calls %s of %.0f (type or root %d).", what, c->rank, what, operation.n, operation.dtype, r, KINDS[other.kind],
                other.n, other.dtype);
  }
  return 0;
}

/** to[i] = (to[i] +,
    if accumulate) the sum over ranks of the n elements that lie `offset` elements into their halves. */
template <class T> void sum_ranks(T* to, char* const* halves, int world, size_t offset, int64_t n, bool accumulate) {
  constexpr int64_t piece = 1024;
  for (int64_t begin = 0; begin < n; begin += piece) {
    const int64_t count = n - begin < piece ? n - begin : piece;
    T sums[piece];
    memcpy(sums, accumulate ? to + begin : (const T*)halves[0] + offset + begin, count * sizeof(T));
    for (int r = accumulate ? 0 : 1; r < world; r++) {
      const T* from = (const T*)halves[r] + offset + begin;
      for (int64_t i = 0; i < count; i++) sums[i] += from[i];
    }
    memcpy(to + begin, sums, count * sizeof(T));
  }
}

/** The halves of all ranks for the next piece. */
void list_halves(koala_comm* c, char** halves) {
  const size_t offset = (c->pieces++ & 1) * (c->slot / 2);
  for (int r = 0; r < c->world; r++) halves[r] = c->slots + r * c->slot + offset;
}

template <class T> int32_t all_reduce(koala_comm* c, T* x, int64_t n, int32_t dtype, double timeout_s) {
  const Operation operation = {ALL_REDUCE, dtype, (double)n};
  const int64_t piece = c->slot / 2 / sizeof(T);
  for (int64_t at = 0; at < n; at += piece) {
    const int64_t count = n - at < piece ? n - at : piece, part = (count + c->world - 1) / c->world;
    char* halves[RANKS_MAX];
    list_halves(c, halves);
    memcpy(halves[c->rank], x + at, count * sizeof(T));
    if (meet(c, operation, timeout_s)) return -1;
    // Each rank sums its part and leaves the sum in its own half: before the next meeting no other reads that part.
    const int64_t from = part * c->rank < count ? part * c->rank : count, to = from + part < count ? from + part
        : count;
    sum_ranks((T*)halves[c->rank] + from, halves, c->world, from, to - from, false);
    if (meet(c, operation, timeout_s)) return -1;
    for (int r = 0; r < c->world; r++) {
      const int64_t begin = part * r < count ? part * r : count, end = begin + part < count ? begin + part : count;
      memcpy(x + at + begin, (const T*)halves[r] + begin, (end - begin) * sizeof(T));
    }
  }
  return n > 0 ? 0 : meet(c, operation, timeout_s);
}

template <class T> int32_t reduce_scatter(koala_comm* c, T* out, const T* x, int64_t n, bool accumulate, int32_t dtype,
    double timeout_s) {
  const Operation operation = {REDUCE_SCATTER, dtype, (double)n};
  const int64_t part = n / c->world, piece = c->slot / 2 / sizeof(T) / c->world;
  for (int64_t at = 0; at < part; at += piece) {
    const int64_t count = part - at < piece ? part - at : piece;
    char* halves[RANKS_MAX];
    list_halves(c, halves);
    for (int r = 0; r < c->world; r++) memcpy((T*)halves[c->rank] + r * count, x + r * part + at, count * sizeof(T));
    if (meet(c, operation, timeout_s)) return -1;
    sum_ranks(out + at, halves, c->world, c->rank * count, count, accumulate);
  }
  return part > 0 ? 0 : meet(c, operation, timeout_s);
}

int32_t lock_own_byte(int file, int rank) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return fcntl(file, F_OFD_SETLK, &lock);
}

/** Opens and maps the object; every rank may be the first. */
int32_t map_object(koala_comm* c, const char* name) {
  c->file = shm_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(c->file >= 0, "koala_comm_open: the shared memory object %s cannot be opened: %s.", name, strerror(errno));
  // Reserved now, because a write beyond what the system can give would kill the process later.
  const int error = posix_fallocate(c->file, 0, (off_t)c->bytes);
  REQUIRE(error == 0,
      "koala_comm_open: there is no room for %.1f MiB of shared memory (%s). "
      "Use smaller staging slots, or give /dev/shm more room.", c->bytes / 1048576., strerror(error));
  void* data = mmap(nullptr, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->file, 0);
  REQUIRE(data != MAP_FAILED, "koala_comm_open: the shared memory object %s cannot be mapped: %s.", name,
      strerror(errno));
  c->header = (Header*)data;
  c->slots = (char*)data + header_bytes();
  return 0;
}

int32_t join(koala_comm* c, const char* name, double timeout_s) {
  if (map_object(c, name)) return -1;
  Header* h = c->header;
  uint32_t no_world = 0;
  uint64_t no_slot = 0;
  __atomic_compare_exchange_n(&h->world, &no_world, (uint32_t)c->world, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  __atomic_compare_exchange_n(&h->slot, &no_slot, (uint64_t)c->slot, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  REQUIRE((int)h->world == c->world && h->slot == c->slot,
      "koala_comm_open: rank %d joins %s with %d ranks and slots of %zu bytes, but another rank with %u and %llu.",
      c->rank, name, c->world,
          c->slot, h->world, (unsigned long long)h->slot);
  REQUIRE(lock_own_byte(c->file, c->rank) == 0, "koala_comm_open: another process is already rank %d of %s.", c->rank,
      name);
  REQUIRE(__atomic_exchange_n(&h->ranks[c->rank].joined, 1, __ATOMIC_ACQ_REL) == 0,
      "koala_comm_open: %s was used before, by a rank %d that has ended. Take a fresh name for every run.", name,
      c->rank);
  announce(h);
  if (wait_for_all(c, "open", timeout_s, [&](int r) { return __atomic_load_n(&h->ranks[r].joined, __ATOMIC_ACQUIRE)
      != 0; })) return -1;
  if (meet(c, {BARRIER, 0, -1}, timeout_s)) return -1;  // every rank has the object mapped: the name can go
  if (c->rank == 0) shm_unlink(name);
  return 0;
}

void release(koala_comm* c) {
  if (c->header) munmap(c->header, c->bytes);
  if (c->file >= 0) close(c->file);
  delete c;
}

bool is_count(double n) { return n >= 0 && n <= 9007199254740992. && n == (double)(int64_t)n; }

}  // namespace

#define REQUIRE_ELEMENTS(op, n) REQUIRE(is_count(n), "koala_comm_" op ": n is %g and must be a count.", n)
#define REQUIRE_SUMMED(op, dtype)                          \
  REQUIRE((dtype) == KOALA_F32 || (dtype) == KOALA_F64, "koala_comm_" op ": dtype is %d (%s); f32 and f64 are summed.", dtype, type_name(dtype))

int32_t koala_comm_open(koala_comm** out, const char* name, int32_t rank, int32_t world, double bytes,
    double timeout_s) {
  REQUIRE_POINTER("comm_open", out);
  REQUIRE_POINTER("comm_open", name);
  REQUIRE(name[0] == '/' && name[1] && !strchr(name + 1, '/') && strlen(name) < 200,
      "koala_comm_open: \"%.200s\" is no name of a shared memory object; it looks like \"/koala-1234\".", name);
  REQUIRE(world >= 1 && world <= RANKS_MAX, "koala_comm_open: %d ranks were asked for; 1 to %d are possible.", world,
      RANKS_MAX);
  REQUIRE(rank >= 0 && rank < world, "koala_comm_open: rank %d is not one of %d ranks.", rank, world);
  REQUIRE(bytes >= 65536 && bytes <= 4e10, "koala_comm_open: a staging slot of %g bytes; it must have at least 65536.",
      bytes);
  koala_comm* c = new (std::nothrow) koala_comm;
  REQUIRE(c, "koala_comm_open: the system has no memory for a communicator.");
  c->rank = rank, c->world = world, c->file = -1, c->header = nullptr;
  c->slot = ((size_t)bytes + 8191) & ~(size_t)8191;
  c->bytes = header_bytes() + c->slot * world;
  if (join(c, name, timeout_s)) {
    if (rank == 0) shm_unlink(name);
    release(c);
    return -1;
  }
  *out = c;
  return 0;
}

int32_t koala_comm_close(koala_comm* comm) {
  REQUIRE_POINTER("comm_close", comm);
  release(comm);
  return 0;
}

int32_t koala_comm_abort(koala_comm* comm) {
  REQUIRE_POINTER("comm_abort", comm);
  give_up(comm, comm->rank, true);
  return 0;
}

int32_t koala_comm_barrier(koala_comm* comm, double timeout_s) {
  REQUIRE_POINTER("comm_barrier", comm);
  return meet(comm, {BARRIER, 0, 0}, timeout_s);
}

int32_t koala_comm_all_reduce(koala_comm* comm, void* x, double n, int32_t dtype, double timeout_s) {
  REQUIRE_POINTER("comm_all_reduce", comm);
  REQUIRE_POINTER("comm_all_reduce", x);
  REQUIRE_ELEMENTS("all_reduce", n);
  REQUIRE_SUMMED("all_reduce", dtype);
  if (dtype == KOALA_F64) return all_reduce(comm, (double*)x, (int64_t)n, dtype, timeout_s);
  return all_reduce(comm, (float*)x, (int64_t)n, dtype, timeout_s);
}

int32_t koala_comm_reduce_scatter(koala_comm* comm, void* out, const void* x, double n, int32_t accumulate,
    int32_t dtype, double timeout_s) {
  REQUIRE_POINTER("comm_reduce_scatter", comm);
  REQUIRE_POINTER("comm_reduce_scatter", out);
  REQUIRE_POINTER("comm_reduce_scatter", x);
  REQUIRE_ELEMENTS("reduce_scatter", n);
  REQUIRE_SUMMED("reduce_scatter", dtype);
  REQUIRE((int64_t)n % comm->world == 0,
      "koala_comm_reduce_scatter: %.0f elements cannot be shared evenly by %d ranks.", n, comm->world);
  const bool add = accumulate != 0;
  if (dtype == KOALA_F64)
    return reduce_scatter(comm, (double*)out, (const double*)x, (int64_t)n, add, dtype, timeout_s);
  return reduce_scatter(comm, (float*)out, (const float*)x, (int64_t)n, add, dtype, timeout_s);
}

int32_t koala_comm_all_gather(koala_comm* comm, void* out, const void* x, double n, double timeout_s) {
  REQUIRE_POINTER("comm_all_gather", comm);
  REQUIRE_POINTER("comm_all_gather", out);
  REQUIRE_POINTER("comm_all_gather", x);
  REQUIRE_ELEMENTS("all_gather", n);
  const int64_t bytes = (int64_t)n, piece = comm->slot / 2;
  int64_t at = 0;
  do {
    const int64_t count = bytes - at < piece ? bytes - at : piece;
    char* halves[RANKS_MAX];
    list_halves(comm, halves);
    memcpy(halves[comm->rank], (const char*)x + at, count);
    if (meet(comm, {ALL_GATHER, 0, n}, timeout_s)) return -1;
    for (int r = 0; r < comm->world; r++) memcpy((char*)out + r * bytes + at, halves[r], count);
    at += piece;
  } while (at < bytes);
  return 0;
}

int32_t koala_comm_broadcast(koala_comm* comm, void* x, double n, int32_t root, double timeout_s) {
  REQUIRE_POINTER("comm_broadcast", comm);
  REQUIRE_POINTER("comm_broadcast", x);
  REQUIRE_ELEMENTS("broadcast", n);
  REQUIRE(root >= 0 && root < comm->world, "koala_comm_broadcast: root %d is not one of %d ranks.", root, comm->world);
  const int64_t bytes = (int64_t)n, piece = comm->slot / 2;
  int64_t at = 0;
  do {
    const int64_t count = bytes - at < piece ? bytes - at : piece;
    char* halves[RANKS_MAX];
    list_halves(comm, halves);
    char* half = halves[root];
    if (comm->rank == root) memcpy(half, (const char*)x + at, count);
    if (meet(comm, {BROADCAST, root, n}, timeout_s)) return -1;
    if (comm->rank != root) memcpy((char*)x + at, half, count);
    at += piece;
  } while (at < bytes);
  return 0;
}
