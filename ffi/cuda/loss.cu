// Cross-entropy of rows of logits: log-probabilities of the targets, and the gradient in the place of the logits.
//
// A block takes a row. Each thread goes through its elements once, keeping their maximum so far and the sum of
// exponentials relative to it; threads and warps are joined in a fixed order, and the logarithm is taken in double.
// NaN or +infinity in a row gives NaN. The gradient is element by element: a thread takes eight.
// budget k_cross_entropy: registers 48, shared 128
// budget k_cross_entropy_backward: registers 40, shared 0
#include "flat.cuh"

namespace {

constexpr int WARPS = 8, THREADS = 32 * WARPS;

/** sum of exp(x - top) over some x, of which top is the largest (NaNs aside). */
template <class C> struct LogSum { C top, sum; };

template <class C> DEVICE LogSum<C> join(LogSum<C> a, LogSum<C> b) {
  const C top = larger(a.top, b.top), none = -(C)INFINITY;
  // Where both are empty, the difference of infinities would be NaN.
  const C left = a.top == none ? 0 : a.sum * exponential(a.top - top);
  const C right = b.top == none ? 0 : b.sum * exponential(b.top - top);
  // A NaN was added to a sum, and must stay where its top was -infinity.
  return {top, left + right + (a.sum != a.sum || b.sum != b.sum ? (C)NAN : 0)};
}

/** Of one row, for every thread of the block. */
template <class T> DEVICE LogSum<compute_t<T>> log_sum_exp(const T* row, int V, bool wide) {
  typedef compute_t<T> C;
  const C none = -(C)INFINITY;
  LogSum<C> s = {none, 0};
  for (int v = threadIdx.x * 8; v < V; v += THREADS * 8) {
    C x[8];
    load_some<T>(x, row, v, V, wide);
    LogSum<C> some = {none, 0};
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (v + i < V) some.top = larger(x[i], some.top);
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (v + i < V && x[i] != none) some.sum += exponential(x[i] - some.top);
    s = join(s, some);
  }
#pragma unroll
  for (int mask = 16; mask; mask /= 2) s = join(s, LogSum<C>{shfl_xor(s.top, mask), shfl_xor(s.sum, mask)});
  SHARED(C, tops, WARPS);
  SHARED(C, sums, WARPS);
  if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = s.top, sums[threadIdx.x / 32] = s.sum;
  __syncthreads();
  s = {tops[0], sums[0]};
  for (int w = 1; w < WARPS; w++) s = join(s, LogSum<C>{tops[w], sums[w]});
  return s;
}

template <class T>
KERNEL(THREADS) k_cross_entropy(compute_t<T>* logprobs, compute_t<T>* lse, const T* logits, const int32_t* targets,
    Faults* faults, int V, bool wide) {
  typedef compute_t<T> C;
  const int r = blockIdx.x;
  const T* row = logits + (int64_t)r * V;
  const LogSum<C> s = log_sum_exp(row, V, wide);
  if (threadIdx.x > 0) return;
  const double log_sum = log((double)s.sum);
  lse[r] = (C)((double)s.top + log_sum);
  const int target = targets[r];
  const bool counts = target != -1 && check_index(faults, FAULT_TARGET, r, target, V);
  logprobs[r] = counts ? (C)((double)widen(row[target]) - (double)s.top - log_sum) : 0;
}

template <class T>
KERNEL(THREADS) k_cross_entropy_backward(T* logits, const compute_t<T>* lse, const compute_t<T>* weights,
    const int32_t* targets, Faults* faults, int V, bool wide) {
  typedef compute_t<T> C;
  const int r = blockIdx.x, v = (blockIdx.y * THREADS + threadIdx.x) * 8, target = targets[r];
  if (v >= V) return;
  T* row = logits + (int64_t)r * V;
  const bool counts = target != -1 && check_index(faults, FAULT_TARGET, r, target, V);
  const C weight = weights[r], sum = lse[r];
  C x[8];
  load_some<T>(x, row, v, V, wide);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const C p = exponential(x[i] - sum);
    x[i] = !counts ? 0 : weight * (v + i == target ? p - 1 : p);
  }
  store_some(row, x, v, V, wide);
}

}  // namespace

int32_t koala_cross_entropy(koala_device* dev, void* logprobs, void* lse, const void* logits, const int32_t* targets,
    int32_t R, int32_t V, int32_t dtype) {
  if (check_cross_entropy(dev, logprobs, lse, logits, targets, R, V, dtype)) return -1;
  if (R == 0) return 0;
  if (begin(dev, "koala_cross_entropy")) return -1;
  Faults* faults = checked(dev, FAULT_TARGET, V);
  with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_cross_entropy<E>), R, THREADS, 0, dev->stream, (compute_t<E>*)logprobs, (compute_t<E>*)lse,
        (const E*)logits, targets, faults, V, is_aligned(logits) && V % 8 == 0);
    return 0;
  });
  return finish(dev);
}

int32_t koala_cross_entropy_backward(koala_device* dev, void* logits, const void* lse, const void* weights,
    const int32_t* targets, int32_t R, int32_t V, int32_t dtype) {
  if (check_cross_entropy_backward(dev, logits, lse, weights, targets, R, V, dtype)) return -1;
  if (R == 0) return 0;
  if (begin(dev, "koala_cross_entropy_backward")) return -1;
  Faults* faults = checked(dev, FAULT_TARGET, V);
  with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_cross_entropy_backward<E>), dim3(R, blocks_of(V, 8 * THREADS)), THREADS, 0, dev->stream, (E*)logits,
        (const compute_t<E>*)lse, (const compute_t<E>*)weights, targets, faults, V, is_aligned(logits) && V % 8 == 0);
    return 0;
  });
  return finish(dev);
}
