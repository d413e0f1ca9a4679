// The communicator's thread runs the collectives in the order in which they were asked for, while the caller computes.
//
// A collective that failed has failed for good: those after it fail with its sentence, which names it. The caller's
// memory belongs to a collective until the caller has waited for it.
#include "comm.h"

#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include <new>

namespace {

struct Locked {
  pthread_mutex_t* mutex;
  explicit Locked(koala_comm* c) : mutex(&c->mutex) { pthread_mutex_lock(mutex); }
  ~Locked() { pthread_mutex_unlock(mutex); }
};

void wait_for_change(koala_comm* c) { pthread_cond_wait(&c->changed, &c->mutex); }

int32_t run(koala_comm* c, const Collective& collective, int place) {
  snprintf(c->what, sizeof c->what, "koala_comm_%s (%s)", COLLECTIVES[collective.kind], collective.of);
  if (comm_begin(c, place) == 0) return c->transport->run(c, collective);
  c->transport->give_up(c, c->rank, true);
  return -1;
}

void* run_queue(void* argument) {
  koala_comm* c = (koala_comm*)argument;
  Locked locked(c);
  for (;;) {
    while (c->over == c->asked && !c->stopping) wait_for_change(c);
    if (c->over == c->asked) return nullptr;
    if (!c->failed) {
      const int place = (int)(c->over % COMM_QUEUE);
      const Collective next = c->queue[place];
      pthread_mutex_unlock(&c->mutex);
      const int64_t begin = clock_ns();
      const int32_t status = run(c, next, place);
      const int64_t busy = clock_ns() - begin;
      pthread_mutex_lock(&c->mutex);
      c->busy_ns += busy;
      if (status) {
        c->failed = c->over + 1;
        strncpy(c->error, koala_last_error(), sizeof c->error - 1);
      }
    }
    c->over++;
    pthread_cond_broadcast(&c->changed);
  }
}

bool start_thread(koala_comm* c) {
  // Signals belong to the threads of the host program.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const bool started = pthread_create(&c->thread, nullptr, run_queue, c) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return started;
}

int32_t enqueue(koala_comm* c, double* ticket, const char* of, Collective collective) {
  REQUIRE(strlen(of) < COMM_LABEL, "koala_comm_%s: \"%.120s\" has more than %d bytes.", COLLECTIVES[collective.kind], of,
      COMM_LABEL - 1);
  memset(collective.of, 0, COMM_LABEL);
  strcpy(collective.of, of);
  Locked locked(c);
  while (c->asked - c->over == COMM_QUEUE) wait_for_change(c);
  const int place = (int)(c->asked % COMM_QUEUE);
  if (comm_mark(c, place)) return -1;
  c->queue[place] = collective;
  c->asked++;
  *ticket = (double)c->asked;
  pthread_cond_broadcast(&c->changed);
  return 0;
}

Collective make(CollectiveKind kind, void* out, const void* x, double n, int32_t type, double timeout_s) {
  Collective collective = {};
  collective.kind = kind, collective.out = out, collective.x = x, collective.n = n, collective.type = type;
  collective.timeout_s = timeout_s;
  return collective;
}

bool is_count(double n) { return n >= 0 && n <= 9007199254740992. && n == (double)(int64_t)n; }

}  // namespace

#define REQUIRE_QUEUE(op)                   \
  REQUIRE_POINTER("comm_" op, comm);   \
  REQUIRE_POINTER("comm_" op, ticket); \
  REQUIRE_POINTER("comm_" op, of)
#define REQUIRE_ELEMENTS(op, n) REQUIRE(is_count(n), "koala_comm_" op ": n is %g and must be a count.", n)
#define REQUIRE_SUMMED(op, dtype)                          \
  REQUIRE(is_float_type(dtype), "koala_comm_" op ": dtype is %d (%s); f32, bf16 and f64 are summed.", dtype, type_name(dtype))

namespace {

/** Undoes what koala_comm_open did so far. */
int32_t close_half(koala_comm* c) {
  comm_detach(c);
  free(c);
  return -1;
}

}  // namespace

int32_t koala_comm_open(koala_comm** out, koala_device* dev, const char* name, int32_t rank, int32_t world,
    double bytes, double timeout_s) {
  REQUIRE_POINTER("comm_open", out);
  REQUIRE_POINTER("comm_open", dev);
  REQUIRE_POINTER("comm_open", name);
  const CommTransport* transport = comm_transport(name);
  if (!transport) return -1;
  REQUIRE(world >= 1 && world <= COMM_RANKS_MAX, "koala_comm_open: %d ranks were asked for; 1 to %d are possible.",
      world, COMM_RANKS_MAX);
  REQUIRE(rank >= 0 && rank < world, "koala_comm_open: rank %d is not one of %d ranks.", rank, world);
  REQUIRE(bytes >= 65536 && bytes <= 4e10, "koala_comm_open: a staging slot of %g bytes; it must have at least 65536.",
      bytes);
  void* place = malloc(sizeof(koala_comm));
  REQUIRE(place, "koala_comm_open: the system has no memory for a communicator.");
  koala_comm* c = new (place) koala_comm;
  c->rank = rank, c->world = world, c->transport = transport;
  c->slot = ((size_t)bytes + 8191) & ~(size_t)8191;
  c->error[0] = c->error[sizeof c->error - 1] = 0;
  if (comm_attach(c, dev) || transport->join(c, name, timeout_s)) return close_half(c);
  if (!start_thread(c)) {
    transport->leave(c);
    fail("koala_comm_open: the system refused to start a thread for the communicator.");
    return close_half(c);
  }
  *out = c;
  return 0;
}

