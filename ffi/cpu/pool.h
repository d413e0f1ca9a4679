// The device's threads: the caller and n-1 workers that share one job at a time.
//
// A job is open from `run` until the caller has finished its own part. Workers join an open job; `run` then waits for
// those that joined, never for one that sleeps or was not scheduled. So every job must hand out its work through a
// shared counter (`Counter`), and any number of the threads, the caller alone included, must be able to finish it.
// Workers spin for at most 50 us after a job and then sleep in the kernel.
#pragma once
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

constexpr int THREADS_MAX = 256;

typedef void (*PoolTask)(void* context, int thread);

struct Pool {
  int threads = 1;
  // gate: low half counts the workers inside the job, high half is 2 * job number + (1 while the job is open).
  alignas(64) uint64_t gate = 0;
  alignas(64) uint32_t epoch = 0;  // job number, the word that sleeping workers wait on
  alignas(64) uint32_t sleepers = 0;
  PoolTask task = nullptr;
  void* context = nullptr;
  bool stopping = false;
  pthread_t workers[THREADS_MAX];
};

/** Starts threads-1 workers. Returns false, with none left running, if the system refuses a thread. */
bool pool_start(Pool* pool, int threads);
void pool_stop(Pool* pool);
/** Runs task(context, thread) on the caller (thread 0) and on every worker that is free. */
void pool_run(Pool* pool, PoolTask task, void* context);

/** Hands out 0, 1, 2 ... to whichever thread asks next. */
struct Counter {
  int64_t next = 0;
  inline int64_t take(int64_t step = 1) { return __atomic_fetch_add(&next, step, __ATOMIC_RELAXED); }
  /** Takes 1/parts of what is left of [0, count): long runs first, short ones last, so that threads end together. Inlined
   *  always: the linker would keep one copy for all instruction sets. */
  inline __attribute__((always_inline)) bool take_share(int64_t count, int parts, int64_t* begin, int64_t* end) {
    *begin = __atomic_load_n(&next, __ATOMIC_RELAXED);
    do {
      if (*begin >= count) return false;
      *end = *begin + (count - *begin + parts - 1) / parts;
    } while (!__atomic_compare_exchange_n(&next, begin, *end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
  }
};

/** f(thread) on all threads if `wide`, else on the caller alone. */
template <class F>
static inline void parallel(Pool* pool, bool wide, F&& f) {
  if (!wide || pool->threads == 1) return f(0);
  auto call = [](void* context, int thread) { (*static_cast<__typeof__(&f)>(context))(thread); };
  pool_run(pool, call, &f);
}

/** f(begin, end, thread) over [0, count) in pieces of `step`, on all threads if `wide`. */
template <class F>
static inline void parallel_for(Pool* pool, bool wide, int64_t count, int64_t step, F&& f) {
  Counter counter;
  if (step < 1) step = 1;
  parallel(pool, wide && count > step, [&](int thread) {
    for (int64_t begin; (begin = counter.take(step)) < count;) f(begin, begin + step < count ? begin + step : count,
        thread);
  });
}
