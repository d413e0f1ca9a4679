// Attention on tensor cores (FlashAttention-2, Dao 2023): a warp owns 16 rows, keys and values come in tiles of 64
// through a ring of three buffers in shared memory, scores live in registers only.
//
// Keys are summed in splits at absolute positions: in each split one chain of tiles, splits joined in ascending
// order. A prompt's kernel walks the splits one after another and a decoded token's kernel gives each split to a block
// of its own, so both make the same bits. Products have bf16 operands and float32 sums; weights are rounded to bf16.
//
// A Call says what is attended to: the type T of activations, `heads`, `window`, `scale`, `qkv`, `keys` (PagedKeys or
// RowKeys), `sequence(s)`; where results go: `y`, with LSE `lse`; and with HASHED what hides and drops: `hashing(s)`.
#pragma once
#include "attention.cuh"
#include "tensor_tiles.cuh"

constexpr int TILE = 64;         // keys
constexpr int RING = 3;          // tiles of keys or values under way
static_assert(FIRST_SPLIT % TILE == 0 && LATER_SPLIT % TILE == 0 && LATER_SPLITS_FROM % TILE == 0 && TILE % 32 == 0,
    "splits are whole tiles, tiles whole runs of 32 tokens");

/** A block's work: rows [row, row + 16 * warps) of a (sequence, head), and tiles [first, last] of its keys. */
struct FlashItem { int s, g, row, first, last; };

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

/** How many tiles of ROWS rows the heads of a sequence have. */
template <int ROWS, class Call> DEVICE int row_items(const Call& call, int s) {
  return call.heads.G * ceil_div(call.sequence(s).tokens * call.heads.group, ROWS);
}
/** The item-th tile of rows and the tiles of KEYS keys that it sees: the last rows, which see most, come first. */
template <int ROWS, int KEYS, class Call> DEVICE FlashItem row_item(const Call& call, const int* before, int item) {
  const int s = owner_of(before, call.S, item), within = item - before[s];
  const Sequence q = call.sequence(s);
  const int rows = q.tokens * call.heads.group, tiles = ceil_div(rows, ROWS), g = within / tiles;
  const int row = (tiles - 1 - (within - g * tiles)) * ROWS;
  const Row first = row_of(q, call.heads, g, row, call.window), last = row_of(q, call.heads, g, min(row + ROWS, rows)
      - 1, call.window);
  return {s, g, row, first.low / KEYS, last.position / KEYS};
}

template <int WARPS> DEVICE void wait_for_block() {
  if constexpr (WARPS == 1) __syncwarp();
  else __syncthreads();
}

/** Starts copying tokens [j, j + TOKENS) of one head to a tile; zeros from token `end` on. `at(j)`: where token j lies,
 *  j a multiple of 32. */
template <int E, int TOKENS, int THREADS, class At>
DEVICE void load_tile(bf16* tile, const bf16* from, size_t stride, int j, int end, At&& at) {
  constexpr int ROW = E / 8;
  static_assert(TOKENS * ROW % THREADS == 0, "every thread copies as much");
  const size_t low = j < end ? at(j) : 0, high = TOKENS > 32 && j + 32 < end ? at(j + 32) : 0;
#pragma unroll 8
  for (int i = 0; i < TOKENS * ROW / THREADS; i++) {
    const int e = threadIdx.x + i * THREADS, r = e / ROW, c = e % ROW * 8;
    const bool valid = j + r < end;
    cp_async_16(tile + tile_at<E>(r, c), valid ? from + (r < 32 ? low : high) + (r & 31) * stride + c : from, valid);
  }
}

/** How a tile of keys or values of element type B lies in shared memory and is multiplied. f8: flash_f8.cuh. */
template <class B, int E> struct FlashTile;
template <int E> struct FlashTile<bf16, E> {
  static constexpr int BYTES = TILE * E * (int)sizeof(bf16);
  typedef RegisterRows<E> Queries;
  template <int THREADS, class Keys>
  DEVICE static void load(unsigned char* tile, const Keys& keys, const bf16* from, int s, int g, int j, int end) {
    load_tile<E, TILE, THREADS>((bf16*)tile, from, keys.stride(), j, end, [&](int i) { return keys.at(s, g, i); });
  }
  DEVICE static void score(float (*s)[4], const Queries& queries, const unsigned char* tile) {
    multiply_rows<E, TILE>(s, queries, (const bf16*)tile);
  }
  DEVICE static void mix(float (*output)[4], float (*weights)[4], const unsigned char* tile) {
    mix_rows<E, TILE>(output, weights, (const bf16*)tile);
  }
  /** f(column, a, b): the outputs of columns `column` and `column` + 1 of this thread's row lane / 4 + 8r. */
  template <class F> DEVICE static void pairs(const float (*output)[4], int r, F&& f) {
#pragma unroll
    for (int i = 0; i < E / 8; i++) f(i * 8 + 2 * (threadIdx.x & 3), output[i][2 * r], output[i][2 * r + 1]);
  }
};
/** The tiles of a call. */
template <class Call, int E> using flash_tile_t = FlashTile<typename decltype(Call::keys)::Element, E>;

