// A rank's end of a communicator: the shared memory it lies in (comm.cc) and the queue of its collectives (comm_queue.cc).
#pragma once
#include "device.h"

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

struct koala_comm {
  int rank = 0, world = 1, file = -1;
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

/** Meets the other ranks under `name`; c has rank, world and slot. Leaves nothing behind where it fails. */
int32_t comm_join(koala_comm* c, const char* name, double timeout_s);
void comm_leave(koala_comm* c);
/** Runs one collective to its end. Only one thread may. */
int32_t comm_run(koala_comm* c, const Collective& collective);
/** Lets every rank know that `rank` aborted or has ended: all collectives fail from now on. Any thread may. */
void comm_give_up(koala_comm* c, int rank, bool aborted);
