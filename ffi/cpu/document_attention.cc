// Causal attention of documents laid end to end, without a cache: y = softmax(scale * q.k) v, and log sum exp by row.
//
// A tile is 8 query rows of one (document, key/value head): row r is token r / (H/G), query head g * H/G + r % (H/G).
// All scores of a tile are held at once; keys that a row does not see weigh exactly 0.
#include "document_panels.h"

namespace KOALA_NS {

namespace {

/** Keys as token panels, then values as dim panels. */
template <class C> struct Panels {
  C *keys, *values;
  Panels(char* memory, const Pair& p, int E) : keys((C*)(memory + p.at)), values(keys + token_elements(p.L, E)) {}
  static size_t bytes(int L, int E) { return (token_elements(L, E) + dim_elements(L, E)) * sizeof(C); }
};

inline size_t score_stride(int L) { return round_panel(L) + 16; }  // off powers of two

/** One row: weights = exp(scale * score - maximum) where the row sees the key,
    else 0; some are dropped after they were summed. Gives the sum and log sum exp. */
template <class C> inline C weigh(C* scores, const Sight& sight, const Drop<C>& drop, int i, int from, int to, C scale,
    C* lse) {
  typedef vector_t<C> V;
  const V nothing = splat((C)-__builtin_inf());
  V top = nothing;
  for (int j = from; j < to; j += W) {
    const V s = where(sight.keys(i, j), load(scores + (j - from)) * splat(scale), nothing);
    store(scores + (j - from), s);
    top = max(s, top);
  }
  const C maximum = max_lanes<C>(top);
  V sum = {};
  for (int j = from; j < to; j += W) {
    const V e = exp(load(scores + (j - from)) - splat(maximum));
    store(scores + (j - from), drop.any ? e * drop.keys(i, j) : e);
    sum += e;
  }
  const C total = sum_lanes<C>(sum);
  *lse = (C)((double)maximum + __builtin_log((double)total));
  return total;
}

template <class C, class T>
void attend_tile(const DocumentCall& call, const Pair& p, const Sight& sight, int row, T* y, C* lse, const T* qkv,
    const Panels<C>& panels, C* memory) {
  const int E = call.E, group = call.group(), all = p.L * group, rows = all - row < DOCUMENT_ROWS ? all - row
      : DOCUMENT_ROWS;
  const size_t ld = score_stride(p.L);
  C *query = memory, *output = query + DOCUMENT_ROWS * E, *scores = output + DOCUMENT_ROWS * round_panel(E);
  for (int r = 0; r < rows; r++) {
    const T* q = qkv + (size_t)(call.starts[p.s] + (row + r) / group) * call.width() + (size_t)(p.g * group + (row
        + r) % group) * E;
    for (int e = 0; e < E; e += W) store_row(query + r * E, e, E, load_row(q, e, E));
  }
  const int from = sight.first_key(row / group) & ~(PANEL - 1), to = round_panel((row + rows - 1) / group + 1);
  multiply_tokens(scores, ld, query, rows, panels.keys, E, from, to);
  C sums[DOCUMENT_ROWS];
  for (int r = 0; r < rows; r++) {
    const size_t t = call.starts[p.s] + (row + r) / group;
    const int head = p.g * group + (row + r) % group;
    sums[r] = weigh<C>(scores + r * ld, sight, Drop<C>(call, p.s, head), (row + r) / group, from, to, call.scale,
        &lse[t * call.H + head]);
  }
  multiply_dims(output, scores, ld, rows, panels.values, p.L, E, from, to, false);
  for (int r = 0; r < rows; r++) {
    T* out = y + ((size_t)(call.starts[p.s] + (row + r) / group) * call.H + p.g * group + (row + r) % group) * E;
    for (int e = 0; e < E; e += W) store_row(out, e, E, load(output + r * round_panel(E) + e) / splat(sums[r]));
  }
}

template <class C, class T> int32_t attend(koala_device* dev, const DocumentCall& call, T* y, C* lse, const T* qkv) {
  const int E = call.E, longest = longest_document(call);
  auto pair_bytes = [&](int L) { return Panels<C>::bytes(L, E); };
  const WaveSizes sizes = largest_wave(call, pair_bytes);
  const size_t tile = DOCUMENT_ROWS * (E + round_panel(E) + score_stride(longest)) + W;
  if (reserve(dev, sizes.list + sizes.panels, tile * sizeof(C))) return -1;
  Pair* pairs = (Pair*)dev->shared.data;
  char* memory = dev->shared.data + sizes.list;
  for (int64_t p = 0; p < (int64_t)call.S * call.G;) {
    const Wave wave = next_wave(call, p, pairs, pair_bytes);
    const int count = wave.count;
    const Pair& total = wave.total;
    p = wave.next;
    const bool wide = (double)total.tiles * DOCUMENT_ROWS * E > 2000;
    parallel_for(&dev->pool, wide, total.blocks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; b++) {
        const Pair& pair = pair_of(pairs, count, b, &Pair::blocks);
        const Panels<C> panels(memory, pair, E);
        const int j = (int)(b - pair.blocks) * PANEL, n = pair.L - j < PANEL ? pair.L - j : PANEL;
        const T* keys = qkv + (size_t)(call.starts[pair.s] + j) * call.width() + (size_t)(call.H + pair.g) * E;
        pack_token_panel(panels.keys + (size_t)j * E, keys, call.width(), n, E);
        pack_dim_panels(panels.values, pair.L, j, keys + (size_t)call.G * E, call.width(), n, E);
      }
    });
    parallel_for(&dev->pool, wide, total.tiles, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t unit = total.tiles - 1 - begin; unit > total.tiles - 1 - end; unit--)
          {  // late rows, the longest, first
        const Pair& pair = pair_of(pairs, count, unit, &Pair::tiles);
        attend_tile<C, T>(call, pair, Sight(call, pair.s), (int)(unit - pair.tiles) * DOCUMENT_ROWS, y, lse, qkv,
            Panels<C>(memory, pair, E), (C*)dev->local[thread].data);
      }
    });
  }
  return 0;
}

}  // namespace