/** What a warp has gathered for its 16 rows: outputs, and of this thread's rows lane / 4 and lane / 4 + 8 the maximum
 *  score and this thread's share of the sum. */
template <int E> struct FlashState {
  float output[E / 8][4];
  Part part[2];
  DEVICE void start() {
    clear<E>(output);
    part[0] = part[1] = {-INFINITY, 0};
  }
  /** Adds up the shares of the four threads of a row. */
  DEVICE void close() {
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
      for (int mask = 1; mask <= 2; mask *= 2) part[r].sum += shfl_xor(part[r].sum, mask);
  }
};

/** Scores become weights exp(score - maximum), and the state is brought to the new maximum. */
template <int E> DEVICE void weigh_tile(float (*s)[4], FlashState<E>& state, float unit) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float top = state.part[r].maximum;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) top = max(top, max(s[i][2 * r], s[i][2 * r + 1]));
#pragma unroll
    for (int mask = 1; mask <= 2; mask *= 2) top = max(top, shfl_xor(top, mask));
    // Exactly 1 where nothing new was seen: tiles that hide all their keys from a row leave no trace.
    const float share = state.part[r].maximum == top ? 1.f : exp2_fast((state.part[r].maximum - top) * unit);
    const float base = top == -INFINITY ? 0.f : top * unit;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const float p = exp2_fast(fmaf(s[i][2 * r + j], unit, -base));
        s[i][2 * r + j] = p;
        sum += p;
      }
    state.part[r] = {top, fmaf(state.part[r].sum, share, sum)};
#pragma unroll
    for (int i = 0; i < E / 8; i++) state.output[i][2 * r] *= share, state.output[i][2 * r + 1] *= share;
  }
}

/** Outputs of the splits so far, in shared memory: each thread reads and writes its own elements only. */
template <int E, int THREADS> struct JoinedSplits {
  float4* output;  // [E / 8][THREADS]
  Part part[2];
  bool any;
  DEVICE void add(FlashState<E>& state, float unit) {
    if (!any) {
      part[0] = state.part[0], part[1] = state.part[1];
#pragma unroll
      for (int i = 0; i < E / 8; i++)
        output[i * THREADS + threadIdx.x] = {state.output[i][0], state.output[i][1], state.output[i][2],
                                             state.output[i][3]};
      any = true;
      return;
    }
    float old[2], more[2];
#pragma unroll
    for (int r = 0; r < 2; r++) join(part[r], state.part[r], unit, &old[r], &more[r]);
#pragma unroll
    for (int i = 0; i < E / 8; i++) {
      float4 o = output[i * THREADS + threadIdx.x];
      o.x = blend(o.x, old[0], state.output[i][0], more[0]);
      o.y = blend(o.y, old[0], state.output[i][1], more[0]);
      o.z = blend(o.z, old[1], state.output[i][2], more[1]);
      o.w = blend(o.w, old[1], state.output[i][3], more[1]);
      output[i * THREADS + threadIdx.x] = o;
    }
  }
  DEVICE void give(FlashState<E>& state) const {
    state.part[0] = part[0], state.part[1] = part[1];
#pragma unroll
    for (int i = 0; i < E / 8; i++) {
      const float4 o = output[i * THREADS + threadIdx.x];
      state.output[i][0] = o.x, state.output[i][1] = o.y, state.output[i][2] = o.z, state.output[i][3] = o.w;
    }
  }
};

/** Which keys of tile n this thread's two rows see; `whole` where all rows of the warp see all of it. */
template <class Call> struct FlashSight {
  Row rows[2];
  int all_from, all_to;  // keys that every row of the warp sees
  DEVICE FlashSight(const Call& call, const Sequence& q, const FlashItem& item) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = item.row + warp * 16;
    for (int r = 0; r < 2; r++) rows[r] = row_of(q, call.heads, item.g, first + lane / 4 + 8 * r, call.window);
    const int end = q.tokens * call.heads.group, last = first + 15 < end ? first + 15 : end - 1;
    all_from = row_of(q, call.heads, item.g, last, call.window).low;
    all_to = row_of(q, call.heads, item.g, first, call.window).position;
  }
  DEVICE bool whole(int n) const { return n * TILE >= all_from && n * TILE + TILE - 1 <= all_to; }
  DEVICE void hide(float (*s)[4], int n) const {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const Row& row = rows[j / 2];
        const int key = n * TILE + i * 8 + 2 * (lane & 3) + j % 2;
        if (key > row.position || key < row.low) s[i][j] = -INFINITY;
      }
  }
};

