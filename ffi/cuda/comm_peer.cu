// Collectives through memory that ranks of one host read from each other's GPU: each has a slot in its own, and maps those
// of the others (CUDA's interprocess handles). One GPU may have any number of ranks, and several are peers by NVLink or PCIe.
//
// As in comm.cc a collective goes through the slots piece by piece, each slot has two halves used in turn, and whoever writes
// a half again has met all ranks since they read it. The ranks meet in a shared memory object, on the host: no kernel waits
// for another rank, so ranks that take turns on a GPU cannot block each other, and it is known at once who is lost. Sums run
// in rank order in the kernel that NCCL's pieces are added with: all transports give the same bits.
// Always: a slot is freed when no rank reads it any more. Memory of the host goes through shared memory altogether.
#include "rank_sums.cuh"

#include <stdio.h>
#include <stdlib.h>

namespace {

constexpr size_t SLOTS = 4;              // a slot on the GPU is so many of the host's
constexpr size_t DIRECT = 256 << 10;     // bytes up to which every rank sums all, and saves a meeting
constexpr double LAST_READS_S = 10;      // that a slot outlasts its collectives at most
constexpr int BUS = 64;                  // bytes of a GPU's name
constexpr size_t GRANULE = 2 << 20;      // bytes that CUDA shows to others at once: what else lay there, they would see, too

struct PeerEnd {
  char* slots[COMM_RANKS_MAX] = {};  // as this process addresses them; nullptr: not there
  size_t half = 0;
  uint64_t pieces = 0;  // that went through: even ones use the first halves
  bool joined = false;  // the shared memory object
};

PeerEnd* end_of(koala_comm* c) { return (PeerEnd*)c->carrier; }

/** Where the halves of all ranks for the next piece begin. */
struct Halves {
  char* at[COMM_RANKS_MAX];
  explicit Halves(koala_comm* c) {
    PeerEnd* end = end_of(c);
    const size_t offset = (end->pieces++ & 1) * end->half;
    for (int r = 0; r < c->world; r++) at[r] = end->slots[r] + offset;
  }
  /** The ranks' elements from `offset` on. */
  template <class T> RankParts parts(int world, int64_t offset) const {
    RankParts parts;
    for (int r = 0; r < world; r++) parts.at[r] = (const T*)at[r] + offset;
    return parts;
  }
};

/** What this rank wrote is there, and so is what the others wrote. */
int32_t exchange(koala_comm* c, const Collective& collective) {
  return comm_settle(c) || comm_meet(c, collective) ? -1 : 0;
}

int64_t whole_groups(int64_t n) { return (n + SUM_EACH - 1) / SUM_EACH * SUM_EACH; }

/** Elements of a piece: the same whole groups for each rank, so that parts are read 16 bytes at a time. */
template <class T> int64_t piece_of(koala_comm* c) {
  const int64_t group = (int64_t)SUM_EACH * c->world;
  return (int64_t)(end_of(c)->half / sizeof(T)) / group * group;
}

/** x <- the sum over all ranks' halves: every rank its part first, then each takes those of the others. */
template <class T> int32_t sum_by_parts(koala_comm* c, const Collective& collective, const Halves& halves, T* x, int64_t n) {
  const Parts parts = {n, whole_groups((n + c->world - 1) / c->world)};
  const int64_t begin = parts.part * c->rank, own = parts.length(c->rank);
  // The sum lies where the part lay: before the next meeting no other rank reads that.
  if (sum_ranks<T, T>(c, (T*)halves.at[c->rank] + begin, halves.parts<T>(c->world, begin), own, false)) return -1;
  if (exchange(c, collective)) return -1;
  for (int r = 0; r < c->world; r++) {
    const int64_t at = parts.part * r;
    if (comm_copy(c, x + at, (const T*)halves.at[r] + at, parts.length(r) * sizeof(T))) return -1;
  }
  return 0;
}

template <class T> int32_t all_reduce(koala_comm* c, const Collective& collective) {
  T* x = (T*)collective.out;
  const int64_t n = (int64_t)collective.n, piece = piece_of<T>(c);
  for (int64_t at = 0; at < n; at += piece) {
    const int64_t count = n - at < piece ? n - at : piece;
    const Halves halves(c);
    if (comm_copy(c, halves.at[c->rank], x + at, count * sizeof(T)) || exchange(c, collective)) return -1;
    const int32_t status = n * sizeof(T) <= DIRECT
        ? sum_ranks<T, T>(c, x + at, halves.parts<T>(c->world, 0), count, false)
        : sum_by_parts(c, collective, halves, x + at, count);
    if (status) return -1;
  }
  return n > 0 ? 0 : comm_meet(c, collective);
}

template <class Out, class T> int32_t reduce_scatter(koala_comm* c, const Collective& collective) {
  Out* out = (Out*)collective.out;
  const T* x = (const T*)collective.x;
  const int64_t part = (int64_t)collective.n / c->world, piece = piece_of<T>(c) / c->world;
  for (int64_t at = 0; at < part; at += piece) {
    const int64_t count = part - at < piece ? part - at : piece, stride = whole_groups(count);
    const Halves halves(c);
    for (int r = 0; r < c->world; r++)
      if (comm_copy(c, (T*)halves.at[c->rank] + r * stride, x + r * part + at, count * sizeof(T))) return -1;
    if (exchange(c, collective)) return -1;
    const RankParts parts = halves.parts<T>(c->world, c->rank * stride);
    if (sum_ranks<Out, T>(c, out + at, parts, count, collective.accumulate != 0)) return -1;
  }
  return part > 0 ? 0 : comm_meet(c, collective);
}

int32_t all_gather(koala_comm* c, const Collective& collective) {
  char* out = (char*)collective.out;
  const char* x = (const char*)collective.x;
  const int64_t bytes = (int64_t)collective.n, piece = (int64_t)end_of(c)->half;
  int64_t at = 0;
  do {
    const int64_t count = bytes - at < piece ? bytes - at : piece;
    const Halves halves(c);
    if (comm_copy(c, halves.at[c->rank], x + at, count) || exchange(c, collective)) return -1;
    // A share that lies where it should is left alone.
    for (int r = 0; r < c->world; r++)
      if (out + r * bytes != x && comm_copy(c, out + r * bytes + at, halves.at[r], count)) return -1;
    at += piece;
  } while (at < bytes);
  return 0;
}

int32_t broadcast(koala_comm* c, const Collective& collective) {
  char* x = (char*)collective.out;
  const int64_t bytes = (int64_t)collective.n, piece = (int64_t)end_of(c)->half;
  const int root = collective.type;
  int64_t at = 0;
  do {
    const int64_t count = bytes - at < piece ? bytes - at : piece;
    const Halves halves(c);
    if (c->rank == root && comm_copy(c, halves.at[root], x + at, count)) return -1;
    if (exchange(c, collective)) return -1;
    if (c->rank != root && comm_copy(c, x + at, halves.at[root], count)) return -1;
    at += piece;
  } while (at < bytes);
  return 0;
}

int32_t run_on_device(koala_comm* c, const Collective& x) {
  switch (x.kind) {
    case ALL_REDUCE:
      if (x.type == KOALA_F64) return all_reduce<double>(c, x);
      return x.type == KOALA_BF16 ? all_reduce<bf16>(c, x) : all_reduce<float>(c, x);
    case REDUCE_SCATTER:
      if (x.type == KOALA_F64) return reduce_scatter<double, double>(c, x);
      if (x.type == KOALA_BF16) return reduce_scatter<bf16, bf16>(c, x);
      return x.accumulate == 2 ? reduce_scatter<bf16, float>(c, x) : reduce_scatter<float, float>(c, x);
    case ALL_GATHER: return all_gather(c, x);
    default: return broadcast(c, x);
  }
}

int32_t run(koala_comm* c, const Collective& collective) {
  const bool on_host = collective.kind == BARRIER || !is_device_memory(collective.out);
  int32_t status = on_host ? shared_memory.run(c, collective) : run_on_device(c, collective);
  if (!on_host && !status) status = comm_settle(c);
  if (!on_host && status) {
    shared_memory.give_up(c, c->rank, true);
    cudaStreamSynchronize(of_device(c)->stream);  // the sentence is that of what failed first
  }
  comm_rest(c);
  return status;
}

// ---- opening and closing ----
/** What a rank tells the others in its slot of the shared memory. */
struct Card {
  cudaIpcMemHandle_t handle;
  char bus[BUS];
  char obstacle[400];  // a sentence, or nothing
};

Card* card_of(koala_comm* c, int rank) { return (Card*)(c->slots + rank * c->slot); }
/** What the rank found when it read the others' cards, in the other half of its slot. */
char* verdict_of(koala_comm* c, int rank) { return (char*)card_of(c, rank) + c->slot / 2; }

int32_t make_card(koala_comm* c, Card* card) {
  PeerEnd* end = end_of(c);
  const int ordinal = of_device(c)->dev->ordinal;
  REQUIRE_CUDA("comm_open", cudaSetDevice(ordinal));
  REQUIRE_CUDA("comm_open", cudaDeviceGetPCIBusId(card->bus, BUS, ordinal));
  end->half = SLOTS * c->slot / 2;
  const size_t bytes = (2 * end->half + GRANULE - 1) / GRANULE * GRANULE;
  REQUIRE(cudaMalloc(&end->slots[c->rank], bytes) == cudaSuccess, "The GPU %s has no memory for a slot of %.1f MiB.",
      card->bus, bytes / 1048576.);
  const cudaError_t status = cudaIpcGetMemHandle(&card->handle, end->slots[c->rank]);
  REQUIRE(status == cudaSuccess, "Memory of the GPU %s cannot be shown to other processes: %s.", card->bus,
      cudaGetErrorString(status));
  return 0;
}

/** Maps the slot of another rank. */
int32_t map_slot(koala_comm* c, int rank) {
  const Card& other = *card_of(c, rank);
  const char* bus = card_of(c, c->rank)->bus;
  const int ordinal = of_device(c)->dev->ordinal;
  if (strcmp(bus, other.bus)) {
    int theirs = 0, reads = 0;
    REQUIRE(cudaDeviceGetByPCIBusId(&theirs, other.bus) == cudaSuccess,
        "The GPU %s of rank %d is hidden from this process (CUDA_VISIBLE_DEVICES).", other.bus, rank);
    REQUIRE(cudaDeviceCanAccessPeer(&reads, ordinal, theirs) == cudaSuccess && reads,
        "The GPU %s does not read the memory of the GPU %s of rank %d: they are no peers.", bus, other.bus, rank);
  }
  const cudaError_t status =
      cudaIpcOpenMemHandle((void**)&end_of(c)->slots[rank], other.handle, cudaIpcMemLazyEnablePeerAccess);
  REQUIRE(status == cudaSuccess, "The memory of rank %d on the GPU %s cannot be mapped: %s.", rank, other.bus,
      cudaGetErrorString(status));
  return 0;
}

/** Notes in `place` why `status` is not 0. */
void note(char* place, int32_t status) {
  snprintf(place, sizeof Card::obstacle, "%s", status ? koala_last_error() : "");
  cudaGetLastError();
}

/** The others are there: shows them the own slot and maps theirs. All ranks succeed, or none. */
int32_t connect(koala_comm* c, double timeout_s) {
  Collective all = {};
  all.n = -1, all.timeout_s = timeout_s;
  strcpy(all.of, "open peers");
  Card* own = card_of(c, c->rank);
  note(own->obstacle, make_card(c, own));
  if (comm_meet(c, all)) return -1;
  for (int r = 0; r < c->world; r++)
    REQUIRE(!card_of(c, r)->obstacle[0], "koala_comm_open: rank %d: %s KOALA_COMM=memory goes through the host's memory.",
        r, card_of(c, r)->obstacle);
  int32_t status = 0;
  for (int r = 0; r < c->world && !status; r++)
    if (r != c->rank) status = map_slot(c, r);
  note(verdict_of(c, c->rank), status);
  if (comm_meet(c, all)) return -1;
  for (int r = 0; r < c->world; r++)
    REQUIRE(!verdict_of(c, r)[0], "koala_comm_open: rank %d: %s KOALA_COMM=memory goes through the host's memory.", r,
        verdict_of(c, r));
  comm_rest(c);
  return 0;
}

void leave(koala_comm* c) {
  PeerEnd* end = end_of(c);
  cudaSetDevice(of_device(c)->dev->ordinal);
  // Before the own slot goes: CUDA wants memory to be unmapped elsewhere when its owner frees it.
  for (int r = 0; r < c->world; r++)
    if (r != c->rank && end->slots[r]) cudaIpcCloseMemHandle(end->slots[r]);
  if (end->joined) {
    comm_rest(c);
    comm_outlast_readers(c, LAST_READS_S);
  }
  cudaFree(end->slots[c->rank]);
  cudaGetLastError();
  if (end->joined) shared_memory.leave(c);
  free(end);
  c->carrier = nullptr;
}

int32_t join(koala_comm* c, const char* name, double timeout_s) {
  PeerEnd* end = (PeerEnd*)malloc(sizeof(PeerEnd));
  REQUIRE(end, "koala_comm_open: the system has no memory for a communicator.");
  *end = PeerEnd();
  c->carrier = end;
  end->joined = shared_memory.join(c, name + PEER_PREFIX_LENGTH, timeout_s) == 0;
  if (end->joined && connect(c, timeout_s) == 0) return 0;
  if (end->joined) shared_memory.give_up(c, c->rank, true);
  leave(c);
  return -1;
}

}  // namespace

