// Communicator of the ranks of one host: one shared memory object with a slot for each rank.
//
// A collective goes through the slots piece by piece. Each slot has two halves used in turn: whoever writes a half
// again has met all ranks since they read it. Sums run over ranks 0, 1, 2 ..., so all ranks get equal bits.
// Each rank holds a lock on its own byte of the object; the system drops it when the process ends, however it ends, and
// waiting ranks look for that every 20 ms. The object has no name any more once all ranks have joined.
// comm_queue.cc has the thread that runs the collectives, and the C functions. Memory that only a GPU reaches goes through
// comm_copy of the backend, sums through comm_bounce.
#include "comm.h"

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

namespace {

constexpr int64_t LOOK_NS = 20000000;  // between looks for ranks that ended
constexpr int64_t SPIN_NS = 30000;
constexpr uint32_t ABORTED = 1u << 31;

}  // namespace

/** What a rank is doing, so that ranks that call different things are told so instead of exchanging nonsense. */
struct Operation {
  int32_t kind, type;  // element type, or the root of a broadcast
  double n;
  char of[COMM_LABEL];
};

struct alignas(64) RankCell {
  uint64_t arrived;  // barriers that this rank has reached
  uint64_t rested;   // the last of them after which it reads no slot any more; kept by transports that free their slots
  uint32_t joined;
  Operation operation[2];  // of odd and even barriers
};

struct CommHeader {
  alignas(64) uint32_t events;    // changes whenever a rank arrives or gives up; the word that sleepers wait on
  alignas(64) uint32_t sleepers;
  uint32_t failed;                // 0, or 1 + the rank that was given up first, and ABORTED if it said so itself
  uint32_t world;
  uint64_t slot;
  RankCell ranks[COMM_RANKS_MAX];
};

namespace {

size_t header_bytes() { return (sizeof(CommHeader) + 4095) & ~(size_t)4095; }

void announce(CommHeader* h) {
  __atomic_fetch_add(&h->events, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&h->sleepers, __ATOMIC_SEQ_CST)) syscall(SYS_futex, &h->events, FUTEX_WAKE, INT_MAX, nullptr,
      nullptr, 0);
}

