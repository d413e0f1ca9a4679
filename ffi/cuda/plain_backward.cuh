// Gradient of attention over documents in float32, any head dim up to 512: the two passes of flash_backward.cuh without
// tensor cores. A block owns 8 keys (or rows) and takes 16 rows (or keys) at a time; each thread makes one score.
#pragma once
#include "flash_backward.cuh"

/** Shared memory: two kinds of rows of what the block owns, two of what comes, two sets of weights. */
struct PlainBackwardMemory {
  float *own[2], *side[2], *weights[2];
  int* before;
  DEVICE PlainBackwardMemory(float* memory, int E) {
    for (int i = 0; i < 2; i++) own[i] = memory, memory += PLAIN_ROWS * E;
    for (int i = 0; i < 2; i++) side[i] = memory, memory += PLAIN_KEYS * (E + 1);
    for (int i = 0; i < 2; i++) weights[i] = memory, memory += PLAIN_ROWS * PLAIN_KEYS;
    before = (int*)memory;
  }
};
inline size_t plain_backward_bytes(int E, int S) {
  return 2 * (size_t)(PLAIN_ROWS * E + PLAIN_KEYS * (E + 1) + PLAIN_ROWS * PLAIN_KEYS) * sizeof(float)
      + ((size_t)S + 1) * sizeof(int);
}

DEVICE void clear_plain(float (*x)[PLAIN_SLOTS]) {
#pragma unroll
  for (int r = 0; r < PLAIN_ROWS; r++)
#pragma unroll
    for (int i = 0; i < PLAIN_SLOTS; i++) x[r][i] = 0;
}
/** Writes the columns that this thread owns of row r to `to`. */
template <class T> DEVICE void store_plain(T* to, const float* x, int E) {
#pragma unroll
  for (int i = 0; i < PLAIN_SLOTS; i++) {
    const int e = threadIdx.x + i * PLAIN_THREADS;
    if (e < E) to[e] = narrow<T>(x[i]);
  }
}

/** dk and dv of the keys [item.row, item.row + 8). */
template <class Call>
DEVICE void plain_key_gradients(const Call& call, const FlashItem& item, const PlainBackwardMemory& m) {
  const Sequence q = call.sequence(item.s);
  const int E = call.heads.E, group = call.heads.group, own = threadIdx.x / PLAIN_KEYS, r = threadIdx.x % PLAIN_KEYS;
  const int last = min(item.row + PLAIN_ROWS, q.tokens) - 1, key = item.row + own;
  const DocumentHashing hashing = call.hashing(item.s);
  auto token = [&](const auto* from, int k) {
    return item.row + k < q.tokens ? from + call.keys.at(item.s, item.g, item.row + k) : nullptr;
  };
  load_plain(m.own[0], E, PLAIN_ROWS, E, [&](int k) { return token(call.keys.keys, k); });
  load_plain(m.own[1], E, PLAIN_ROWS, E, [&](int k) { return token(call.keys.values, k); });
  float dk[PLAIN_ROWS][PLAIN_SLOTS], dv[PLAIN_ROWS][PLAIN_SLOTS];
  clear_plain(dk), clear_plain(dv);
  const int end = (last_query(last, q.tokens, call.window) + 1) * group;
  for (int n = item.row * group / PLAIN_KEYS; n * PLAIN_KEYS < end; n++) {
    auto row_at = [&](int i) { return row_of(q, call.heads, item.g, n * PLAIN_KEYS + i, call.window); };
    load_plain(m.side[0], E + 1, PLAIN_KEYS, E, [&](int i) {
      const Row row = row_at(i);
      return row.exists ? call.qkv + call.query_at(row) : nullptr;
    });
    load_plain(m.side[1], E + 1, PLAIN_KEYS, E, [&](int i) {
      const Row row = row_at(i);
      return row.exists ? call.dy + call.y_at(row) : nullptr;
    });
    __syncthreads();
    const Slope slope = slope_of(call, hashing, side_row(call, hashing, row_at(r)), key,
        plain_dot(m.own[0] + own * E, m.side[0] + r * (E + 1), E),
        plain_dot(m.own[1] + own * E, m.side[1] + r * (E + 1), E));
    m.weights[0][own * PLAIN_KEYS + r] = slope.score;
    m.weights[1][own * PLAIN_KEYS + r] = slope.used;
    __syncthreads();
    plain_mix(dk, m.weights[0], m.side[0], E);
    plain_mix(dv, m.weights[1], m.side[1], E);
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < PLAIN_ROWS; k++) {
    if (item.row + k >= q.tokens) continue;
    auto* to = call.dqkv + (call.keys.keys - call.qkv) + call.keys.at(item.s, item.g, item.row + k);
    store_plain(to, dk[k], E);
    store_plain(to + (call.keys.values - call.keys.keys), dv[k], E);
  }
  __syncthreads();
}

/** dq of the rows [item.row, item.row + 8). */
template <class Call>
DEVICE void plain_row_gradients(const Call& call, const FlashItem& item, const PlainBackwardMemory& m) {
  const Sequence q = call.sequence(item.s);
  const int E = call.heads.E, own = threadIdx.x / PLAIN_KEYS, k = threadIdx.x % PLAIN_KEYS;
  const DocumentHashing hashing = call.hashing(item.s);
  auto row_at = [&](int i) { return row_of(q, call.heads, item.g, item.row + i, call.window); };
  load_plain(m.own[0], E, PLAIN_ROWS, E, [&](int i) {
    const Row row = row_at(i);
    return row.exists ? call.qkv + call.query_at(row) : nullptr;
  });
  load_plain(m.own[1], E, PLAIN_ROWS, E, [&](int i) {
    const Row row = row_at(i);
    return row.exists ? call.dy + call.y_at(row) : nullptr;
  });
  const SideRow row = side_row(call, hashing, row_at(own));
  float dq[PLAIN_ROWS][PLAIN_SLOTS];
  clear_plain(dq);
  for (int n = item.first; n <= item.last; n++) {
    const int j = n * PLAIN_KEYS;
    auto token = [&](const auto* from, int i) {
      return j + i < q.tokens ? from + call.keys.at(item.s, item.g, j + i) : nullptr;
    };
    load_plain(m.side[0], E + 1, PLAIN_KEYS, E, [&](int i) { return token(call.keys.keys, i); });
    load_plain(m.side[1], E + 1, PLAIN_KEYS, E, [&](int i) { return token(call.keys.values, i); });
    __syncthreads();
    m.weights[0][own * PLAIN_KEYS + k] = slope_of(call, hashing, row, j + k,
        plain_dot(m.own[0] + own * E, m.side[0] + k * (E + 1), E),
        plain_dot(m.own[1] + own * E, m.side[1] + k * (E + 1), E)).score;
    __syncthreads();
    plain_mix(dq, m.weights[0], m.side[0], E);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < PLAIN_ROWS; i++) {
    const Row each = row_at(i);
    if (each.exists) store_plain(call.dqkv + call.query_at(each), dq[i], E);
  }
  __syncthreads();
}
