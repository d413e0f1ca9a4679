// Sums over ranks in rank order, of parts that lie anywhere the GPU reads: its own memory or another's.
//
// budget k_sum_ranks: registers 48, shared 0
#pragma once
#include "comm_device.cuh"
#include "kernels.cuh"

/** Where the parts of the ranks begin. */
struct RankParts { const void* at[COMM_RANKS_MAX]; };

/** Elements [part * r, + length) of `count` are rank r's. */
struct Parts {
  int64_t count, part;
  int64_t length(int r) const {
    const int64_t left = count - part * r;
    return left < 0 ? 0 : left < part ? left : part;
  }
};

namespace {

constexpr int SUM_THREADS = 256;
constexpr int SUM_EACH = 8;  // elements of a thread

/** to[i] = (to[i] +, if accumulate) parts[0][i] + parts[1][i] ...; a `to` that is added to is rounded after each rank, else
    after the last. A part may be `to`. */
template <class Out, class In>
KERNEL(SUM_THREADS) k_sum_ranks(Out* to, RankParts parts, int world, int64_t n, bool accumulate, bool wide) {
  const int64_t i = ((int64_t)blockIdx.x * SUM_THREADS + threadIdx.x) * SUM_EACH;
  if (i >= n) return;
  compute_t<Out> sum[SUM_EACH];
  if (accumulate) load_some(sum, to, i, n, wide);
  else
#pragma unroll
    for (int j = 0; j < SUM_EACH; j++) sum[j] = -compute_t<Out>(0);  // which changes no bit of what it is added to
  for (int r = 0; r < world; r++) {
    compute_t<In> next[SUM_EACH];
    load_some(next, (const In*)parts.at[r], i, n, wide);
#pragma unroll
    for (int j = 0; j < SUM_EACH; j++) {
      sum[j] += next[j];
      if (accumulate) sum[j] = widen(narrow<Out>(sum[j]));
    }
  }
  store_some(to, sum, i, n, wide);
}

/** On the communicator's stream. */
template <class Out, class In>
int32_t sum_ranks(koala_comm* c, Out* to, const RankParts& parts, int64_t n, bool accumulate) {
  if (n == 0) return 0;
  bool wide = is_aligned(to);
  for (int r = 0; r < c->world; r++) wide = wide && is_aligned(parts.at[r]);
  LAUNCH((k_sum_ranks<Out, In>), blocks_of(n, SUM_THREADS * SUM_EACH), SUM_THREADS, 0, of_device(c)->stream, to, parts,
      c->world, n, accumulate, wide);
  REQUIRE_CUDA("comm", cudaGetLastError());
  return 0;
}

}  // namespace
