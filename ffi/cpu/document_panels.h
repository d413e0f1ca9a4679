// Heads of documents as panels, so that attention in training is made of the products of tile.h.
//
// For one head X [L, E] of a document, Lp being L up to 32 and Ep being E up to 32:
//   token panels  panel j/32 of 32 tokens: for each dim, 32 tokens side by side     (for x . X^T, summed over dims)
//   dim panels    panel e/32 of 32 dims: for each of Lp tokens, 32 dims side by side (for p X, summed over tokens)
// Tokens behind L and dims behind E are zero. Sums run in C: float, or double where the activations are double.
//
// The work is cut into waves of (document, key/value head) pairs whose panels fit the caches (or one that does not).
#pragma once
#include "device.h"
#include "hash.h"
#include "tile.h"
#include "transpose.h"

namespace KOALA_NS {

constexpr int DOCUMENT_ROWS = 8;                 // query or key rows of one tile
constexpr size_t WAVE_BYTES = (size_t)1 << 20;  // of panels in a wave, for each thread

struct DocumentCall {
  const int32_t* starts;
  const float* forget;
  int S, H, G, E, window;
  uint32_t first, seed, drop_seed;
  float drop, scale;
  int threads;
  inline int group() const { return H / G; }
  inline int length(int s) const { return starts[s + 1] - starts[s]; }
  inline size_t width() const { return (size_t)(H + 2 * G) * E; }
};

inline int round_panel(int n) { return (n + PANEL - 1) / PANEL * PANEL; }
inline size_t token_elements(int L, int E) { return (size_t)round_panel(L) * E; }
inline size_t dim_elements(int L, int E) { return (size_t)round_panel(L) * round_panel(E); }

/** Tokens of `rows` (n of them, the rest zero) as one token panel. */
template <class C, class T> inline void pack_token_panel(C* panel, const T* rows, size_t ld, int n, int E) {
  if constexpr (Same<C, double>::value) {
    for (int e = 0; e < E; e++)
      for (int j = 0; j < PANEL; j++) panel[e * PANEL + j] = j < n ? (C)widen(rows[j * ld + e]) : 0;
  } else {
    for (int e = 0; e < E; e += W)
      for (int j = 0; j < PANEL; j += W) {
        vu block[W];
        if (j + W <= n && e + W <= E)
#pragma GCC unroll 16
          for (int i = 0; i < W; i++) block[i] = (vu)load(rows + (j + i) * ld + e);
        else
          for (int i = 0; i < W; i++) block[i] = j + i < n ? (vu)load_row(rows + (j + i) * ld, e, E) : vu{};
        transpose_block(block);
        if (e + W <= E)
#pragma GCC unroll 16
          for (int i = 0; i < W; i++) write_bits(panel + (e + i) * PANEL + j, block[i]);
        else
          for (int i = 0; e + i < E; i++) write_bits(panel + (e + i) * PANEL + j, block[i]);
      }
  }
}

/** The same tokens as rows [at, at + 32) of the dim panels. */
template <class C, class T> inline void pack_dim_panels(C* panels, int L, int at, const T* rows, size_t ld, int n,
    int E) {
  const size_t stride = (size_t)round_panel(L) * PANEL;
  for (int j = 0; j < PANEL; j++)
    for (int e = 0; e < round_panel(E); e += W) {
      const vector_t<C> v = j < n && e < E ? load_row(rows + j * ld, e, E) : vector_t<C>{};
      store(panels + e / PANEL * stride + (size_t)(at + j) * PANEL + e % PANEL, v);
    }
}

/** scores[rows, to - from) = x [rows, E] . tokens [from, to)^T; `from` is a multiple of 32. */
template <class C> inline void multiply_tokens(C* scores, size_t ld, const C* x, int rows, const C* panels, int E,
    int from, int to) {
  for (int j = from; j < to; j += PANEL) multiply_panel<C, C>(rows, x, E, panels + (size_t)j * E, E, scores + (j
      - from), ld, false);
}

/** y [rows, Ep] (+)= weights [rows, to - from) . tokens [from, to). */
template <class C> inline void multiply_dims(C* y, const C* weights, size_t ld, int rows, const C* panels, int L, int E,
    int from, int to, bool resume) {
  for (int e = 0; e < E; e += PANEL)
    multiply_panel<C, C>(rows, weights, ld, panels + (size_t)e * round_panel(L) + (size_t)from * PANEL, to - from, y
        + e, round_panel(E), resume);
}

/** Which (query, key) pairs of a document see each other. */
struct Sight {
  int window;
  bool forgets;
  uint32_t hidden;  // threshold of the hash
  HashKey key;
  uint32_t start;  // the document's first row in the optimizer step
  Sight(const DocumentCall& call, int s)
      : window(call.window), forgets(call.forget && call.forget[s] > 0), hidden(forgets ? hash_threshold(call.forget[s])
          : 0),
        key(hash_key(call.seed, STREAM_FORGET)), start(call.first + (uint32_t)call.starts[s]) {}
  inline int first_key(int i) const { return window > 0 && i >= window ? i - window + 1 : 0; }
  inline int last_query(int j, int L) const { return window > 0 && j < L - window ? j + window - 1 : L - 1; }
  /** Lanes of keys j.. that query i sees. */
  inline vi keys(int i, int j) const {
    const vi at = (vi)lane_numbers() + j;
    vi seen = (at <= i) & (at >= first_key(i));
    if (forgets) seen &= ~((vi)(hash_bits(key, vu{} + (start + i), (vu)at + start) < hidden) & (at > 0) & (at < i));
    return seen;
  }
  /** Lanes of queries i.. that see key j. */
  inline vi queries(int i, int j, int L) const {
    const vi at = (vi)lane_numbers() + i;
    vi seen = (at >= j) & (at <= last_query(j, L));
    if (forgets && j > 0) seen &= ~((vi)(hash_bits(key, (vu)at + start, vu{} + (start + j)) < hidden) & (at > j));
    return seen;
  }
};

inline vf where(vi seen, vf a, vf b) { return seen ? a : b; }
inline vd where(vi seen, vd a, vd b) { return __builtin_convertvector(seen, decltype(a < b)) ? a : b; }

/** What multiplies the probabilities of one document and query head: 0, or 1 / (1 - drop). */
template <class C> struct Drop {
  typedef vector_t<C> V;
  bool any;
  uint32_t dropped;  // threshold of the hash
  HashKey key;
  uint32_t start;
  C kept;
  Drop(const DocumentCall& call, int s, int head) : any(call.drop > 0), dropped(hash_threshold(call.drop)), key(
      hash_key(call.drop_seed, STREAM_ATTENTION, (uint64_t)head)), start(call.first + (uint32_t)call.starts[s]),
      kept((C)(1. / (1. - (double)call.drop))) {}
  /** Of query i and the keys j.. */
  inline V keys(int i, int j) const {
    return where((vi)(hash_bits(key, vu{} + (start + i), lane_numbers() + (start + j)) >= dropped), splat(kept), V{});
  }
  /** Of the queries i.. and key j. */
  inline V queries(int i, int j) const {
    return where((vi)(hash_bits(key, lane_numbers() + (start + i), vu{} + (start + j)) >= dropped), splat(kept), V{});
  }
};

/** One document and key/value head of a wave. */
struct Pair {
  int s, g, L;
  int64_t blocks, tiles;  // units of work of the pairs before it: blocks of 32 tokens, tiles of query rows
  int64_t key_tiles;      // and tiles of key rows
  size_t at;              // bytes of panels before it
};

inline const Pair& pair_of(const Pair* pairs, int count, int64_t unit, int64_t Pair::*before) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (pairs[middle].*before <= unit) low = middle;
    else high = middle - 1;
  }
  return pairs[low];
}

