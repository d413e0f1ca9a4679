// Causal attention of packed queries over the paged cache.
//
// Sequences of one query (decode) give each split of 128 keys (512, far behind) to a block of its own and join the splits afterwards;
// longer ones (chunks of a prompt) walk their splits in one block. Two launches: the splits; then the joining and the
// prompts together, for an empty launch costs as much as a small one. Both find their work in starts and lengths, which
// only the device can read. bf16 and f8 caches of head dims 64 and 128 go to the tensor cores, all others to
// plain_attention.cuh.
//
// budget k_flash_prompt: registers 255, shared 0
// budget k_flash_split: registers 255, shared 0
// budget k_plain_prompt: registers 168, shared 0
// budget k_plain_split: registers 168, shared 0
#include "../cpu/cache_check.h"
#include "flash.cuh"
#include "flash_f8.cuh"
#include "plain_attention.cuh"

namespace {

constexpr int PROMPT_WARPS = 4;

template <class T_, class B> struct PagedCall {
  typedef T_ T;
  static constexpr bool HASHED = false, LSE = false;
  T* y;
  const T* qkv;
  PagedKeys<B> keys;
  const int32_t *starts, *lengths;
  int S, window;
  Heads heads;
  float scale;
  int splits;     // that the longest sequence may have
  float* output;  // of split i of sequence s, head h: output[(s * H + h) * splits + i][E], not yet divided by the sum
  Part* parts;
  POINTERS(y, qkv, keys, starts, lengths, output, parts)
  DEVICE Sequence sequence(int s) const {
    const int tokens = starts[s + 1] - starts[s], length = min(lengths[s], keys.M * keys.size.P);
    return {starts[s], tokens, length - tokens};
  }
  DEVICE size_t part_of(int s, int head, int split) const { return ((size_t)s * heads.H + head) * splits + split; }
};

/** The splits [first, last] that a decoded token sees. */
struct SplitRange {
  int first, last;
  template <class Call> DEVICE SplitRange(const Call& call, const Sequence& q) {
    const Row row = row_of(q, call.heads, 0, 0, call.window);
    first = split_of(row.low), last = split_of(row.position);
  }
  DEVICE int count() const { return last - first + 1; }
};

/** Joins the splits of decoded tokens in ascending order; a warp takes a row at a time. */
template <bool FLASH, class T, class B> DEVICE void join_splits(const PagedCall<T, B>& call) {
  if (call.splits == 1) return;
  const int E = call.heads.E, warps = blockDim.x / 32;
  const float unit = call.scale * LOG2_E;
  for (int row = blockIdx.x * warps + threadIdx.x / 32; row < call.S * call.heads.H; row += gridDim.x * warps) {
    const int s = row / call.heads.H, head = row - s * call.heads.H;
    const Sequence q = call.sequence(s);
    if (q.tokens != 1) continue;
    const SplitRange range(call, q);
    if (range.count() == 1) continue;
    const size_t first = call.part_of(s, head, range.first);
    // Four columns a thread, so that a head of 128 is read in one pass.
    for (int e = threadIdx.x % 32; e < E; e += 128) {
      Part part = call.parts[first];
      float output[4];
#pragma unroll
      for (int i = 0; i < 4; i++) output[i] = e + 32 * i < E ? call.output[first * E + e + 32 * i] : 0.f;
#pragma unroll 2
      for (int n = 1; n < range.count(); n++) {
        float share, more;
        join(part, call.parts[first + n], unit, &share, &more);
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (e + 32 * i < E) output[i] = blend(output[i], share, call.output[(first + n) * E + e + 32 * i], more);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float y = FLASH ? output[i] * (1.f / part.sum) : output[i] / part.sum;  // as flash_store, plain_store
        if (e + 32 * i < E) call.y[((size_t)q.first * call.heads.H + head) * E + e + 32 * i] = narrow<T>(y);
      }
    }
  }
}

// ---- chunks of a prompt: items are tiles of rows ----

template <int ROWS, class Call> DEVICE int prompt_items(const Call& call, int s) {
  return call.sequence(s).tokens > 1 ? row_items<ROWS>(call, s) : 0;
}

template <class T, class B, int E> KERNEL(PROMPT_WARPS * 32) k_flash_prompt(PagedCall<T, B> call) {
  DYNAMIC_SHARED(unsigned char, ring);
  float4* joined = (float4*)(ring + RING * FlashTile<B, E>::BYTES);
  int* before = (int*)(joined + E / 8 * PROMPT_WARPS * 32);
  constexpr int ROWS = PROMPT_WARPS * 16;
  join_splits<true>(call);
  list_items(before, call.S, [&](int s) { return prompt_items<ROWS>(call, s); });
  for (int i = blockIdx.x; i < before[call.S]; i += gridDim.x) {
    const FlashItem item = row_item<ROWS, TILE>(call, before, i);
    const FlashSight<PagedCall<T, B>> sight(call, call.sequence(item.s), item);
    FlashState<E> state;
    flash_attend<E, PROMPT_WARPS, true>(call, item, sight, state, ring, joined);
    flash_store<E>(call, sight, state);
  }
}

template <class T, class B> KERNEL(PLAIN_THREADS, 3) k_plain_prompt(PagedCall<T, B> call) {
  DYNAMIC_SHARED(float, memory);
  const PlainMemory m(memory, call.heads.E);
  join_splits<false>(call);
  list_items(m.before, call.S, [&](int s) { return prompt_items<PLAIN_ROWS>(call, s); });
  for (int i = blockIdx.x; i < m.before[call.S]; i += gridDim.x) {
    const FlashItem item = row_item<PLAIN_ROWS, PLAIN_KEYS>(call, m.before, i);
    const Row row = row_of(call.sequence(item.s), call.heads, item.g, item.row + threadIdx.x / PLAIN_KEYS,
        call.window);
    PlainState state;
    plain_attend<true>(call, item, row, m, state);
    plain_store(call, item, row, m, state);
  }
}

// ---- decoded tokens: items (sequence, head, tile of rows, split) ----

template <int ROWS, class Call> DEVICE int split_items(const Call& call, int s) {
  const Sequence q = call.sequence(s);
  if (q.tokens != 1) return 0;
  return call.heads.G * ceil_div(call.heads.group, ROWS) * SplitRange(call, q).count();
}

/** `*alone`: no other block has keys of these rows. */
template <int ROWS, int KEYS, class Call>
DEVICE FlashItem split_item(const Call& call, const int* before, int item, int* split, bool* alone) {
  const int s = owner_of(before, call.S, item), within = item - before[s];
  const Sequence q = call.sequence(s);
  const SplitRange range(call, q);
  const Row row = row_of(q, call.heads, 0, 0, call.window);
  const int tiles = ceil_div(call.heads.group, ROWS), rows = within / range.count();
  *split = range.first + within % range.count();
  *alone = range.count() == 1;
  const int first = max(row.low, split_start(*split)), last = min(row.position, split_start(*split + 1) - 1);
  return {s, rows / tiles, rows % tiles * ROWS, first / KEYS, last / KEYS};
}

template <class T, class B, int E> KERNEL(32) k_flash_split(PagedCall<T, B> call) {
  DYNAMIC_SHARED(unsigned char, ring);
  int* before = (int*)(ring + RING * FlashTile<B, E>::BYTES);
  list_items(before, call.S, [&](int s) { return split_items<16>(call, s); });
  for (int i = blockIdx.x; i < before[call.S]; i += gridDim.x) {
    int split;
    bool alone;
    const FlashItem item = split_item<16, TILE>(call, before, i, &split, &alone);
    const FlashSight<PagedCall<T, B>> sight(call, call.sequence(item.s), item);
    FlashState<E> state;
    flash_attend<E, 1, false>(call, item, sight, state, ring, nullptr);
    if (alone) {
      flash_store<E>(call, sight, state);
      continue;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      if (!sight.rows[r].exists) continue;
      const size_t at = call.part_of(item.s, sight.rows[r].head, split);
      if (threadIdx.x % 4 == 0) call.parts[at] = state.part[r];
      FlashTile<B, E>::pairs(state.output, r, [&](int column, float a, float b) {
        store_pair(call.output + at * E + column, a, b);
      });
    }
  }
}

template <class T, class B> KERNEL(PLAIN_THREADS, 3) k_plain_split(PagedCall<T, B> call) {
  DYNAMIC_SHARED(float, memory);
  const int E = call.heads.E;
  const PlainMemory m(memory, E);
  list_items(m.before, call.S, [&](int s) { return split_items<PLAIN_ROWS>(call, s); });
  for (int i = blockIdx.x; i < m.before[call.S]; i += gridDim.x) {
    int split;
    bool alone;
    const FlashItem item = split_item<PLAIN_ROWS, PLAIN_KEYS>(call, m.before, i, &split, &alone);
    const Row row = row_of(call.sequence(item.s), call.heads, item.g, item.row + threadIdx.x / PLAIN_KEYS,
        call.window);
    PlainState state;
    plain_attend<false>(call, item, row, m, state);
    if (alone) {
      plain_store(call, item, row, m, state);
      continue;
    }
    plain_outputs(call, item, m, state, 1, [&](const Row& each, int e, float value) {
      call.output[call.part_of(item.s, each.head, split) * E + e] = value;
    });
    if (threadIdx.x % PLAIN_KEYS == 0 && row.exists) call.parts[call.part_of(item.s, row.head, split)] = state.part;
  }
}

// ---- the host's side ----

/** Lets blocks of a kernel, which have no other, have this much shared memory. The limit is always the GPU's: a smaller one
 *  would also hold for what was recorded with more. */
template <class K> int32_t allow_shared(koala_device* dev, K kernel, size_t bytes, int S) {
  REQUIRE(bytes <= dev->shared_bytes,
      "koala_attention: %d sequences need %zu bytes of shared memory and this GPU has %zu: serve fewer at once.", S,
      bytes, dev->shared_bytes);
  REQUIRE_CUDA("attention",
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)dev->shared_bytes));
  return 0;
}

