// Attention without tensor cores: float32 throughout, any head dim up to 512. For float32 caches and activations, and
// for head dims that flash.cuh has no kernel for. Not fast, and not meant to be.
//
// A block owns 8 rows and takes 16 keys at a time: each of its 128 threads makes one score, then owns up to four
// columns of all 8 outputs. Splits of keys are joined as in flash.cuh, which also says what a Call is.
#pragma once
#include "attention.cuh"
#include "flash.cuh"

constexpr int PLAIN_ROWS = 8, PLAIN_KEYS = 16, PLAIN_THREADS = PLAIN_ROWS * PLAIN_KEYS;
constexpr int PLAIN_HEAD_MAX = 512, PLAIN_SLOTS = PLAIN_HEAD_MAX / PLAIN_THREADS;

/** Shared memory of a block. Rows of keys and values are one element longer than E: no two threads read one bank. */
struct PlainMemory {
  float *rows, *keys, *values, *weights, *shares;
  int* before;
  DEVICE PlainMemory(float* memory, int E) {
    rows = memory, memory += PLAIN_ROWS * E;
    keys = memory, memory += PLAIN_KEYS * (E + 1);
    values = memory, memory += PLAIN_KEYS * (E + 1);
    weights = memory, memory += PLAIN_ROWS * PLAIN_KEYS;
    shares = memory, memory += 2 * PLAIN_ROWS;
    before = (int*)memory;
  }
};
inline size_t plain_shared_bytes(int E, int S) {
  return (size_t)(PLAIN_ROWS * E + 2 * PLAIN_KEYS * (E + 1) + PLAIN_ROWS * PLAIN_KEYS + 2 * PLAIN_ROWS) * sizeof(float)
      + ((size_t)S + 1) * sizeof(int);
}

/** Columns threadIdx.x + 128 i of the 8 outputs, and maximum and sum of the row that this thread scores. */
struct PlainState {
  float output[PLAIN_ROWS][PLAIN_SLOTS];
  Part part;
  DEVICE void start() {
#pragma unroll
    for (int r = 0; r < PLAIN_ROWS; r++)
#pragma unroll
      for (int i = 0; i < PLAIN_SLOTS; i++) output[r][i] = 0;
    part = {-INFINITY, 0};
  }
};

/** `n` rows of E floats: row r from `row(r)`, zeros where that is null; `ld` apart; times scales[r], unless that is null. */
template <class Rows>
DEVICE void load_plain(float* to, int ld, int n, int E, Rows&& row, const float* scales = nullptr) {
  for (int r = threadIdx.x / 32; r < n; r += PLAIN_THREADS / 32) {
    const auto* from = row(r);
    const float scale = from && scales ? scales[r] : 1.f;
    for (int e = threadIdx.x % 32; e < E; e += 32) to[r * ld + e] = from ? widen(from[e]) * scale : 0.f;
  }
}

DEVICE float plain_dot(const float* a, const float* b, int E) {
  float sum = 0;
#pragma unroll 4
  for (int e = 0; e < E; e++) sum = fmaf(a[e], b[e], sum);
  return sum;
}

/** The sum and the maximum of 16 neighbouring threads. */
DEVICE float sum_of_16(float v) {
#pragma unroll
  for (int mask = 8; mask; mask /= 2) v += shfl_xor(v, mask);
  return v;
}
DEVICE float max_of_16(float v) {
#pragma unroll
  for (int mask = 8; mask; mask /= 2) v = max(v, shfl_xor(v, mask));
  return v;
}

/** output[r][i] += sum over n of weights[r][n] * tile[n][column i] */
DEVICE void plain_mix(float (*output)[PLAIN_SLOTS], const float* weights, const float* tile, int E) {
#pragma unroll 2
  for (int n = 0; n < PLAIN_KEYS; n++) {
    float v[PLAIN_SLOTS];
#pragma unroll
    for (int i = 0; i < PLAIN_SLOTS; i++) {
      const int e = threadIdx.x + i * PLAIN_THREADS;
      v[i] = e < E ? tile[n * (E + 1) + e] : 0.f;
    }
#pragma unroll
    for (int r = 0; r < PLAIN_ROWS; r++) {
      const float weight = weights[r * PLAIN_KEYS + n];
#pragma unroll
      for (int i = 0; i < PLAIN_SLOTS; i++) output[r][i] = fmaf(weight, v[i], output[r][i]);
    }
  }
}

/** Scores of one tile become weights in shared memory. */
template <class Call>
DEVICE void plain_weigh(const Call& call, const FlashItem& item, const Row& row, const PlainMemory& m, Part& part,
    int n) {
  const int r = threadIdx.x / PLAIN_KEYS, k = threadIdx.x % PLAIN_KEYS, E = call.heads.E, key = n * PLAIN_KEYS + k;
  const float unit = call.scale * LOG2_E;
  float score = plain_dot(m.rows + r * E, m.keys + k * (E + 1), E);
  bool hidden = key > row.position || key < row.low;
  if constexpr (Call::HASHED) hidden = hidden || call.hashing(item.s).hides(row.position, key);
  if (hidden) score = -INFINITY;
  const float top = max(max_of_16(score), part.maximum);
  const float share = part.maximum == top ? 1.f : exp2f((part.maximum - top) * unit);
  float weight = hidden ? 0.f : exp2f((score - top) * unit);
  part = {top, fmaf(part.sum, share, sum_of_16(weight))};
  if constexpr (Call::HASHED) {
    const DocumentHashing hashing = call.hashing(item.s);
    weight *= hashing.keeps(hashing.head_key(row.head), row.position, key);
  }
  m.weights[r * PLAIN_KEYS + k] = weight;
  if (k == 0) m.shares[r] = share;
}

