// Gradient of attention over documents. Probabilities are computed again from log sum exp, never stored:
//   p = exp(scale * q.k - lse), ds = scale * p * (dy.v - dy.y);  dq = sum_j ds k,  dk = sum_i ds q,  dv = sum_i p dy
// Tiles of 8 query rows give dq and tiles of 8 key rows give dk and dv, each in one chain of sums in ascending order:
// no two threads add to one place. Rows of a query tile are as in document_attention.cc.
#include "document_panels.h"

namespace KOALA_NS {

namespace {

/** What tiles read of one pair: panels of keys and values, and for each query head of the group those of q and dy. */
template <class C> struct Panels {
  C *key_tokens, *key_dims, *value_tokens, *queries;
  size_t tokens, dims;
  int L;
  Panels(char* memory, const Pair& p, int E) : tokens(token_elements(p.L, E)), dims(dim_elements(p.L, E)),
      L(round_panel(p.L)) {
    key_tokens = (C*)(memory + p.at), key_dims = key_tokens + tokens, value_tokens = key_dims + dims, queries =
        value_tokens + tokens;
  }
  static size_t bytes(int L, int E, int group) {
    const size_t tokens = token_elements(L, E), dims = dim_elements(L, E);
    return (2 * tokens + dims + group * (2 * tokens + 2 * dims + 2 * round_panel(L))) * sizeof(C);
  }
  inline C* of(int h) const { return queries + h * (2 * tokens + 2 * dims + 2 * L); }
  inline C* query_tokens(int h) const { return of(h); }
  inline C* query_dims(int h) const { return of(h) + tokens; }
  inline C* dy_tokens(int h) const { return of(h) + tokens + dims; }
  inline C* dy_dims(int h) const { return of(h) + 2 * tokens + dims; }
  inline C* lse(int h) const { return of(h) + 2 * tokens + 2 * dims; }
  inline C* delta(int h) const { return lse(h) + L; }
};

template <class C, class T> struct Arrays {
  T* dqkv;
  const T *dy, *y, *qkv;
  const C* lse;
};

inline size_t score_stride(int L) { return round_panel(L) + 16; }

template <class C, class T> inline void read_row(C* to, const T* from, int E) {
  for (int e = 0; e < E; e += W) store_row(to, e, E, load_row(from, e, E));
}

/** Fills the panels of 32 tokens of a pair. */
template <class C, class T>
void pack_block(const DocumentCall& call, const Arrays<C, T>& a, const Pair& p, const Panels<C>& panels, int j) {
  const int E = call.E, n = p.L - j < PANEL ? p.L - j : PANEL, group = call.group();
  const size_t t = call.starts[p.s] + j, width = call.width(), y_width = (size_t)call.H * E;
  const T *keys = a.qkv + t * width + (size_t)(call.H + p.g) * E, *values = keys + (size_t)call.G * E;
  pack_token_panel(panels.key_tokens + (size_t)j * E, keys, width, n, E);
  pack_dim_panels(panels.key_dims, p.L, j, keys, width, n, E);
  pack_token_panel(panels.value_tokens + (size_t)j * E, values, width, n, E);
  for (int h = 0; h < group; h++) {
    const int head = p.g * group + h;
    const T *q = a.qkv + t * width + (size_t)head * E, *dy = a.dy + t * y_width + (size_t)head * E, *y = a.y
        + t * y_width + (size_t)head * E;
    pack_token_panel(panels.query_tokens(h) + (size_t)j * E, q, width, n, E);
    pack_dim_panels(panels.query_dims(h), p.L, j, q, width, n, E);
    pack_token_panel(panels.dy_tokens(h) + (size_t)j * E, dy, y_width, n, E);
    pack_dim_panels(panels.dy_dims(h), p.L, j, dy, y_width, n, E);
    for (int i = 0; i < PANEL; i++) {
      vector_t<C> sum = {};
      for (int e = 0; i < n && e < E; e += W) sum = fma(load_row(dy + i * y_width, e, E), load_row(y + i * y_width, e,
          E), sum);
      panels.lse(h)[j + i] = i < n ? a.lse[(t + i) * call.H + head] : 0;
      panels.delta(h)[j + i] = sum_lanes<C>(sum);
    }
  }
}

/** dq of 8 query rows. */
template <class C, class T>
void query_tile(const DocumentCall& call, const Arrays<C, T>& a, const Pair& p, const Panels<C>& panels,
    const Sight& sight, int row, C* memory) {
  typedef vector_t<C> V;
  const int E = call.E, group = call.group(), all = p.L * group, rows = all - row < DOCUMENT_ROWS ? all - row
      : DOCUMENT_ROWS;
  const size_t ld = score_stride(p.L);
  C *query = memory, *dy = query + DOCUMENT_ROWS * E, *output = dy + DOCUMENT_ROWS * E, *scores = output
      + 2 * DOCUMENT_ROWS * round_panel(E), *slopes = scores + DOCUMENT_ROWS * ld;
  for (int r = 0; r < rows; r++) {
    const size_t t = call.starts[p.s] + (row + r) / group, head = p.g * group + (row + r) % group;
    read_row(query + r * E, a.qkv + t * call.width() + head * E, E);
    read_row(dy + r * E, a.dy + (t * call.H + head) * E, E);
  }
  const int from = sight.first_key(row / group) & ~(PANEL - 1), to = round_panel((row + rows - 1) / group + 1);
  multiply_tokens(scores, ld, query, rows, panels.key_tokens, E, from, to);
  multiply_tokens(slopes, ld, dy, rows, panels.value_tokens, E, from, to);
  for (int r = 0; r < rows; r++) {
    const int i = (row + r) / group, h = (row + r) % group;
    const V lse = splat(panels.lse(h)[i]), delta = splat(panels.delta(h)[i]), scale = splat((C)call.scale);
    C *s = scores + r * ld, *d = slopes + r * ld;
    for (int j = from; j < to; j += W, s += W, d += W) {
      const V weight = exp(load(s) * scale - lse);
      store(s, where(sight.keys(i, j), weight * (load(d) - delta) * scale, V{}));
    }
  }
  multiply_dims(output, scores, ld, rows, panels.key_dims, p.L, E, from, to, false);
  for (int r = 0; r < rows; r++) {
    T* out = a.dqkv + (call.starts[p.s] + (row + r) / group) * call.width() + (size_t)(p.g * group + (row
        + r) % group) * E;
    for (int e = 0; e < E; e += W) store_row(out, e, E, load(output + r * round_panel(E) + e));
  }
}

/** dk and dv of 8 key rows: query heads of the group in order, in each the queries in ascending order. */
template <class C, class T>
void key_tile(const DocumentCall& call, const Arrays<C, T>& a, const Pair& p, const Panels<C>& panels,
    const Sight& sight, int row, C* memory) {
  typedef vector_t<C> V;
  const int E = call.E, padded = round_panel(E), rows = p.L - row < DOCUMENT_ROWS ? p.L - row : DOCUMENT_ROWS;
  const size_t ld = score_stride(p.L), t = call.starts[p.s] + row;
  C *key = memory, *value = key + DOCUMENT_ROWS * E, *dk = value + DOCUMENT_ROWS * E, *dv = dk + DOCUMENT_ROWS * padded,
      *scores = dv + DOCUMENT_ROWS * padded, *slopes = scores + DOCUMENT_ROWS * ld;
  for (int r = 0; r < rows; r++) {
    const T* k = a.qkv + (t + r) * call.width() + (size_t)(call.H + p.g) * E;
    read_row(key + r * E, k, E);
    read_row(value + r * E, k + (size_t)call.G * E, E);
  }
  const int from = row & ~(PANEL - 1), to = round_panel(sight.last_query(row + rows - 1, p.L) + 1);
  for (int h = 0; h < call.group(); h++) {
    multiply_tokens(scores, ld, key, rows, panels.query_tokens(h), E, from, to);
    multiply_tokens(slopes, ld, value, rows, panels.dy_tokens(h), E, from, to);
    const V scale = splat((C)call.scale);
    for (int r = 0; r < rows; r++) {
      C *s = scores + r * ld, *d = slopes + r * ld;
      for (int i = from; i < to; i += W, s += W, d += W) {
        const vi seen = sight.queries(i, row + r, p.L);
        const V weight = exp(load(s) * scale - load(panels.lse(h) + i));
        store(d, where(seen, weight * (load(d) - load(panels.delta(h) + i)) * scale, V{}));
        store(s, where(seen, weight, V{}));
      }
    }
    multiply_dims(dk, slopes, ld, rows, panels.query_dims(h), p.L, E, from, to, h > 0);
    multiply_dims(dv, scores, ld, rows, panels.dy_dims(h), p.L, E, from, to, h > 0);
  }
  for (int r = 0; r < rows; r++) {
    T* out = a.dqkv + (t + r) * call.width() + (size_t)(call.H + p.g) * E;
    for (int e = 0; e < E; e += W) {
      store_row(out, e, E, load(dk + r * padded + e));
      store_row(out + (size_t)call.G * E, e, E, load(dv + r * padded + e));
    }
  }
}

template <class C, class T> int32_t backward(koala_device* dev, const DocumentCall& call, const Arrays<C, T>& a) {
  const int E = call.E;
  auto pair_bytes = [&](int L) { return Panels<C>::bytes(L, E, call.group()); };
  const WaveSizes sizes = largest_wave(call, pair_bytes);
  const size_t tile = DOCUMENT_ROWS * (2 * E + 2 * round_panel(E) + 2 * score_stride(longest_document(call))) + W;
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
        pack_block(call, a, pair, Panels<C>(memory, pair, E), (int)(b - pair.blocks) * PANEL);
      }
    });
    parallel_for(&dev->pool, wide, total.key_tiles + total.tiles, 1, [&](int64_t begin, int64_t end, int thread) {
      C* own = (C*)dev->local[thread].data;
      for (int64_t unit = begin; unit < end; unit++) {
        const bool keys = unit < total.key_tiles;
        const int64_t at = keys ? unit : total.key_tiles + total.tiles - 1 - unit;
        const Pair& pair = pair_of(pairs, count, at, keys ? &Pair::key_tiles : &Pair::tiles);
        const Panels<C> panels(memory, pair, E);
        if (keys) key_tile(call, a, pair, panels, Sight(call, pair.s), (int)(at - pair.key_tiles) * DOCUMENT_ROWS, own);
        else query_tile(call, a, pair, panels, Sight(call, pair.s), (int)(at - pair.tiles) * DOCUMENT_ROWS, own);
      }
    });
  }
  return 0;
}

}  // namespace

