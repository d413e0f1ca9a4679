// Workers of the pool: join an open job, spin briefly, sleep on a futex.
#include "pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr int64_t SPIN_NS = 50000;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

struct Worker {
  Pool* pool;
  int thread;
};

/** Enters the job if it is open and not `last`. Returns its number, or `last`. */
uint32_t join(Pool* pool, uint32_t last) {
  uint64_t gate = __atomic_load_n(&pool->gate, __ATOMIC_ACQUIRE);
  while ((gate >> 32 & 1) && static_cast<uint32_t>(gate >> 33) != (last & 0x7fffffff))
    if (__atomic_compare_exchange_n(&pool->gate, &gate, gate + 1, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
      return static_cast<uint32_t>(gate >> 33);
  return last;
}

/** Waits until the job number is no longer `seen`: spins first, then sleeps. */
void wait_for_job(Pool* pool, uint32_t seen) {
  int64_t deadline = now_ns() + SPIN_NS;
  while (__atomic_load_n(&pool->epoch, __ATOMIC_ACQUIRE) == seen) {
    for (int i = 0; i < 32; i++) {
      if (__atomic_load_n(&pool->epoch, __ATOMIC_RELAXED) != seen) return;
      pause_cpu();
    }
    if (now_ns() < deadline) continue;
    __atomic_fetch_add(&pool->sleepers, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool->epoch, __ATOMIC_SEQ_CST) == seen)
      syscall(SYS_futex, &pool->epoch, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    __atomic_fetch_sub(&pool->sleepers, 1, __ATOMIC_SEQ_CST);
  }
}

void* work(void* argument) {
  Worker worker = *static_cast<Worker*>(argument);
  delete static_cast<Worker*>(argument);
  Pool* pool = worker.pool;
  uint32_t seen = 0, last = 0;
  for (;;) {
    wait_for_job(pool, seen);
    seen = __atomic_load_n(&pool->epoch, __ATOMIC_ACQUIRE);
    if (__atomic_load_n(&pool->stopping, __ATOMIC_ACQUIRE)) return nullptr;
    uint32_t job = join(pool, last);
    if (job == last) continue;
    last = job;
    pool->task(pool->context, worker.thread);
    __atomic_fetch_sub(&pool->gate, 1, __ATOMIC_RELEASE);
  }
}

/** Bumps the word that sleepers wait on and wakes them. */
void announce(Pool* pool) {
  __atomic_fetch_add(&pool->epoch, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&pool->sleepers, __ATOMIC_SEQ_CST))
    syscall(SYS_futex, &pool->epoch, FUTEX_WAKE_PRIVATE, pool->threads, nullptr, nullptr, 0);
}

}  // namespace

void pool_run(Pool* pool, PoolTask task, void* context) {
  pool->task = task;
  pool->context = context;
  uint64_t job = (pool->epoch + 1u) & 0x7fffffff;
  __atomic_store_n(&pool->gate, (job << 1 | 1) << 32, __ATOMIC_RELEASE);
  announce(pool);
  task(context, 0);
  __atomic_fetch_and(&pool->gate, ~(1ull << 32), __ATOMIC_ACQ_REL);  // close: nobody joins from here on
  for (int spins = 0; static_cast<uint32_t>(__atomic_load_n(&pool->gate, __ATOMIC_ACQUIRE)) != 0;) {
    pause_cpu();
    // A worker that lost its core cannot finish while we hold ours.
    if (++spins > 1000) sched_yield(), spins = 0;
  }
}

bool pool_start(Pool* pool, int threads) {
  // Signals belong to the threads of the host program, never to a worker.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pool->threads = 1;
  bool started = true;
  for (int i = 1; i < threads && started; i++) {
    Worker* worker = new Worker{pool, i};
    started = pthread_create(&pool->workers[i], nullptr, work, worker) == 0;
    if (started) pool->threads++;
    else delete worker;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!started) pool_stop(pool);
  return started;
}

void pool_stop(Pool* pool) {
  __atomic_store_n(&pool->stopping, true, __ATOMIC_RELEASE);
  announce(pool);
  for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i], nullptr);
  pool->threads = 1;
}