int32_t koala_comm_close(koala_comm* comm) {
  REQUIRE_POINTER("comm_close", comm);
  {
    Locked locked(comm);
    comm->stopping = true;
    // Nobody will wait for these any more, and others must not wait for this rank.
    if (comm->over != comm->asked) comm->transport->give_up(comm, comm->rank, true);
    pthread_cond_broadcast(&comm->changed);
  }
  pthread_join(comm->thread, nullptr);
  comm->transport->leave(comm);
  comm_detach(comm);
  free(comm);
  return 0;
}

int32_t koala_comm_abort(koala_comm* comm) {
  REQUIRE_POINTER("comm_abort", comm);
  comm->transport->give_up(comm, comm->rank, true);
  return 0;
}

int32_t koala_comm_wait(koala_comm* comm, double ticket) {
  REQUIRE_POINTER("comm_wait", comm);
  REQUIRE(is_count(ticket), "koala_comm_wait: %g is no ticket.", ticket);
  const uint64_t number = (uint64_t)ticket;
  Locked locked(comm);
  REQUIRE(number <= comm->asked, "koala_comm_wait: ticket %g was not given out.", ticket);
  if (comm->over < number) {
    const int64_t begin = clock_ns();
    while (comm->over < number) wait_for_change(comm);
    comm->waited_ns += clock_ns() - begin;
  }
  REQUIRE(!comm->failed || number < comm->failed, "%s", comm->error);
  return 0;
}

int32_t koala_comm_statistics(koala_comm* comm, double* counts) {
  REQUIRE_POINTER("comm_statistics", comm);
  REQUIRE_POINTER("comm_statistics", counts);
  Locked locked(comm);
  counts[0] = (double)comm->over;
  counts[1] = (double)comm->busy_ns;
  counts[2] = (double)comm->waited_ns;
  return 0;
}

int32_t koala_comm_barrier(koala_comm* comm, double* ticket, const char* of, double timeout_s) {
  REQUIRE_QUEUE("barrier");
  return enqueue(comm, ticket, of, make(BARRIER, nullptr, nullptr, 0, 0, timeout_s));
}

int32_t koala_comm_all_reduce(koala_comm* comm, double* ticket, void* x, double n, int32_t dtype, const char* of,
    double timeout_s) {
  REQUIRE_QUEUE("all_reduce");
  REQUIRE_POINTER("comm_all_reduce", x);
  REQUIRE_ELEMENTS("all_reduce", n);
  REQUIRE_SUMMED("all_reduce", dtype);
  return enqueue(comm, ticket, of, make(ALL_REDUCE, x, x, n, dtype, timeout_s));
}

int32_t koala_comm_reduce_scatter(koala_comm* comm, double* ticket, void* out, const void* x, double n,
    int32_t accumulate, int32_t dtype, const char* of, double timeout_s) {
  REQUIRE_QUEUE("reduce_scatter");
  REQUIRE_POINTER("comm_reduce_scatter", out);
  REQUIRE_POINTER("comm_reduce_scatter", x);
  REQUIRE_ELEMENTS("reduce_scatter", n);
  REQUIRE_SUMMED("reduce_scatter", dtype);
  REQUIRE(accumulate >= 0 && accumulate < (dtype == KOALA_F32 ? 3 : 2),
      "koala_comm_reduce_scatter: accumulate is %d with elements of %s; 0 and 1 are possible, and 2 with f32.", accumulate,
      type_name(dtype));
  REQUIRE((int64_t)n % comm->world == 0,
      "koala_comm_reduce_scatter: %.0f elements cannot be shared evenly by %d ranks.", n, comm->world);
  Collective collective = make(REDUCE_SCATTER, out, x, n, dtype, timeout_s);
  collective.accumulate = accumulate;
  return enqueue(comm, ticket, of, collective);
}

int32_t koala_comm_all_gather(koala_comm* comm, double* ticket, void* out, const void* x, double n, const char* of,
    double timeout_s) {
  REQUIRE_QUEUE("all_gather");
  REQUIRE_POINTER("comm_all_gather", out);
  REQUIRE_POINTER("comm_all_gather", x);
  REQUIRE_ELEMENTS("all_gather", n);
  return enqueue(comm, ticket, of, make(ALL_GATHER, out, x, n, 0, timeout_s));
}

int32_t koala_comm_broadcast(koala_comm* comm, double* ticket, void* x, double n, int32_t root, const char* of,
    double timeout_s) {
  REQUIRE_QUEUE("broadcast");
  REQUIRE_POINTER("comm_broadcast", x);
  REQUIRE_ELEMENTS("broadcast", n);
  REQUIRE(root >= 0 && root < comm->world, "koala_comm_broadcast: root %d is not one of %d ranks.", root, comm->world);
  return enqueue(comm, ticket, of, make(BROADCAST, x, x, n, root, timeout_s));
}
