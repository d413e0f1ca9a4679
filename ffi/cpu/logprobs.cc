// Log-probabilities of chosen tokens, their ranks, and the best tokens of each row.
#include "device.h"
#include "order.h"

namespace KOALA_NS {

namespace {

/** A row's log-softmax: value(l) = (l - top) - log_sum, in double. Chosen and best tokens share it, bit for bit. */
struct LogSoftmax {
  float top;
  double log_sum;
  inline float value(float logit) const { return (float)((double)logit - (double)top - log_sum); }
};

inline LogSoftmax log_softmax(const float* logits, int V) {
  bool has_nan;
  const float top = row_maximum(logits, V, &has_nan);
  vd sum = {};
  for (int v = 0; v < V; v += W) {
    vf e = exp(load_row(logits, v, V) - top);
    if (v + W > V)
      for (int i = V - v; i < W; i++) e[i] = 0;
    sum += __builtin_convertvector(e, vd);
  }
  return {top, __builtin_log(sum_lanes<double>(sum))};
}

inline int rank_of(const float* logits, int V, float logit) {
  vi above = {};
  int v = 0;
  for (; v + W <= V; v += W) above -= load(logits + v) > splat(logit);
  int rank = 1;
  for (int i = 0; i < W; i++) rank += above[i];
  for (; v < V; v++) rank += logits[v] > logit;
  return rank;
}

/** Restores the heap (largest key first) below `at`. */
inline void sift_down(uint64_t* heap, int n, int at) {
  const uint64_t key = heap[at];
  for (int child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && heap[child + 1] > heap[child]) child++;
    if (heap[child] <= key) break;
    heap[at] = heap[child];
  }
  heap[at] = key;
}

/** The k first keys of a row in order; returns how many there are (NaN has no place in the order). */
inline int best_keys(uint64_t* heap, const float* logits, int V, int k) {
  int n = 0, v = 0;
  for (; v < V && n < k; v++)
    if (logits[v] == logits[v]) heap[n++] = order_key(logits[v], v);
  for (int i = n / 2 - 1; i >= 0; i--) sift_down(heap, n, i);
  auto offer = [&](int id) {
    const uint64_t key = order_key(logits[id], id);
    if (logits[id] != logits[id] || key >= heap[0]) return;
    heap[0] = key;
    sift_down(heap, n, 0);
  };
  // Later ids must be strictly larger than the worst kept one, so almost every vector is left at one comparison.
  for (; n && v + W <= V; v += W)
    for (uint32_t bits = lane_bits(load(logits + v) > splat(key_logit(heap[0]))); bits; bits &= bits - 1)
      offer(v + __builtin_ctz(bits));
  for (; n && v < V; v++) offer(v);
  for (int end = n - 1; end > 0; end--) {
    const uint64_t worst = heap[0];
    heap[0] = heap[end];
    heap[end] = worst;
    sift_down(heap, end, 0);
  }
  return n;
}

}  // namespace

int32_t logprobs(koala_device* dev, float* logprobs, int32_t* ranks, int32_t* top_ids, float* top_logprobs,
    const float* logits, const int32_t* ids, int32_t R, int32_t V, int32_t k) {
  if (reserve(dev, 0, (size_t)k * sizeof(uint64_t))) return -1;
  parallel_for(&dev->pool, (int64_t)R * V > 20000, R, 1, [&](int64_t begin, int64_t end, int thread) {
    uint64_t* keys = (uint64_t*)dev->local[thread].data;
    for (int64_t r = begin; r < end; r++) {
      const float* row = logits + r * V;
      const LogSoftmax soft = log_softmax(row, V);
      logprobs[r] = ids[r] < 0 ? 0 : soft.value(row[ids[r]]);
      ranks[r] = ids[r] < 0 ? 0 : rank_of(row, V, row[ids[r]]);
      const int n = k ? best_keys(keys, row, V, k) : 0;
      for (int i = 0; i < k; i++) {
        top_ids[r * k + i] = i < n ? key_id(keys[i]) : -1;
        top_logprobs[r * k + i] = i < n ? soft.value(row[key_id(keys[i])]) : -__builtin_inff();
      }
    }
  });
  return 0;
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_logprobs(koala_device* dev, float* logprobs, int32_t* ranks, int32_t* top_ids, float* top_logprobs,
    const float* logits, const int32_t* ids, int32_t R, int32_t V, int32_t k) {
  if (check_logprobs(dev, logprobs, ranks, top_ids, top_logprobs, logits, ids, R, V, k)) return -1;
  for (int r = 0; r < R; r++) REQUIRE(ids[r] < V,
      "koala_logprobs: token %d of row %d is outside the vocabulary of %d.", ids[r], r, V);
  return dev->kernels->logprobs(dev, logprobs, ranks, top_ids, top_logprobs, logits, ids, R, V, k);
}
#endif
