// Log-probabilities of chosen tokens, their ranks, and the best tokens of each row; a block has a row.
//
// Chosen and best tokens share value(l) = (l - top) - log_sum, in double, bit for bit. The best are found BUCKET at a
// time: the prefix of so many tokens, gathered and sorted.
//
// budget k_logprobs: registers 104, shared 37216
#include "order.cuh"

namespace {

struct LogprobsCall {
  float* logprobs;
  int32_t *ranks, *top_ids;
  float* top_logprobs;
  const float* logits;
  const int32_t* ids;
  int V, k;
  Faults* faults;
  POINTERS(logprobs, ranks, top_ids, top_logprobs, logits, ids, faults)
};

/** The largest logit; -inf if none is larger. */
DEVICE float find_top(const LogitRow& row) {
  float top = -INFINITY;
  for_own(row, [&](float l, int) { top = l > top ? l : top; });
  return block_max<ROW_WARPS>(top);
}

/** Writes the first k tokens of the order. */
DEVICE void write_best(const LogprobsCall& call, const LogitRow& row, OrderMemory& m, int r, double log_sum) {
  const int64_t at = (int64_t)r * call.k;
  const int all = m.row.count[PARTS - 1], wanted = min(call.k, all);
  uint64_t low = 0;
  for (int done = 0; done < wanted; done += BUCKET) {
    const int n = min(BUCKET, wanted - done);
    const uint64_t last = find_prefix(row, m, {(double)(done + n), true, false}, LAST_KEY).last;
    gather(row, m, low, last);
    for (int i = threadIdx.x; i < n; i += ROW_THREADS) {
      call.top_ids[at + done + i] = key_id(m.key[i]);
      call.top_logprobs[at + done + i] = (float)((double)row.logits[key_id(m.key[i])] - (double)row.top - log_sum);
    }
    low = last;
    __syncthreads();
  }
  for (int i = wanted + threadIdx.x; i < call.k; i += ROW_THREADS) {
    call.top_ids[at + i] = -1;
    call.top_logprobs[at + i] = -INFINITY;
  }
}

KERNEL(ROW_THREADS, 1) k_logprobs(LogprobsCall call) {
  SHARED(OrderMemory, memory, 1);
  const int r = blockIdx.x, id = call.ids[r];
  LogitRow row = {call.logits + (size_t)r * call.V, call.V, 0, 1};
  row.top = find_top(row);
  const bool chosen = id >= 0 && check_index(call.faults, FAULT_TOKEN, r, id, call.V);
  const float logit = chosen ? row.logits[id] : 0;
  int above = 0;
  for_own(row, [&](float l, int) { above += l > logit; });
  above = block_sum<ROW_WARPS>(above);
  tabulate_row(row, *memory);
  const double log_sum = log(memory->row.mass[PARTS - 1]);
  if (threadIdx.x == 0) {
    call.logprobs[r] = chosen ? (float)((double)logit - (double)row.top - log_sum) : 0;
    call.ranks[r] = chosen ? 1 + above : 0;
  }
  if (call.k > 0) write_best(call, row, *memory, r, log_sum);
}

}  // namespace

int32_t koala_logprobs(koala_device* dev, float* logprobs, int32_t* ranks, int32_t* top_ids, float* top_logprobs,
    const float* logits, const int32_t* ids, int32_t R, int32_t V, int32_t k) {
  if (check_logprobs(dev, logprobs, ranks, top_ids, top_logprobs, logits, ids, R, V, k)) return -1;
  if (R == 0) return 0;
  if (begin(dev, "koala_logprobs")) return -1;
  const LogprobsCall call = {logprobs, ranks, top_ids, top_logprobs, logits, ids, V, k, checked(dev, FAULT_TOKEN, V)};
  LAUNCH(k_logprobs, dim3(R), dim3(ROW_THREADS), 0, dev->stream, call);
  return finish(dev);
}
