// Gradient of attention over documents on tensor cores, without atomics (FlashAttention-2's formulas, two passes).
//
// The pass over keys: a warp owns 16 keys of a block's 64, query rows come in tiles of 32 and give the transposed
// scores [keys, rows], whose registers are at once the left operands of dv += p^T dy and dk += ds^T q. The pass over
// rows: a warp owns 16 rows of 64 and keys come in tiles of 32. Both compute the scores again, so no sum is shared by
// blocks. delta (the sum of dy * y of a row) lies in the first four bytes of the row's dq until dq itself is written.
#pragma once
#include "document_attention.cuh"

constexpr int SIDE = 32;                      // rows, or keys, of a tile that comes
constexpr int OWN = DOCUMENT_WARPS * 16;      // keys, or rows, that a block owns
constexpr int BACKWARD_THREADS = DOCUMENT_WARPS * 32;

template <class T, bool HASHED> struct BackwardCall : DocumentCall<T, HASHED> {
  T* dqkv;
  const T* dy;
  POINTERS(dqkv, dy, (const DocumentCall<T, HASHED>&)*this)
  /** Where the queries of a row lie in qkv and dqkv, and its outputs in y and dy. */
  DEVICE size_t query_at(const Row& row) const {
    return row.token * this->heads.width() + (size_t)row.head * this->heads.E;
  }
  DEVICE size_t y_at(const Row& row) const { return ((size_t)row.token * this->heads.H + row.head) * this->heads.E; }
  DEVICE float delta(const Row& row) const { return *(const float*)(dqkv + query_at(row)); }
  DEVICE float lse_of(const Row& row) const { return this->lse[(size_t)row.token * this->heads.H + row.head]; }
};

/** What a score needs to know of a query row. */
struct SideRow {
  float lse2, delta;
  int position, low;
  HashKey key;  // of dropout in its head
};
template <class Call> DEVICE SideRow side_row(const Call& call, const DocumentHashing& hashing, const Row& row) {
  SideRow side = {0, 0, row.position, row.low, {}};
  if (row.exists) side.lse2 = call.lse_of(row) * LOG2_E, side.delta = call.delta(row);
  if constexpr (Call::HASHED) side.key = hashing.head_key(row.head);
  return side;
}
/** Of the rows of two tiles, in shared memory. */
struct SideRows { SideRow at[2][SIDE]; };

/** Weight of a key for a row, and what a change of their score changes in the loss (times the scale). */
struct Slope { float used, score; };

/** `score`: q.k; `slope`: dy.v. */
template <class Call>
DEVICE Slope slope_of(const Call& call, const DocumentHashing& hashing, const SideRow& row, int key, float score,
    float slope) {
  bool hidden = key > row.position || key < row.low;
  float kept = 1;
  if constexpr (Call::HASHED) {
    hidden = hidden || hashing.hides(row.position, key);
    kept = hashing.keeps(row.key, row.position, key);
  }
  if (hidden) return {0, 0};
  const float p = exp2_fast(fmaf(score, call.scale * LOG2_E, -row.lse2));
  return {p * kept, p * (slope * kept - row.delta) * call.scale};
}

/** Two buffers of two tiles in shared memory: what the block reads now and what comes. */
template <int E> DEVICE bf16* side_tile(bf16* memory, int n, int which) {
  return memory + ((n & 1) * 2 + which) * SIDE * E;
}

/** The query rows that see keys [first, first + OWN) of a document. */
template <class Call> DEVICE void rows_that_see(const Call& call, const Sequence& q, int first, int* from, int* to) {
  const int group = call.heads.group, last = min(first + OWN, q.tokens) - 1;
  *from = first * group / SIDE;
  *to = ((last_query(last, q.tokens, call.window) + 1) * group - 1) / SIDE;
}