/** Forgetful masking: scores that a hash hides. */
template <class Row> DEVICE void forget_scores(float (*s)[4], const DocumentHashing& hashing, const Row* rows, int n) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < TILE / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (hashing.hides(rows[j / 2].position, n * TILE + i * 8 + 2 * (lane & 3) + j % 2)) s[i][j] = -INFINITY;
}
/** Dropout of weights, after they were summed. */
template <class Row>
DEVICE void drop_weights(float (*s)[4], const DocumentHashing& hashing, const HashKey* keys, const Row* rows, int n) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < TILE / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      s[i][j] *= hashing.keeps(keys[j / 2], rows[j / 2].position, n * TILE + i * 8 + 2 * (lane & 3) + j % 2);
}

/** Attends from an item's rows over its tiles; the state at the end holds all of them. Shared memory: `ring` of RING
 *  tiles, and with SERIAL `joined` of E / 8 * threads float4. */
template <int E, int WARPS, bool SERIAL, class Call>
DEVICE void flash_attend(const Call& call, const FlashItem& item, const FlashSight<Call>& sight,
    FlashState<E>& state, unsigned char* ring, float4* joined) {
  typedef flash_tile_t<Call, E> Tile;
  constexpr int THREADS = WARPS * 32;
  const Sequence q = call.sequence(item.s);
  const float unit = call.scale * LOG2_E;
  const int end = min(q.past + call.heads.token_of(item.row + WARPS * 16 - 1) + 1, q.past + q.tokens);
  const int steps = 2 * (item.last - item.first + 1);
  // Step 2n brings keys, step 2n + 1 values of the n-th tile.
  auto load = [&](int step) {
    if (step < steps)
      Tile::template load<THREADS>(ring + step % RING * Tile::BYTES, call.keys, step & 1 ? call.keys.values : call.keys.keys,
          item.s, item.g, (item.first + step / 2) * TILE, end);
    cp_async_commit();
  };
  auto next = [&](int step) {
    cp_async_wait<RING - 2>();
    wait_for_block<WARPS>();
    load(step + RING - 1);
    return ring + step % RING * Tile::BYTES;
  };
  for (int step = 0; step < RING - 1; step++) load(step);
  typename Tile::Queries queries;
  queries.load([&](int r) {
    const Row& row = sight.rows[r];
    return row.exists ? call.qkv + row.token * call.heads.width() + (size_t)row.head * E : nullptr;
  });
  JoinedSplits<E, THREADS> splits = {joined, {}, false};
  state.start();
  for (int n = item.first, step = 0; n <= item.last; n++, step += 2) {
    const unsigned char* keys = next(step);
    float s[TILE / 8][4];
    clear<TILE>(s);
    Tile::score(s, queries, keys);
    if (!sight.whole(n)) sight.hide(s, n);
    if constexpr (Call::HASHED) forget_scores(s, call.hashing(item.s), sight.rows, n);
    weigh_tile<E>(s, state, unit);
    if constexpr (Call::HASHED) {
      const DocumentHashing hashing = call.hashing(item.s);
      const HashKey head_keys[2] = {hashing.head_key(sight.rows[0].head), hashing.head_key(sight.rows[1].head)};
      drop_weights(s, hashing, head_keys, sight.rows, n);
    }
    const unsigned char* values = next(step + 1);
    Tile::mix(state.output, s, values);
    if constexpr (SERIAL) {
      if (n == item.last || is_split_start((n + 1) * TILE)) {
        state.close();
        if (n < item.last || splits.any) splits.add(state, unit);
        if (n < item.last) state.start();
      }
    }
  }
  if constexpr (SERIAL) {
    if (splits.any) splits.give(state);
  } else {
    state.close();
  }
  wait_for_block<WARPS>();  // the next item's first loads go where these last values were
}

/** y = output / sum of the rows that exist, and log sum exp. */
template <int E, class Call>
DEVICE void flash_store(const Call& call, const FlashSight<Call>& sight, const FlashState<E>& state) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const Row& row = sight.rows[r];
    if (!row.exists) continue;
    const size_t at = (size_t)row.token * call.heads.H + row.head;
    const float inverse = 1.f / state.part[r].sum;
    flash_tile_t<Call, E>::pairs(state.output, r, [&](int column, float a, float b) {
      store_pair(call.y + at * E + column, a * inverse, b * inverse);
    });
    if constexpr (Call::LSE)
      if ((lane & 3) == 0) call.lse[at] = fmaf(state.part[r].maximum, call.scale, logf(state.part[r].sum));
  }
}

/** Bytes of shared memory of a block: the ring, the splits' outputs, the list of items. */
template <class Tile, int E, int WARPS, bool SERIAL> constexpr size_t flash_shared_bytes(int S) {
  return (size_t)RING * Tile::BYTES + (SERIAL ? (size_t)E / 8 * WARPS * 32 * sizeof(float4) : 0)
      + ((size_t)S + 1) * sizeof(int);
}