/** At most as many blocks as there can be items: more find no work. */
unsigned blocks_for(koala_device* dev, double items, int per_processor) {
  const double most = (double)dev->processors * per_processor;
  return (unsigned)(items < most ? items : most);
}

/** The two launches of one kind of kernel. */
template <bool FLASH, class T, class B, class Prompt, class Split>
int32_t launch(koala_device* dev, const PagedCall<T, B>& call, Prompt prompt, size_t prompt_bytes, Split split,
    size_t split_bytes) {
  const int rows = FLASH ? PROMPT_WARPS * 16 : PLAIN_ROWS, split_rows = FLASH ? 16 : PLAIN_ROWS;
  const int group = call.heads.group, longest = call.keys.M * call.keys.size.P;
  const double heads = (double)call.S * call.heads.G;
  if (allow_shared(dev, prompt, prompt_bytes, call.S) || allow_shared(dev, split, split_bytes, call.S)) return -1;
  const double prompts = heads * (((double)longest * group + rows - 1) / rows), joins = (double)call.S * call.heads.H / 4;
  const dim3 prompt_grid(blocks_for(dev, prompts > joins ? prompts : ceil(joins), FLASH ? 2 : 4));
  const dim3 split_grid(blocks_for(dev, heads * ((group + split_rows - 1) / split_rows) * call.splits, FLASH ? 16 : 4));
  LAUNCH((split), split_grid, dim3(FLASH ? 32 : PLAIN_THREADS), split_bytes, dev->stream, call);
  const dim3 prompt_block(FLASH ? PROMPT_WARPS * 32 : PLAIN_THREADS);
  LAUNCH((prompt), prompt_grid, prompt_block, prompt_bytes, dev->stream, call);
  return 0;
}