int32_t document_attention(koala_device* dev, void* y, void* lse, const void* qkv, const int32_t* starts,
    const float* forget, int32_t S, int32_t H, int32_t G, int32_t E, int32_t window, int32_t first,
    int32_t seed, int32_t drop_seed, float drop, float scale, int32_t dtype) {
  const DocumentCall call = {starts, forget, S, H, G, E, window, (uint32_t)first, (uint32_t)seed,
      (uint32_t)drop_seed, drop, scale, dev->pool.threads};
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    return attend<compute_t<El>>(dev, call, (El*)y, (compute_t<El>*)lse, (const El*)qkv);
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_document_attention(koala_device* dev, void* y, void* lse, const void* qkv, const int32_t* starts,
    const float* forget, int32_t S, int32_t H, int32_t G, int32_t E, int32_t window, int32_t first,
    int32_t seed, int32_t drop_seed, float drop, float scale, int32_t dtype) {
  REQUIRE_POINTER("document_attention", dev);
  REQUIRE_POINTER("document_attention", y);
  REQUIRE_POINTER("document_attention", lse);
  REQUIRE_POINTER("document_attention", qkv);
  REQUIRE_POINTER("document_attention", starts);
  REQUIRE_SIZE("document_attention", S);
  REQUIRE_POSITIVE("document_attention", H);
  REQUIRE_POSITIVE("document_attention", G);
  REQUIRE(H % G == 0, "koala_document_attention: %d query heads cannot share %d key/value heads evenly.", H, G);
  REQUIRE_POSITIVE("document_attention", E);
  REQUIRE_SIZE("document_attention", window);
  REQUIRE_SIZE("document_attention", first);
  REQUIRE(drop >= 0 && drop < 1, "koala_document_attention: drop is %g and must be from 0 to below 1.", drop);
  REQUIRE(scale > 0 && scale < 1e30f, "koala_document_attention: the scale is %g and must be a positive number.",
      scale);
  REQUIRE_TYPE("document_attention", dtype);
  for (int s = 0; s < S; s++) {
    REQUIRE(starts[s] >= 0 && starts[s] <= starts[s + 1],
        "koala_document_attention: starts must ascend from 0, and document %d runs from %d to %d.", s, starts[s],
        starts[s + 1]);
    REQUIRE(!forget || (forget[s] >= 0 && forget[s] <= 1),
        "koala_document_attention: forget is %g for document %d and must be from 0 to 1.", forget[s], s);
  }
  return dev->kernels->document_attention(dev, y, lse, qkv, starts, forget, S, H, G, E, window, first,
      seed, drop_seed, drop, scale, dtype);
}
#endif
