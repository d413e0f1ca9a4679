// Gradient of attention over documents. Probabilities are computed again from log sum exp, never stored:
//   p = exp(scale * q.k - lse), ds = scale * p * (d * dy.v - dy.y);  dq = sum_j ds k,  dk = sum_i ds q,
//   dv = sum_i d * p * dy, where d is 1, or with dropout 0 or 1 / (1 - drop)
// Tiles of 8 key rows give dk, dv and ds, which is kept as panels of 32 queries; from these, blocks of 32 queries give
// dq (as dq^T = keys^T ds). Each output is one chain of sums in ascending order: no two threads add to one place.
// Keys go in chunks, so that memory for ds grows with the length and not with its square.
#include "document_panels.h"

namespace KOALA_NS {

namespace {

constexpr int KEYS = 512;  // of one chunk

/** Memory of one pair: panels of keys, and for each query head of the group those of q and dy, ds of a chunk of keys
 *  (panel i/32: for each key, 32 queries side by side) and dq (as token panels). */
template <class C> struct Panels {
  C *key_tokens, *queries;
  size_t tokens, dims;
  int L, kept;
  Panels(char* memory, const Pair& p, int E) : key_tokens((C*)(memory + p.at)), tokens(token_elements(p.L, E)),
      dims(dim_elements(p.L, E)), L(round_panel(p.L)), kept(kept_keys(p.L)) {
    queries = key_tokens + tokens;
  }
  static int kept_keys(int L) { return L < KEYS ? L : KEYS; }
  static size_t head(int L, int E) {
    return 3 * token_elements(L, E) + 2 * dim_elements(L, E) + (size_t)round_panel(L) * (2 + kept_keys(L));
  }
  static size_t bytes(int L, int E, int group) {
    return (token_elements(L, E) + group * head(L, E)) * sizeof(C);
  }
  inline C* of(int h) const { return queries + h * (3 * tokens + 2 * dims + (size_t)L * (2 + kept)); }
  inline C* query_tokens(int h) const { return of(h); }
  inline C* query_dims(int h) const { return of(h) + tokens; }
  inline C* dy_tokens(int h) const { return of(h) + tokens + dims; }
  inline C* dy_dims(int h) const { return of(h) + 2 * tokens + dims; }
  inline C* lse(int h) const { return of(h) + 2 * tokens + 2 * dims; }
  inline C* delta(int h) const { return lse(h) + L; }
  inline C* dq(int h) const { return delta(h) + L; }
  /** ds of query i (and those behind it in its panel) and the chunk's key k. */
  inline C* ds(int h, int i, int k) const {
    return dq(h) + tokens + ((size_t)(i / PANEL) * kept + k) * PANEL + i % PANEL;
  }
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
  pack_token_panel(panels.key_tokens + (size_t)j * E, a.qkv + t * width + (size_t)(call.H + p.g) * E, width, n, E);
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

/** The first n tokens of a token panel as rows: the inverse of pack_token_panel. */
template <class C, class T> inline void unpack_token_panel(T* rows, size_t ld, const C* panel, int n, int E) {
  if constexpr (Same<C, double>::value) {
    for (int j = 0; j < n; j++)
      for (int e = 0; e < E; e++) rows[j * ld + e] = narrow<T>(panel[e * PANEL + j]);
  } else {
    for (int e = 0; e < E; e += W)
      for (int j = 0; j < n; j += W) {
        vu block[W];
        for (int i = 0; i < W; i++) block[i] = e + i < E ? (vu)load(panel + (e + i) * PANEL + j) : vu{};
        transpose_block(block);
        for (int i = 0; i < W && j + i < n; i++) store_row(rows + (j + i) * ld, e, E, (vf)block[i]);
      }
  }
}

/** What the keys [chunk, chunk + KEYS) add to dq of 32 queries from i on, in one head of the group. */
template <class C, class T>
void query_block(const DocumentCall& call, const Arrays<C, T>& a, const Pair& p, const Panels<C>& panels,
    const Sight& sight, int i, int h, int chunk) {
  const int E = call.E, n = p.L - i < PANEL ? p.L - i : PANEL, first = sight.first_key(i), last = i + n;
  const int from = first > chunk ? first : chunk, to = last < chunk + KEYS ? last : chunk + KEYS;
  if (from >= to) return;
  C* dq = panels.dq(h) + (size_t)i * E;
  for (int k = from, depth; k < to; k += depth) {
    const int at = k % PANEL;
    depth = to - k < PANEL - at ? to - k : PANEL - at;
    multiply_panel<C, C>(E, panels.key_tokens + (size_t)(k - at) * E + at, PANEL, panels.ds(h, i, k - chunk), depth, dq,
        PANEL, k > first);
  }
  if (to == last) unpack_token_panel(a.dqkv + (call.starts[p.s] + i) * call.width() + (size_t)(p.g * call.group()
      + h) * E, call.width(), dq, n, E);
}

/** dk, dv and ds of 8 key rows: query heads of the group in order, in each the queries in ascending order. */
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
    const Drop<C> drop(call, p.s, p.g * call.group() + h);
    for (int r = 0; r < rows; r++) {
      C *s = scores + r * ld, *d = slopes + r * ld;
      for (int i = from; i < to; i += W, s += W, d += W) {
        const vi seen = sight.queries(i, row + r, p.L);
        const V weight = exp(load(s) * scale - load(panels.lse(h) + i));
        V used = weight, dweight = load(d);
        if (drop.any) {
          const V kept = drop.queries(i, row + r);
          used *= kept, dweight *= kept;
        }
        const V slope = where(seen, weight * (dweight - load(panels.delta(h) + i)) * scale, V{});
        store(d, slope);
        store(panels.ds(h, i, (row + r) % KEYS), slope);
        store(s, where(seen, used, V{}));
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

/** The pairs of a wave: their panels, then chunk by chunk of their keys dk and dv, and what these add to dq. */
template <class C, class T>
void wave_gradients(koala_device* dev, const DocumentCall& call, const Arrays<C, T>& a, const Pair* pairs, int count,
    const Pair& total, char* memory) {
  const int E = call.E, group = call.group();
  const bool wide = (double)total.tiles * DOCUMENT_ROWS * E > 2000;
  parallel_for(&dev->pool, wide, total.blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; b++) {
      const Pair& pair = pair_of(pairs, count, b, &Pair::blocks);
      pack_block(call, a, pair, Panels<C>(memory, pair, E), (int)(b - pair.blocks) * PANEL);
    }
  });
  int longest = 0;
  for (int i = 0; i < count; i++) longest = pairs[i].L > longest ? pairs[i].L : longest;
  for (int chunk = 0; chunk < longest; chunk += KEYS) {
    parallel_for(&dev->pool, wide, total.key_tiles, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t unit = begin; unit < end; unit++) {
        const Pair& pair = pair_of(pairs, count, unit, &Pair::key_tiles);
        const int row = (int)(unit - pair.key_tiles) * DOCUMENT_ROWS;
        if (row / KEYS == chunk / KEYS) key_tile(call, a, pair, Panels<C>(memory, pair, E), Sight(call, pair.s), row,
            (C*)dev->local[thread].data);
      }
    });
    // The last queries of a document see the most keys and go first.
    parallel_for(&dev->pool, wide, total.blocks * group, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t unit = begin; unit < end; unit++) {
        const int64_t block = total.blocks - 1 - unit / group;
        const Pair& pair = pair_of(pairs, count, block, &Pair::blocks);
        query_block(call, a, pair, Panels<C>(memory, pair, E), Sight(call, pair.s), (int)(block - pair.blocks) * PANEL,
            (int)(unit % group), chunk);
      }
    });
  }
}