const CommTransport peer = {join, leave, run, [](koala_comm* c, int rank, bool aborted) {
                              shared_memory.give_up(c, rank, aborted);
                            }};

int32_t list_peers(koala_device* dev, char* text, size_t bytes) {
  text[0] = 0;
  REQUIRE_CUDA("comm_offer", cudaSetDevice(dev->ordinal));
  // Not every system shows GPU memory to other processes.
  void* probe = nullptr;
  cudaIpcMemHandle_t handle;
  const bool shows = cudaMalloc(&probe, GRANULE) == cudaSuccess && cudaIpcGetMemHandle(&handle, probe) == cudaSuccess;
  cudaFree(probe);
  cudaGetLastError();
  if (!shows) return 0;
  int count = 0;
  REQUIRE_CUDA("comm_offer", cudaGetDeviceCount(&count));
  for (int i = 0; i < count; i++) {
    char bus[BUS];
    int reads = i == dev->ordinal;
    if (!reads && cudaDeviceCanAccessPeer(&reads, dev->ordinal, i) != cudaSuccess) reads = 0;
    if (!reads || cudaDeviceGetPCIBusId(bus, BUS, i) != cudaSuccess) continue;
    const size_t length = strlen(text);
    if (length + strlen(bus) + 4 < bytes) sprintf(text + length, "%s\"%s\"", length ? "," : "", bus);
  }
  cudaGetLastError();
  return 0;
}