/** dk and dv of the keys [item.row, item.row + OWN). Shared memory: keys, values, four side tiles. */
template <int E, class Call>
DEVICE void key_gradients(const Call& call, const FlashItem& item, bf16* memory, SideRows& side) {
  bf16 *keys = memory, *values = keys + OWN * E, *tiles = values + OWN * E;
  const Sequence q = call.sequence(item.s);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, width = (int)call.heads.width();
  auto at = [&](int j) { return call.keys.at(item.s, item.g, j); };
  load_tile<E, OWN, BACKWARD_THREADS>(keys, call.keys.keys, width, item.row, q.tokens, at);
  load_tile<E, OWN, BACKWARD_THREADS>(values, call.keys.values, width, item.row, q.tokens, at);
  int from, to;
  rows_that_see(call, q, item.row, &from, &to);
  auto row_at = [&](int n, int r) { return row_of(q, call.heads, item.g, n * SIDE + r, call.window); };
  auto load = [&](int n) {
    constexpr int ROW = E / 8;
#pragma unroll 2
    for (int i = 0; i < SIDE * ROW / BACKWARD_THREADS; i++) {
      const int e = threadIdx.x + i * BACKWARD_THREADS, r = e / ROW, c = e % ROW * 8;
      const Row row = row_at(n, r);
      cp_async_16(side_tile<E>(tiles, n, 0) + tile_at<E>(r, c), call.qkv + (row.exists ? call.query_at(row) + c : 0),
          row.exists);
      cp_async_16(side_tile<E>(tiles, n, 1) + tile_at<E>(r, c), call.dy + (row.exists ? call.y_at(row) + c : 0),
          row.exists);
    }
    cp_async_commit();
  };
  load(from);
  const DocumentHashing hashing = call.hashing(item.s);
  SideRow coming = side_row(call, hashing, row_at(from, lane));
  float dk[E / 8][4], dv[E / 8][4];
  clear<E>(dk), clear<E>(dv);
  for (int n = from; n <= to; n++) {
    if (warp == 0) side.at[n & 1][lane] = coming;
    cp_async_wait<0>();
    __syncthreads();
    if (n < to) {
      load(n + 1);
      if (warp == 0) coming = side_row(call, hashing, row_at(n + 1, lane));  // arrives while the tensor cores work
    }
    float p[SIDE / 8][4], ds[SIDE / 8][4];
    clear<SIDE>(p), clear<SIDE>(ds);
    multiply_rows<E, SIDE>(p, TileRows<E>{keys, warp * 16}, side_tile<E>(tiles, n, 0));
    multiply_rows<E, SIDE>(ds, TileRows<E>{values, warp * 16}, side_tile<E>(tiles, n, 1));
#pragma unroll
    for (int i = 0; i < SIDE / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const SideRow& row = side.at[n & 1][i * 8 + 2 * (lane & 3) + j % 2];
        const int key = item.row + warp * 16 + lane / 4 + 8 * (j / 2);
        const Slope slope = slope_of(call, hashing, row, key, p[i][j], ds[i][j]);
        p[i][j] = slope.used, ds[i][j] = slope.score;
      }
    mix_rows<E, SIDE>(dv, p, side_tile<E>(tiles, n, 1));
    mix_rows<E, SIDE>(dk, ds, side_tile<E>(tiles, n, 0));
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int key = item.row + warp * 16 + lane / 4 + 8 * r;
    if (key >= q.tokens) continue;
    bf16* to_key = call.dqkv + (call.keys.keys - call.qkv) + call.keys.at(item.s, item.g, key);
    bf16* to_value = to_key + (call.keys.values - call.keys.keys);
#pragma unroll
    for (int i = 0; i < E / 8; i++) {
      store_pair(to_key + i * 8 + 2 * (lane & 3), dk[i][2 * r], dk[i][2 * r + 1]);
      store_pair(to_value + i * 8 + 2 * (lane & 3), dv[i][2 * r], dv[i][2 * r + 1]);
    }
  }
  __syncthreads();
}

/** dq of the rows [item.row, item.row + OWN) from tiles [item.first, item.last] of SIDE keys. Shared memory: four side
 *  tiles. */
template <int E, class Call> DEVICE void row_gradients(const Call& call, const FlashItem& item, bf16* tiles) {
  const Sequence q = call.sequence(item.s);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const DocumentHashing hashing = call.hashing(item.s);
  auto row_at = [&](int r) {
    return row_of(q, call.heads, item.g, item.row + warp * 16 + lane / 4 + 8 * r, call.window);
  };
  const Row rows[2] = {row_at(0), row_at(1)};
  const SideRow known[2] = {side_row(call, hashing, rows[0]), side_row(call, hashing, rows[1])};
  auto load = [&](int n) {
    auto at = [&](int j) { return call.keys.at(item.s, item.g, j); };
    load_tile<E, SIDE, BACKWARD_THREADS>(side_tile<E>(tiles, n, 0), call.keys.keys, call.keys.stride(), n * SIDE,
        q.tokens, at);
    load_tile<E, SIDE, BACKWARD_THREADS>(side_tile<E>(tiles, n, 1), call.keys.values, call.keys.stride(), n * SIDE,
        q.tokens, at);
    cp_async_commit();
  };
  load(item.first);
  RegisterRows<E> queries, slopes;
  queries.load([&](int r) { return rows[r].exists ? call.qkv + call.query_at(rows[r]) : nullptr; });
  slopes.load([&](int r) { return rows[r].exists ? call.dy + call.y_at(rows[r]) : nullptr; });
  float dq[E / 8][4];
  clear<E>(dq);
  for (int n = item.first; n <= item.last; n++) {
    cp_async_wait<0>();
    __syncthreads();
    if (n < item.last) load(n + 1);
    float s[SIDE / 8][4], ds[SIDE / 8][4];
    clear<SIDE>(s), clear<SIDE>(ds);
    multiply_rows<E, SIDE>(s, queries, side_tile<E>(tiles, n, 0));
    multiply_rows<E, SIDE>(ds, slopes, side_tile<E>(tiles, n, 1));
#pragma unroll
    for (int i = 0; i < SIDE / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        ds[i][j] = slope_of(call, hashing, known[j / 2], n * SIDE + i * 8 + 2 * (lane & 3) + j % 2, s[i][j], ds[i][j])
                       .score;
    mix_rows<E, SIDE>(dq, ds, side_tile<E>(tiles, n, 0));
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (!rows[r].exists) continue;
    bf16* to = call.dqkv + call.query_at(rows[r]);
#pragma unroll
    for (int i = 0; i < E / 8; i++) store_pair(to + i * 8 + 2 * (lane & 3), dq[i][2 * r], dq[i][2 * r + 1]);
  }
  __syncthreads();
}