template <class C, class T> int32_t backward(koala_device* dev, const DocumentCall& call, const Arrays<C, T>& a) {
  const int E = call.E;
  auto pair_bytes = [&](int L) { return Panels<C>::bytes(L, E, call.group()); };
  const WaveSizes sizes = largest_wave(call, pair_bytes);
  const size_t tile = DOCUMENT_ROWS * (2 * E + 2 * round_panel(E) + 2 * score_stride(longest_document(call))) + W;
  if (reserve(dev, sizes.list + sizes.panels, tile * sizeof(C))) return -1;
  Pair* pairs = (Pair*)dev->shared.data;
  for (int64_t p = 0; p < (int64_t)call.S * call.G;) {
    const Wave wave = next_wave(call, p, pairs, pair_bytes);
    wave_gradients(dev, call, a, pairs, wave.count, wave.total, dev->shared.data + sizes.list);
    p = wave.next;
  }
  return 0;
}

}  // namespace

int32_t document_attention_backward(koala_device* dev, void* dqkv, const void* dy, const void* y, const void* lse,
    const void* qkv, const int32_t* starts, const float* forget, int32_t S, int32_t H, int32_t G, int32_t E,
    int32_t window, int32_t first, int32_t seed, int32_t drop_seed, float drop, float scale, int32_t dtype) {
  const DocumentCall call = {starts, forget, S, H, G, E, window, (uint32_t)first, (uint32_t)seed,
      (uint32_t)drop_seed, drop, scale, dev->pool.threads};
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
    int32_t window, int32_t first, int32_t seed, int32_t drop_seed, float drop, float scale, int32_t dtype) {
  if (check_document_attention_backward(dev, dqkv, dy, y, lse, qkv)) return -1;
  REQUIRE_POINTER("document_attention_backward", starts);
  REQUIRE_SIZE("document_attention_backward", S);
  REQUIRE_POSITIVE("document_attention_backward", H);
  REQUIRE_POSITIVE("document_attention_backward", G);
  REQUIRE(H % G == 0, "koala_document_attention_backward: %d query heads cannot share %d key/value heads evenly.", H,
      G);
  REQUIRE_POSITIVE("document_attention_backward", E);
  REQUIRE_SIZE("document_attention_backward", window);
  REQUIRE_SIZE("document_attention_backward", first);
  REQUIRE(drop >= 0 && drop < 1, "koala_document_attention_backward: drop is %g and must be from 0 to below 1.", drop);
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
  return dev->kernels->document_attention_backward(dev, dqkv, dy, y, lse, qkv, starts, forget, S, H, G, E, window, first,
      seed, drop_seed, drop, scale, dtype);
}
#endif
