// A rank's end of a communicator: the queue of its collectives (comm_queue.cc), what carries them (shared memory: comm.cc),
// and what the backend adds (the CPU: comm_host.cc; GPUs: ../cuda/comm_device.cu). All but the last is of every backend.
#pragma once
#include "check.h"

#include <pthread.h>
#include <time.h>

constexpr int COMM_RANKS_MAX = 64;
constexpr int COMM_LABEL = 96;   // bytes of what a collective is of, NUL included
constexpr int COMM_QUEUE = 256;  // collectives that may wait; whoever asks for one more waits as well

constexpr const char* COLLECTIVES[] = {"barrier", "all_reduce", "reduce_scatter", "all_gather", "broadcast"};
enum CollectiveKind { BARRIER, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST };

struct Collective {
  int32_t kind, type;  // element type, or the root of a broadcast
  int32_t accumulate;  // as in koala.h
  void* out;
  const void* x;
  double n, timeout_s;
  char of[COMM_LABEL];
};

struct CommHeader;

/** What carries collectives between ranks. All but give_up is for the thread that runs them. */
struct CommTransport {
  /** Meets the other ranks under `name`; c has rank, world and slot. Leaves nothing behind where it fails. */
  int32_t (*join)(koala_comm* c, const char* name, double timeout_s);
  void (*leave)(koala_comm* c);
  /** Runs one collective to its end. */
  int32_t (*run)(koala_comm* c, const Collective& collective);
  /** Lets every rank know that `rank` aborted or has ended: all collectives fail from now on. Any thread may. */
  void (*give_up)(koala_comm* c, int rank, bool aborted);
};
extern const CommTransport shared_memory;

struct koala_comm {
  int rank = 0, world = 1;
  const CommTransport* transport = nullptr;
  void* backend = nullptr;   // what the backend keeps of it
  void* carrier = nullptr;   // what a transport of the backend keeps of it

  int file = -1;             // of the shared memory
  size_t slot = 0, bytes = 0;
  CommHeader* header = nullptr;
  char* slots = nullptr;
  char what[COMM_LABEL + 40];  // the collective that runs, for messages
  uint64_t barriers = 0;       // that this rank has passed
  uint64_t pieces = 0;         // that went through the slots: even ones use the first halves

  pthread_t thread;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;  // of all below
  pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
  Collective queue[COMM_QUEUE];
  uint64_t asked = 0, over = 0;  // collectives so far; the next one is queue[over % COMM_QUEUE]
  uint64_t failed = 0;           // the first that failed, counted from 1; 0: none
  char error[1024];
  bool stopping = false;
  int64_t busy_ns = 0, waited_ns = 0;
};

static inline int64_t clock_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/** Waits for all ranks; afterwards what they wrote to the halves they held before is visible. */
int32_t comm_meet(koala_comm* c, const Collective& collective);
/** This rank reads no other's slot until it meets them again. */
void comm_rest(koala_comm* c);
/** Waits until no other rank reads this one's slot, at most timeout_s. */
void comm_outlast_readers(koala_comm* c, double timeout_s);
/** -1 with a sentence, if a rank was given up. */
int32_t comm_look(koala_comm* c);
/** A rank whose process has ended or closed its communicator, or -1; it may have done all that was asked of it. */
int comm_missing(koala_comm* c);

// ---- what a backend adds ----
/** Before the ranks meet; `dev` is the caller's. */
int32_t comm_attach(koala_comm* c, koala_device* dev);
void comm_detach(koala_comm* c);
/** What carries a communicator of this name; nullptr with a sentence, if nothing does. */
const CommTransport* comm_transport(const char* name);
/** Once the staging slots are there. */
void comm_pin(koala_comm* c, void* data, size_t bytes);
void comm_unpin(koala_comm* c, void* data);
/** The caller asks for the collective at `place` of the queue: its input is made by what the device was told so far. */
int32_t comm_mark(koala_comm* c, int place);
/** The communicator's thread begins with the one at `place`: its input must be there for all that follows. */
int32_t comm_begin(koala_comm* c, int place);
/** Whether this processor reads and writes the memory at p itself. */
bool comm_reaches(koala_comm* c, const void* p);
/** Starts a copy between a slot and memory of the caller; comm_settle returns when all are done. */
int32_t comm_copy(koala_comm* c, void* to, const void* from, size_t bytes);
int32_t comm_settle(koala_comm* c);
/** Memory for sums on their way to memory that the processor does not reach; half a slot. */
void* comm_bounce(koala_comm* c);
