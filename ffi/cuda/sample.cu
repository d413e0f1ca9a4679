// Picks the next token of each row from its logits; a block has a row.
//
// What a row keeps (top-k, then top-p, then min-p) is always a prefix of the descending order, and a draw is a point in
// it: each is one search of order.cuh. Probabilities are relative to the largest, which has 1.
//
// budget k_sample: registers 96, shared 37232
#include "flat.cuh"
#include "order.cuh"

namespace {

struct SampleCall {
  int32_t* ids;
  float* logits;
  const float* scalars;
  const double* uniform;
  const int32_t *history_starts, *history, *counts, *bias_starts, *bias_ids;
  const float* bias_values;
  const int32_t* mask_rows;
  const uint32_t* mask;
  int V;
  Faults* faults;
  POINTERS(ids, logits, scalars, uniform, history_starts, history, counts, bias_starts, bias_ids, bias_values, mask_rows, mask,
      faults)
};

struct Settings { float temperature, top_p, min_p, repetition, frequency, presence, top_k; };

DEVICE Settings settings_of(const float* row) { return {row[0], row[1], row[2], row[3], row[4], row[5], row[6]}; }

/** A thread a token: history lists each once. */
DEVICE void penalise(const SampleCall& call, float* logits, const Settings& s, int r) {
  const int end = call.history_starts[r + 1];
  for (int i = call.history_starts[r] + threadIdx.x; i < end; i += ROW_THREADS) {
    if (!check_index(call.faults, FAULT_TOKEN, r, call.history[i], call.V)) continue;
    float l = logits[call.history[i]];
    const int n = call.counts[i];
    l = l > 0 ? div_rn(l, s.repetition) : mul_rn(l, s.repetition);
    l = add_rn(l, -mul_rn(s.frequency, (float)n));
    if (n > 0) l = add_rn(l, -s.presence);
    logits[call.history[i]] = l;
  }
  __syncthreads();
}

/** A thread a token: the first entry of a token adds all entries of it, in their order. */
DEVICE void add_bias(const SampleCall& call, float* logits, int r) {
  const int from = call.bias_starts[r], end = call.bias_starts[r + 1];
  for (int i = from + threadIdx.x; i < end; i += ROW_THREADS) {
    const int id = call.bias_ids[i];
    if (!check_index(call.faults, FAULT_TOKEN, r, id, call.V)) continue;
    bool first = true;
    for (int j = from; j < i; j++) first = first && call.bias_ids[j] != id;
    if (!first) continue;
    float l = logits[id];
    for (int j = i; j < end; j++)
      if (call.bias_ids[j] == id) l = add_rn(l, call.bias_values[j]);
    logits[id] = l;
  }
  __syncthreads();
}

/** The largest logit that is allowed and the lowest id that has it; what is not allowed becomes -inf. A NaN anywhere:
 *  the id is -1. */
DEVICE float find_top(const SampleCall& call, float* logits, int r, int* id) {
  const int V = call.V;
  const uint32_t* mask = call.mask_rows[r] >= 0 ? call.mask + (size_t)call.mask_rows[r] * ((V + 31) / 32) : nullptr;
  float top = -INFINITY;
  int at = V, nan = 0;
  for_own({logits, V, 0, 1}, [&](float l, int v) {
    nan |= l != l;
    if (mask && !(mask[v / 32] >> (v % 32) & 1) && l == l) logits[v] = l = -INFINITY;
    if (l > top) top = l, at = v;
  });
  const float most = block_max<ROW_WARPS>(top);
  const int lowest = -block_max<ROW_WARPS>(top == most ? -at : -V);
  nan = block_max<ROW_WARPS>(nan);
  *id = nan || most == -INFINITY ? -1 : lowest;
  return most;
}

/** Draws from the row. */
DEVICE int draw(const LogitRow& row, OrderMemory& m, const Settings& s, double uniform) {
  SHARED(int, min_p_count, 1);
  tabulate_row(row, m, s.min_p > 0 ? min(s.min_p, 1.f) : INFINITY, min_p_count);
  Prefix kept = {LAST_KEY, m.row.count[PARTS - 1], m.row.mass[PARTS - 1]};
  if (s.top_k > 0 && s.top_k < (float)kept.count) kept = find_prefix(row, m, {s.top_k, true, false}, LAST_KEY);
  if (s.top_p < 1) kept = find_prefix(row, m, {s.top_p * kept.mass, false, false}, kept.last);
  if (s.min_p > 0 && *min_p_count < kept.count)
    kept = find_prefix(row, m, {(double)*min_p_count, true, false}, kept.last);
  return key_id(find_prefix(row, m, {uniform * kept.mass, false, true}, kept.last).last);
}

KERNEL(ROW_THREADS, 1) k_sample(SampleCall call) {
  SHARED(OrderMemory, memory, 1);
  const int r = blockIdx.x;
  float* logits = call.logits + (size_t)r * call.V;
  const Settings s = settings_of(call.scalars + r * 7);
  penalise(call, logits, s, r);
  add_bias(call, logits, r);
  int id;
  const float top = find_top(call, logits, r, &id);
  if (id >= 0 && s.temperature > 0) id = draw({logits, call.V, top, s.temperature}, *memory, s, call.uniform[r]);
  if (threadIdx.x == 0) call.ids[r] = id;
}

}  // namespace

int32_t koala_sample(koala_device* dev, int32_t* ids, float* logits, const float* scalars, const double* uniform,
    const int32_t* history_starts, const int32_t* history, const int32_t* counts, const int32_t* bias_starts,
    const int32_t* bias_ids, const float* bias_values, const int32_t* mask_rows, const uint32_t* mask, int32_t R,
    int32_t V) {
  if (check_sample(dev, ids, logits, scalars, uniform, history_starts, bias_starts, mask_rows, R, V)) return -1;
  if (R == 0) return 0;
  if (begin(dev, "koala_sample")) return -1;
  const SampleCall call = {ids, logits, scalars, uniform, history_starts, history, counts, bias_starts, bias_ids,
      bias_values, mask_rows, mask, V, checked(dev, FAULT_TOKEN, V)};
  LAUNCH(k_sample, dim3(R), dim3(ROW_THREADS), 0, dev->stream, call);
  return finish(dev);
}