void give_up(koala_comm* c, int rank, bool aborted) {
  uint32_t none = 0;
  const uint32_t failed = (uint32_t)(rank + 1) | (aborted ? ABORTED : 0);
  __atomic_compare_exchange_n(&c->header->failed, &none, failed, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
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

int32_t report_failure(koala_comm* c) {
  const uint32_t failed = __atomic_load_n(&c->header->failed, __ATOMIC_ACQUIRE);
  const int rank = (int)(failed & ~ABORTED) - 1;
  if (failed & ABORTED) return fail("%s: rank %d aborted.", c->what, rank);
  return fail("%s: rank %d has ended or closed its communicator.", c->what, rank);
}

/** Waits until ready(rank) of every rank. */
template <class F> int32_t wait_for_all(koala_comm* c, double timeout_s, F&& ready) {
  CommHeader* h = c->header;
  const int64_t start = clock_ns(), deadline = timeout_s < 1e9 ? start + (int64_t)(timeout_s * 1e9) : INT64_MAX;
  int64_t look = start + LOOK_NS;
  for (int rank = 0; rank < c->world;) {
    const uint32_t seen = __atomic_load_n(&h->events, __ATOMIC_SEQ_CST);
    if (ready(rank)) {
      rank++;
      continue;
    }
    if (__atomic_load_n(&h->failed, __ATOMIC_ACQUIRE)) return report_failure(c);
    const int64_t now = clock_ns();
    if (now >= look) {
      look = now + LOOK_NS;
      for (int r = 0; r < c->world; r++)
        if (__atomic_load_n(&h->ranks[r].joined, __ATOMIC_ACQUIRE) && has_left(c, r) && !ready(r)) {
          give_up(c, r, false);
          return report_failure(c);
        }
    }
    if (now >= deadline) {
      give_up(c, c->rank, true);
      return fail("%s: rank %d did not come within %g seconds.", c->what, rank, timeout_s);
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

}  // namespace

void comm_rest(koala_comm* c) {
  RankCell& own = c->header->ranks[c->rank];
  __atomic_store_n(&own.rested, own.arrived, __ATOMIC_RELEASE);
}

void comm_outlast_readers(koala_comm* c, double timeout_s) {
  const int64_t deadline = clock_ns() + (int64_t)(timeout_s * 1e9);
  for (int r = 0; r < c->world; r++) {
    RankCell& cell = c->header->ranks[r];
    const auto reads = [&] {
      const uint64_t rested = __atomic_load_n(&cell.rested, __ATOMIC_ACQUIRE);
      // After a failure nobody passes another meeting.
      const bool failed = __atomic_load_n(&c->header->failed, __ATOMIC_ACQUIRE) != 0;
      return rested < c->barriers && !(failed && rested >= __atomic_load_n(&cell.arrived, __ATOMIC_ACQUIRE));
    };
    while (r != c->rank && reads() && !has_left(c, r) && clock_ns() < deadline) usleep(50);
  }
}

int32_t comm_look(koala_comm* c) { return __atomic_load_n(&c->header->failed, __ATOMIC_ACQUIRE) ? report_failure(c) : 0; }

int comm_missing(koala_comm* c) {
  for (int r = 0; r < c->world; r++)
    if (r != c->rank && has_left(c, r)) return r;
  return -1;
}

int32_t comm_meet(koala_comm* c, const Collective& collective) {
  const int turn = c->barriers & 1;
  const uint64_t target = c->barriers + 1;
  if (__atomic_load_n(&c->header->failed, __ATOMIC_ACQUIRE)) return report_failure(c);
  RankCell* cells = c->header->ranks;
  Operation& own = cells[c->rank].operation[turn];
  own.kind = collective.kind, own.type = collective.type, own.n = collective.n;
  memcpy(own.of, collective.of, sizeof own.of);
  __atomic_store_n(&cells[c->rank].arrived, target, __ATOMIC_RELEASE);
  announce(c->header);
  auto arrived = [&](int r) { return __atomic_load_n(&cells[r].arrived, __ATOMIC_ACQUIRE) >= target; };
  if (wait_for_all(c, collective.timeout_s, arrived)) return -1;
  c->barriers = target;
  for (int r = 0; r < c->world; r++) {
    const Operation& other = cells[r].operation[turn];
    if (other.kind == own.kind && other.type == own.type && other.n == own.n && !strcmp(other.of, own.of)) continue;
    give_up(c, c->rank, true);
    return fail("%s: rank %d calls %s (%s) of %.0f (type or root %d), but rank %d calls %s (%s) of %.0f "
        "(type or root %d).", c->what, c->rank, COLLECTIVES[own.kind], own.of, own.n, own.type, r,
        COLLECTIVES[other.kind], other.of, other.n, other.type);
  }
  return 0;
}

namespace {

struct Bf16 {
  uint16_t bits;
};

inline double widen(double x) { return x; }
inline float widen(float x) { return x; }
inline float widen(Bf16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline void narrow(double* to, double x) { *to = x; }
inline void narrow(float* to, float x) { *to = x; }
/** To nearest even; a NaN stays one. */
inline void narrow(Bf16* to, float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
  to->bits = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

/** to[i] = (to[i] +, if accumulate) the sum over ranks of the n elements that lie `offset` elements into their halves.
    A bf16 `to` that is added to is rounded after every rank, else after the last. */
template <class Out, class In>
void sum_ranks(Out* to, char* const* halves, int world, size_t offset, int64_t n, bool accumulate) {
  constexpr int64_t piece = 1024;
  for (int64_t begin = 0; begin < n; begin += piece) {
    const int64_t count = n - begin < piece ? n - begin : piece;
    decltype(widen(Out())) sums[piece];
    const In* first = (const In*)halves[0] + offset + begin;
    for (int64_t i = 0; i < count; i++) sums[i] = accumulate ? widen(to[begin + i]) : widen(first[i]);
    for (int r = accumulate ? 0 : 1; r < world; r++) {
      const In* from = (const In*)halves[r] + offset + begin;
      for (int64_t i = 0; i < count; i++) sums[i] += widen(from[i]);
      if (!accumulate || sizeof(Out) > 2) continue;
      for (int64_t i = 0; i < count; i++) narrow(to + begin + i, sums[i]);
      for (int64_t i = 0; i < count; i++) sums[i] = widen(to[begin + i]);
    }
    for (int64_t i = 0; i < count; i++) narrow(to + begin + i, sums[i]);
  }
}

/** comm_copy; a rank that cannot takes the others along. */
int32_t copy(koala_comm* c, void* to, const void* from, size_t bytes) {
  if (comm_copy(c, to, from, bytes) == 0) return 0;
  give_up(c, c->rank, true);
  return -1;
}
int32_t settle(koala_comm* c) {
  if (comm_settle(c) == 0) return 0;
  give_up(c, c->rank, true);
  return -1;
}

/** sum_ranks, also where the processor does not reach `to`. */
template <class Out, class In>
int32_t sum_ranks_to(koala_comm* c, Out* to, char* const* halves, size_t offset, int64_t n, bool accumulate) {
  if (comm_reaches(c, to)) {
    sum_ranks<Out, In>(to, halves, c->world, offset, n, accumulate);
    return 0;
  }
  Out* sums = (Out*)comm_bounce(c);
  if (accumulate && (copy(c, sums, to, n * sizeof(Out)) || settle(c))) return -1;
  sum_ranks<Out, In>(sums, halves, c->world, offset, n, accumulate);
  return copy(c, to, sums, n * sizeof(Out)) || settle(c) ? -1 : 0;
}

/** The halves of all ranks for the next piece. */
void list_halves(koala_comm* c, char** halves) {
  const size_t offset = (c->pieces++ & 1) * (c->slot / 2);
  for (int r = 0; r < c->world; r++) halves[r] = c->slots + r * c->slot + offset;
}

template <class T> int32_t all_reduce(koala_comm* c, const Collective& collective) {
  T* x = (T*)collective.out;
  const int64_t n = (int64_t)collective.n, piece = c->slot / 2 / sizeof(T);
  for (int64_t at = 0; at < n; at += piece) {
    const int64_t count = n - at < piece ? n - at : piece, part = (count + c->world - 1) / c->world;
    char* halves[COMM_RANKS_MAX];
    list_halves(c, halves);
    if (copy(c, halves[c->rank], x + at, count * sizeof(T)) || settle(c)) return -1;
    if (comm_meet(c, collective)) return -1;
    // Each rank sums its part and leaves the sum in its own half: before the next meeting no other reads that part.
    const int64_t from = part * c->rank < count ? part * c->rank : count, to = from + part < count ? from + part
        : count;
    sum_ranks<T, T>((T*)halves[c->rank] + from, halves, c->world, from, to - from, false);
    if (comm_meet(c, collective)) return -1;
    for (int r = 0; r < c->world; r++) {
      const int64_t begin = part * r < count ? part * r : count, end = begin + part < count ? begin + part : count;
      if (copy(c, x + at + begin, (const T*)halves[r] + begin, (end - begin) * sizeof(T))) return -1;
    }
    if (settle(c)) return -1;
  }
  return n > 0 ? 0 : comm_meet(c, collective);
}

template <class Out, class T> int32_t reduce_scatter(koala_comm* c, const Collective& collective) {
  Out* out = (Out*)collective.out;
  const T* x = (const T*)collective.x;
  const int64_t part = (int64_t)collective.n / c->world, piece = c->slot / 2 / sizeof(T) / c->world;
  for (int64_t at = 0; at < part; at += piece) {
    const int64_t count = part - at < piece ? part - at : piece;
    char* halves[COMM_RANKS_MAX];
    list_halves(c, halves);
    for (int r = 0; r < c->world; r++)
      if (copy(c, (T*)halves[c->rank] + r * count, x + r * part + at, count * sizeof(T))) return -1;
    if (settle(c) || comm_meet(c, collective)) return -1;
    if (sum_ranks_to<Out, T>(c, out + at, halves, c->rank * count, count, collective.accumulate != 0)) return -1;
  }
  return part > 0 ? 0 : comm_meet(c, collective);
}

int32_t all_gather(koala_comm* c, const Collective& collective) {
  char* out = (char*)collective.out;
  const char* x = (const char*)collective.x;
  const int64_t bytes = (int64_t)collective.n, piece = c->slot / 2;
  int64_t at = 0;
  do {
    const int64_t count = bytes - at < piece ? bytes - at : piece;
    char* halves[COMM_RANKS_MAX];
    list_halves(c, halves);
    if (copy(c, halves[c->rank], x + at, count) || settle(c)) return -1;
    if (comm_meet(c, collective)) return -1;
    // A share that lies where it should is left alone: others may read it meanwhile.
    for (int r = 0; r < c->world; r++)
      if (out + r * bytes != x && copy(c, out + r * bytes + at, halves[r], count)) return -1;
    if (settle(c)) return -1;
    at += piece;
  } while (at < bytes);
  return 0;
}

int32_t broadcast(koala_comm* c, const Collective& collective) {
  char* x = (char*)collective.out;
  const int64_t bytes = (int64_t)collective.n, piece = c->slot / 2;
  const int root = collective.type;
  int64_t at = 0;
  do {
    const int64_t count = bytes - at < piece ? bytes - at : piece;
    char* halves[COMM_RANKS_MAX];
    list_halves(c, halves);
    if (c->rank == root && (copy(c, halves[root], x + at, count) || settle(c))) return -1;
    if (comm_meet(c, collective)) return -1;
    if (c->rank != root && (copy(c, x + at, halves[root], count) || settle(c))) return -1;
    at += piece;
  } while (at < bytes);
  return 0;
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
  c->bytes = header_bytes() + c->slot * c->world;
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
  c->header = (CommHeader*)data;
  c->slots = (char*)data + header_bytes();
  comm_pin(c, data, c->bytes);
  return 0;
}

int32_t join(koala_comm* c, const char* name, double timeout_s) {
  if (map_object(c, name)) return -1;
  CommHeader* h = c->header;
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
  if (wait_for_all(c, timeout_s, [&](int r) { return __atomic_load_n(&h->ranks[r].joined, __ATOMIC_ACQUIRE)
      != 0; })) return -1;
  Collective all = {};
  all.n = -1, all.timeout_s = timeout_s;
  strcpy(all.of, "open");
  if (comm_meet(c, all)) return -1;  // every rank has the object mapped: the name can go
  if (c->rank == 0) shm_unlink(name);
  return 0;
}

void leave(koala_comm* c) {
  if (c->header) {
    comm_unpin(c, c->header);
    munmap(c->header, c->bytes);
  }
  if (c->file >= 0) close(c->file);
  c->header = nullptr, c->file = -1;
}

int32_t join_or_leave(koala_comm* c, const char* name, double timeout_s) {
  strcpy(c->what, "koala_comm_open");
  if (join(c, name, timeout_s) == 0) return 0;
  if (c->rank == 0) shm_unlink(name);
  leave(c);
  return -1;
}

int32_t run_all_reduce(koala_comm* c, const Collective& collective) {
  if (collective.type == KOALA_F64) return all_reduce<double>(c, collective);
  if (collective.type == KOALA_BF16) return all_reduce<Bf16>(c, collective);
  return all_reduce<float>(c, collective);
}

int32_t run_reduce_scatter(koala_comm* c, const Collective& collective) {
  if (collective.type == KOALA_F64) return reduce_scatter<double, double>(c, collective);
  if (collective.type == KOALA_BF16) return reduce_scatter<Bf16, Bf16>(c, collective);
  if (collective.accumulate == 2) return reduce_scatter<Bf16, float>(c, collective);
  return reduce_scatter<float, float>(c, collective);
}

int32_t run(koala_comm* c, const Collective& collective) {
  switch (collective.kind) {
    case ALL_REDUCE: return run_all_reduce(c, collective);
    case REDUCE_SCATTER: return run_reduce_scatter(c, collective);
    case ALL_GATHER: return all_gather(c, collective);
    case BROADCAST: return broadcast(c, collective);
    default: return comm_meet(c, collective);
  }
}

}  // namespace

const CommTransport shared_memory = {join_or_leave, leave, run, give_up};