template <int E, class T, class B> int32_t flash(koala_device* dev, const PagedCall<T, B>& call) {
  typedef FlashTile<B, E> Tile;
  return launch<true>(dev, call, k_flash_prompt<T, B, E>, flash_shared_bytes<Tile, E, PROMPT_WARPS, true>(call.S),
      k_flash_split<T, B, E>, flash_shared_bytes<Tile, E, 1, false>(call.S));
}

template <class T, class B> int32_t attend(koala_device* dev, PagedCall<T, B> call) {
  const size_t parts = (size_t)call.S * call.heads.H * call.splits, E = call.heads.E;
  const size_t output = (parts * E * sizeof(float) + 255) / 256 * 256;
  if (begin(dev, "koala_attention", call.splits > 1 ? output + parts * sizeof(Part) : 0)) return -1;
  if (call.splits > 1) {
    call.output = (float*)dev->scratch;
    call.parts = (Part*)((char*)dev->scratch + output);
  }
  int32_t status = 1;
  if constexpr (!Same<B, float>::value) {
    const bool wide = is_aligned(call.keys.keys) && is_aligned(call.keys.values);
    if (wide && E == 64) status = flash<64>(dev, call);
    else if (wide && E == 128) status = flash<128>(dev, call);
  }
  if (status == 1) {
    const size_t bytes = plain_shared_bytes((int)E, call.S);
    status = launch<false>(dev, call, k_plain_prompt<T, B>, bytes, k_plain_split<T, B>, bytes);
  }
  return status ? -1 : finish(dev);
}

}  // namespace