/** Joins a split that is over to those before it. */
DEVICE void plain_join(PlainState& joined, bool& any, const PlainState& split, const PlainMemory& m, float unit) {
  if (!any) {
    joined = split;
    any = true;
    return;
  }
  float share, more;
  join(joined.part, split.part, unit, &share, &more);
  if (threadIdx.x % PLAIN_KEYS == 0) {
    m.shares[threadIdx.x / PLAIN_KEYS] = share;
    m.shares[PLAIN_ROWS + threadIdx.x / PLAIN_KEYS] = more;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < PLAIN_ROWS; r++)
#pragma unroll
    for (int i = 0; i < PLAIN_SLOTS; i++)
      joined.output[r][i] = blend(joined.output[r][i], m.shares[r], split.output[r][i], m.shares[PLAIN_ROWS + r]);
  __syncthreads();
}

/** Attends from an item's rows over its tiles; `row`: the one that this thread scores. */
template <bool SERIAL, class Call>
DEVICE void plain_attend(const Call& call, const FlashItem& item, const Row& row, const PlainMemory& m,
    PlainState& state) {
  const Sequence q = call.sequence(item.s);
  const int E = call.heads.E, end = q.past + q.tokens;
  const size_t stride = call.keys.stride();
  load_plain(m.rows, E, PLAIN_ROWS, E, [&](int r) {
    const Row each = row_of(q, call.heads, item.g, item.row + r, call.window);
    return each.exists ? call.qkv + each.token * call.heads.width() + (size_t)each.head * E : nullptr;
  });
  PlainState joined;
  bool any = false;
  state.start();
  for (int n = item.first; n <= item.last; n++) {
    const int j = n * PLAIN_KEYS;
    const size_t at = call.keys.at(item.s, item.g, j);
    auto token = [&](const auto* from, int k) { return j + k < end ? from + at + k * stride : nullptr; };
    const auto load = [&](float* to, const auto* from) {
      load_plain(to, E + 1, PLAIN_KEYS, E, [&](int k) { return token(from, k); },
          call.keys.scales(from, item.s, item.g, j));
    };
    load(m.keys, call.keys.keys);
    load(m.values, call.keys.values);
    __syncthreads();
    plain_weigh(call, item, row, m, state.part, n);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < PLAIN_ROWS; r++)
#pragma unroll
      for (int i = 0; i < PLAIN_SLOTS; i++) state.output[r][i] *= m.shares[r];
    plain_mix(state.output, m.weights, m.values, E);
    __syncthreads();
    if (SERIAL && (n == item.last || is_split_start((n + 1) * PLAIN_KEYS))) {
      if (n < item.last || any) plain_join(joined, any, state, m, call.scale * LOG2_E);
      if (n < item.last) state.start();
    }
  }
  if (SERIAL && any) state = joined;
}

/** f(row, column, output / divisor) for all rows that exist; `divisor` is that of the row that this thread scores. */
template <class Call, class F>
DEVICE void plain_outputs(const Call& call, const FlashItem& item, const PlainMemory& m, const PlainState& state,
    float divisor, F&& f) {
  const Sequence q = call.sequence(item.s);
  if (threadIdx.x % PLAIN_KEYS == 0) m.shares[threadIdx.x / PLAIN_KEYS] = divisor;
  __syncthreads();
#pragma unroll
  for (int r = 0; r < PLAIN_ROWS; r++) {
    const Row row = row_of(q, call.heads, item.g, item.row + r, call.window);
    if (!row.exists) continue;
#pragma unroll
    for (int i = 0; i < PLAIN_SLOTS; i++) {
      const int e = threadIdx.x + i * PLAIN_THREADS;
      if (e < call.heads.E) f(row, e, state.output[r][i] / m.shares[r]);
    }
  }
  __syncthreads();
}

/** y = output / sum, and log sum exp. */
template <class Call>
DEVICE void plain_store(const Call& call, const FlashItem& item, const Row& row, const PlainMemory& m,
    const PlainState& state) {
  typedef typename Call::T T;
  const int H = call.heads.H, E = call.heads.E;
  plain_outputs(call, item, m, state, state.part.sum, [&](const Row& each, int e, float value) {
    call.y[((size_t)each.token * H + each.head) * E + e] = narrow<T>(value);
  });
  if constexpr (Call::LSE)
    if (threadIdx.x % PLAIN_KEYS == 0 && row.exists)
      call.lse[(size_t)row.token * H + row.head] = fmaf(state.part.maximum, call.scale, logf(state.part.sum));
}