struct Wave {
  int64_t next;  // the first pair behind it
  int count;
  Pair total;    // units of work and bytes of the whole wave
};

/** The wave from pair `first` (document first / G, head first % G) on; lists its pairs unless `pairs` is null. */
template <class F> inline Wave next_wave(const DocumentCall& call, int64_t first, Pair* pairs, F&& pair_bytes) {
  Wave wave = {first, 0, {}};
  Pair& total = wave.total;
  for (; wave.next < (int64_t)call.S * call.G; wave.next++) {
    const int s = (int)(wave.next / call.G), L = call.length(s);
    if (L == 0) continue;
    const size_t bytes = pair_bytes(L);
    if (wave.count && total.at + bytes > WAVE_BYTES * call.threads) break;
    total.s = s, total.g = (int)(wave.next % call.G), total.L = L;
    if (pairs) pairs[wave.count] = total;
    wave.count++;
    total.blocks += (L + PANEL - 1) / PANEL;
    total.tiles += ((int64_t)L * call.group() + DOCUMENT_ROWS - 1) / DOCUMENT_ROWS;
    total.key_tiles += (L + DOCUMENT_ROWS - 1) / DOCUMENT_ROWS;
    total.at += bytes;
  }
  return wave;
}

struct WaveSizes {
  size_t list, panels;  // bytes
};

/** What the longest list of pairs and the largest panels of a wave take. */
template <class F> inline WaveSizes largest_wave(const DocumentCall& call, F&& pair_bytes) {
  WaveSizes sizes = {0, 0};
  for (int64_t p = 0; p < (int64_t)call.S * call.G;) {
    const Wave wave = next_wave(call, p, nullptr, pair_bytes);
    const size_t list = (wave.count * sizeof(Pair) + 63) & ~(size_t)63;
    if (list > sizes.list) sizes.list = list;
    if (wave.total.at > sizes.panels) sizes.panels = wave.total.at;
    p = wave.next;
  }
  return sizes;
}

inline int longest_document(const DocumentCall& call) {
  int longest = 0;
  for (int s = 0; s < call.S; s++)
    if (call.length(s) > longest) longest = call.length(s);
  return longest;
}

}  // namespace KOALA_NS