int32_t document_attention_backward(koala_device* dev, void* dqkv, const void* dy, const void* y, const void* lse,
    const void* qkv, const int32_t* starts, const float* forget, int32_t S, int32_t H, int32_t G, int32_t E,
    int32_t window, int32_t seed, float scale, int32_t dtype) {
  const DocumentCall call = {starts, forget, S, H, G, E, window, (uint32_t)seed, scale, dev->pool.threads};
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    typedef compute_t<El> C;
    return backward<C, El>(dev, call, {(El*)dqkv, (const El*)dy, (const El*)y, (const El*)qkv, (const C*)lse});
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_document_attention_backward(koala_device* dev, void* dqkv, const void* dy, const void* y, const void* lse,
    const void* qkv, const int32_t* starts, const float* forget, int32_t S, int32_t H, int32_t G, int32_t E,
    int32_t window, int32_t seed, float scale, int32_t dtype) {
  REQUIRE_POINTER("document_attention_backward", dev);
  REQUIRE_POINTER("document_attention_backward", dqkv);
  REQUIRE_POINTER("document_attention_backward", dy);
  REQUIRE_POINTER("document_attention_backward", y);
  REQUIRE_POINTER("document_attention_backward", lse);
  REQUIRE_POINTER("document_attention_backward", qkv);
  REQUIRE_POINTER("document_attention_backward", starts);
  REQUIRE_SIZE("document_attention_backward", S);
  REQUIRE_POSITIVE("document_attention_backward", H);
  REQUIRE_POSITIVE("document_attention_backward", G);
  REQUIRE(H % G == 0, "koala_document_attention_backward: %d query heads cannot share %d key/value heads evenly.", H,
      G);
  REQUIRE_POSITIVE("document_attention_backward", E);
  REQUIRE_SIZE("document_attention_backward", window);
  REQUIRE(scale > 0 && scale < 1e30f,
      "koala_document_attention_backward: the scale is %g and must be a positive number.", scale);
  REQUIRE_TYPE("document_attention_backward", dtype);
  for (int s = 0; s < S; s++) {
    REQUIRE(starts[s] >= 0 && starts[s] <= starts[s + 1],
        "koala_document_attention_backward: starts must ascend from 0, and document %d runs from %d to %d.", s,
        starts[s], starts[s + 1]);
    REQUIRE(!forget || (forget[s] >= 0 && forget[s] <= 1),
        "koala_document_attention_backward: forget is %g for document %d and must be from 0 to 1.", forget[s], s);
  }
  return dev->kernels->document_attention_backward(dev, dqkv, dy, y, lse, qkv, starts, forget, S, H, G, E, window, seed,
      scale, dtype);
}
#endif