int32_t koala_attention(koala_device* dev, void* y, const void* qkv, const void* keys, const void* values,
    const int32_t* starts, const int32_t* lengths, const int32_t* pages, int32_t S, int32_t M, int32_t P, int32_t H,
    int32_t G, int32_t E, int32_t window, float scale, int32_t ctype, int32_t dtype) {
  if (check_attention(dev, y, qkv, keys, values, starts, lengths, pages, S, M, P)) return -1;
  REQUIRE((double)M * P < 2147483648., "koala_attention: %d pages of %d tokens are more than 2^31 tokens.", M, P);
  REQUIRE_POSITIVE("attention", H);
  REQUIRE_POSITIVE("attention", G);
  REQUIRE(H % G == 0, "koala_attention: %d query heads cannot share %d key/value heads evenly.", H, G);
  REQUIRE_POSITIVE("attention", E);
  REQUIRE(E % 2 == 0 && E <= PLAIN_HEAD_MAX,
      "koala_attention: the head dim is %d; on a GPU it must be even and at most %d.", E, PLAIN_HEAD_MAX);
  REQUIRE(scale > 0 && scale < 1e30f, "koala_attention: the scale is %g and must be a positive number.", scale);
  REQUIRE_CACHE_TYPES("attention", ctype, dtype);
  REQUIRE(ctype != KOALA_F64 && dtype != KOALA_F64,
      "koala_attention: f64 is computed on the CPU only; a GPU takes f32 and bf16.");
  if (S == 0) return 0;
  const Heads heads(H, G, E);
  const int splits = split_of(M * P - 1) + 1;
  auto with = [&](auto element, auto cached) {
    typedef decltype(element) T;
    typedef decltype(cached) B;
    return attend<T, B>(dev, {(T*)y, (const T*)qkv, {(const B*)keys, (const B*)values, pages, M, PageSize(P), heads}, starts,
        lengths, S, window, heads, scale, splits, nullptr, nullptr});
  };
  if (ctype == KOALA_F8) return dtype == KOALA_F32 ? with(float{}, f8{}) : with(bf16{}, f8{});
  if (dtype == KOALA_F32) return ctype == KOALA_F32 ? with(float{}, float{}) : with(float{}, bf16{});
  return ctype == KOALA_F32 ? with(bf16{}, float{}) : with(bf16{}, bf16{});
}
