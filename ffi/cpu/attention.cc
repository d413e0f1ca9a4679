// Causal attention of packed queries over the paged cache.
//
// Work item: one sequence, one key/value head, a tile of up to 8 query rows. Row r of a (sequence, head) is its token
// r / (H/G), query head g * H/G + r % (H/G): one decoded token of a grouped model fills a tile as well as 8 prefilled
// ones. Keys are taken in blocks of 512 at absolute positions; each block gives its own maximum, sum and output, and
// blocks are merged in ascending order. Keys that a row may not see count exactly 0, and a block without visible keys
// is left out, so a row's bits depend on its position and window alone, never on how rows were grouped into tiles.
#include "cache.h"
#include "cache_check.h"
#include "device.h"

namespace KOALA_NS {

namespace {

constexpr int ROWS = 8;
constexpr int BLOCK = 512;
constexpr int PIECE = 64;  // dims of f8 keys that are expanded together, so that all stays in first-level cache
static_assert(BLOCK % PANEL == 0, "a block of keys is whole panels");

struct Call {
  const int32_t *starts, *lengths, *pages;
  int S, M, H, window;
  float scale;
  CacheShape cache;
};

/** Which query rows a work item computes. */
struct Item {
  int s, g, row, rows;
};

inline size_t align64(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/** One thread's memory for a tile. */
template <class C, class B> struct Workspace {
  typedef operand_t<C, read_t<B>> A;
  static constexpr bool scaled = Same<B, f8>::value;
  A* query;    // [ROWS, padded E]
  C* scores;   // [ROWS, BLOCK]
  A* weights;  // [ROWS, BLOCK]
  C* block;    // [ROWS, padded E] output of this block
  C* output;   // [ROWS, padded E] merged output
  float *key_scales, *value_scales;  // f8: [BLOCK]
  bf16* panels;                      // f8: [WIDE, PIECE * PANEL]
  static size_t bytes(int E) {
    const size_t head = ROWS * padded_head(E), keys = ROWS * BLOCK;
    const size_t scales = scaled ? 2 * BLOCK * sizeof(float) + WIDE * PIECE * PANEL * sizeof(bf16) : 0;
    return align64(head * sizeof(A)) + align64(keys * sizeof(C)) + align64(keys * sizeof(A))
        + 2 * align64(head * sizeof(C)) + scales;
  }
  Workspace(char* memory, int E) {
    const size_t head = ROWS * padded_head(E), keys = ROWS * BLOCK;
    query = (A*)memory, memory += align64(head * sizeof(A));
    scores = (C*)memory, memory += align64(keys * sizeof(C));
    weights = (A*)memory, memory += align64(keys * sizeof(A));
    block = (C*)memory, memory += align64(head * sizeof(C));
    output = (C*)memory, memory += align64(head * sizeof(C));
    key_scales = (float*)memory, value_scales = key_scales + BLOCK, panels = (bf16*)(value_scales + BLOCK);
  }
};

/** What a row has gathered so far, and the keys [low, high] it may see. */
template <class C> struct RowState {
  int low, high;
  C maximum, sum;
  bool started;
};

template <class C> inline C exp_one(C x) {
  if constexpr (Same<C, float>::value) return exp(splat(x))[0];
  else return __builtin_exp(x);
}

/** `pairs` times 32 pairs of a panel as bf16; what is no f8 stays where it lies. */
template <class B> inline const B* expand_part(bf16*, const B* panel, int) { return panel; }
inline const bf16* expand_part(bf16* to, const f8* panel, int pairs) {
  expand_pairs(to, panel, pairs * PANEL);
  return to;
}

/** The scales of keys [from, to), whole panels, whatever lies behind the last key. */
inline void load_scales(const Call& call, const Item& item, const f8* cache, float* scales, int base, int from,
    int to) {
  const int P = call.cache.P;
  const int32_t* pages = call.pages + (size_t)item.s * call.M;
  for (int j = from; j < to; j += PANEL)
    memcpy(scales + (j - base), page_scales(cache, call.cache, pages[j / P], item.g) + j % P, PANEL * sizeof(float));
}

/** Scores of keys [from, to) of block `base`; whole panels, whatever lies behind the last key. */
template <class C, class B>
inline void score_block(const Call& call, const Item& item, const B* keys, Workspace<C, B>& w, int base, int from,
    int to) {
  typedef read_t<B> R;
  const int P = call.cache.P, E = padded_k<R>(call.cache.E), stride = padded_head(call.cache.E);
  const int32_t* pages = call.pages + (size_t)item.s * call.M;
  for (int j = from, taken; j < to; j += taken * PANEL) {
    taken = item.rows == 1 && j + (WIDE - 1) * PANEL < to ? WIDE : 1;
    const B* panels[WIDE];
    for (int p = 0, i = j; p < taken; p++, i += PANEL) panels[p] = key_panel(keys, call.cache, pages[i / P], item.g,
        i % P);
    for (int e = 0, n; e < E; e += n) {
      const R* parts[WIDE];
      n = Workspace<C, B>::scaled && E - e > PIECE ? PIECE : E - e;
      for (int p = 0; p < taken; p++) parts[p] = expand_part(w.panels + p * PIECE * PANEL, panels[p] + e * PANEL, n / 2);
      if (taken > 1) multiply_wide<C, R>(w.query + e, parts, n, w.scores + (j - base), e > 0);
      else multiply_panel<C, R>(item.rows, w.query + e, stride, parts[0], n, w.scores + (j - base), BLOCK, e > 0);
    }
  }
}

/** exp(scale * score - maximum) of one row over [from, to), 0 where the row may not look. Returns the sum by lanes. With
 *  f8, scores are of codes and weights become those of codes: `w` has the scales. */
template <class C, class B>
inline C weigh_row(C* scores, operand_t<C, read_t<B>>* weights, const Workspace<C, B>& w, int from, int to, int first,
    int last, float scale, C* maximum) {
  typedef vector_t<C> V;
  const C hidden = -__builtin_inf();
  const int begin = from & ~(PANEL - 1), end = (to + PANEL - 1) & ~(PANEL - 1);
  if constexpr (Workspace<C, B>::scaled)
    for (int j = begin; j < end; j += W) store(scores + j, load(scores + j) * load(w.key_scales + j));
  for (int j = begin; j < first; j++) scores[j] = hidden;
  for (int j = last + 1; j < end; j++) scores[j] = hidden;
  V top = splat(hidden);
  for (int j = begin; j < end; j += W) {
    V s = load(scores + j) * splat((C)scale);
    store(scores + j, s);
    top = max(s, top);
  }
  *maximum = max_lanes<C>(top);
  V sum = {};
  for (int j = begin; j < end; j += W) {
    V p = exp(load(scores + j) - splat(*maximum));
    sum += p;
    // A hidden key's scale belongs to nobody and may be NaN.
    if constexpr (Workspace<C, B>::scaled) p = p == 0.f ? p : p * load(w.value_scales + j);
    if constexpr (Same<read_t<B>, bf16>::value && Same<operand_t<C, read_t<B>>, float>::value) p = round_to_bf16(p);
    store(weights + j, p);
  }
  return sum_lanes<C>(sum);
}

/** Goes on with `out` (n panels of dims side by side) by `count` keys of one page; the chain starts unless `resume`. */
template <class C, class B>
inline void mix_run(int rows, const operand_t<C, B>* weights, const B* const* panels, int n, int count, C* out,
    int stride, bool resume) {
  const int whole = Same<B, bf16>::value ? count & ~1 : count;
  if (whole && n > 1) multiply_wide<C, B>(weights, panels, whole, out, resume);
  else if (whole) multiply_panel<C, B>(rows, weights, BLOCK, panels[0], whole, out, stride, resume);
  if (whole == count) return;
  for (int p = 0; p < n; p++) {
    // The last key is the first of a pair: its partner belongs to nobody and may be NaN.
    bf16 pair[2 * PANEL];
    memcpy(pair, panels[p] + (size_t)whole * PANEL, sizeof pair);
    for (int i = 0; i < PANEL; i++) pair[2 * i + 1] = bf16{0};
    multiply_panel<C, B>(rows, weights + whole, BLOCK, (const B*)pair, 2, out + p * PANEL, stride, resume || whole);
  }
}

/** The same for up to 32 tokens of f8. What stands behind the last has a weight of 0, and codes are finite. */
template <class C>
inline void mix_run(int rows, const operand_t<C, bf16>* weights, const f8* const* panels, int n, int count, C* out,
    int stride, bool resume, bf16* memory) {
  const bf16* expanded[WIDE];
  const int whole = (count + 1) & ~1;
  for (int p = 0; p < n; p++) expanded[p] = expand_part(memory + p * PIECE * PANEL, panels[p], whole / 2);
  if (n > 1) multiply_wide<C, bf16>(weights, expanded, whole, out, resume);
  else multiply_panel<C, bf16>(rows, weights, BLOCK, expanded[0], whole, out, stride, resume);
}

/** block[rows, E] = weights x values over keys [from, to): one chain a column, page by page. */
template <class C, class B>
inline void mix_values(const Call& call, const Item& item, const B* values, Workspace<C, B>& w, int base, int from,
    int to) {
  const int P = call.cache.P, stride = padded_head(call.cache.E), panels = stride / PANEL;
  const int32_t* pages = call.pages + (size_t)item.s * call.M;
  for (int d = 0, taken; d < panels; d += taken) {
    taken = item.rows == 1 && d + WIDE <= panels ? WIDE : 1;
    const int run = Workspace<C, B>::scaled ? PANEL : P;
    for (int j = from, end; j < to; j = end) {
      end = (j / run + 1) * run < to ? (j / run + 1) * run : to;
      const B* at[WIDE];
      for (int p = 0; p < taken; p++) at[p] = value_panel(values, call.cache, pages[j / P], item.g, d + p, j % P);
      C* out = w.block + d * PANEL;
      if constexpr (Workspace<C, B>::scaled)
        mix_run<C>(item.rows, w.weights + (j - base), at, taken, end - j, out, stride, j > from, w.panels);
      else mix_run<C, B>(item.rows, w.weights + (j - base), at, taken, end - j, out, stride, j > from);
    }
  }
}

/** Joins a block's maximum, sum and output to the row's. */
template <class C> inline void merge_row(RowState<C>& state, C* output, const C* block, int width, C maximum, C sum) {
  if (!state.started) {
    memcpy(output, block, width * sizeof(C));
    state.maximum = maximum, state.sum = sum, state.started = true;
    return;
  }
  const C top = maximum > state.maximum ? maximum : state.maximum;
  const C old_share = exp_one<C>(state.maximum - top), new_share = exp_one<C>(maximum - top);
  for (int e = 0; e < width; e += W) store(output + e,
      load(output + e) * splat(old_share) + load(block + e) * splat(new_share));
  state.sum = state.sum * old_share + sum * new_share;
  state.maximum = top;
}

/** Reads the queries of a tile and the range of keys of each row. */
template <class C, class B, class T>
inline void load_tile(const Call& call, const Item& item, const T* qkv, Workspace<C, B>& w, RowState<C>* state) {
  const int E = call.cache.E, stride = padded_head(E), group = call.H / call.cache.G;
  const size_t width = (size_t)(call.H + 2 * call.cache.G) * E;
  const int tokens = call.starts[item.s + 1] - call.starts[item.s], past = call.lengths[item.s] - tokens;
  for (int i = 0; i < item.rows; i++) {
    const int token = (item.row + i) / group, head = item.g * group + (item.row + i) % group, position = past + token;
    make_operand<C, read_t<B>>(w.query + i * stride, qkv + (call.starts[item.s] + token) * width + (size_t)head * E, E,
        padded_k<read_t<B>>(E));
    const int low = call.window > 0 && position >= call.window ? position - call.window + 1 : 0;
    state[i] = {low, position, 0, 0, false};
  }
}

template <class C, class B, class T>
void attend_tile(const Call& call, const Item& item, T* y, const T* qkv, const B* keys, const B* values,
    char* memory) {
  const int E = call.cache.E, stride = padded_head(E), group = call.H / call.cache.G;
  Workspace<C, B> w(memory, E);
  RowState<C> state[ROWS] = {};
  load_tile(call, item, qkv, w, state);
  const int first = state[0].low & ~(PANEL - 1), last = state[item.rows - 1].high;
  for (int base = first / BLOCK * BLOCK; base <= last; base += BLOCK) {
    const int from = base > first ? base : first, to = base + BLOCK <= last ? base + BLOCK : last + 1;
    score_block<C, B>(call, item, keys, w, base, from, to);
    if constexpr (Workspace<C, B>::scaled) {
      load_scales(call, item, keys, w.key_scales, base, from, to);
      load_scales(call, item, values, w.value_scales, base, from, to);
    }
    C maxima[ROWS] = {}, sums[ROWS] = {};
    for (int i = 0; i < item.rows; i++) {
      C* scores = w.scores + i * BLOCK;
      auto* weights = w.weights + i * BLOCK;
      const int low = state[i].low > from ? state[i].low : from, high = state[i].high < to - 1 ? state[i].high
          : to - 1;
      if (low <= high) sums[i] = weigh_row<C, B>(scores, weights, w, from - base, to - base, low - base, high - base,
          call.scale, &maxima[i]);
      else memset(weights + (from - base), 0, (((to - from + 1) & ~1)) * sizeof *weights);
    }
    mix_values<C, B>(call, item, values, w, base, from, to);
    for (int i = 0; i < item.rows; i++)
      if (state[i].low < to && state[i].high >= from) merge_row(state[i], w.output + i * stride, w.block + i * stride,
          stride, maxima[i], sums[i]);
  }
  for (int i = 0; i < item.rows; i++) {
    const int token = (item.row + i) / group, head = item.g * group + (item.row + i) % group;
    T* out = y + ((size_t)(call.starts[item.s] + token) * call.H + head) * E;
    for (int e = 0; e < E; e += W) store_row(out, e, E, load(w.output + i * stride + e) / splat(state[i].sum));
  }
}

/** Lists the work: a head's tiles side by side, for they read the same cache, and the longest first. */
int64_t list_items(const Call& call, Item* items) {
  const int group = call.H / call.cache.G;
  int64_t count = 0;
  for (int s = 0; s < call.S; s++) {
    const int rows = (call.starts[s + 1] - call.starts[s]) * group;
    for (int g = 0; g < call.cache.G; g++)
      for (int row = (rows - 1) / ROWS * ROWS; row >= 0 && rows > 0; row -= ROWS, count++)
        if (items) items[count] = {s, g, row, rows - row < ROWS ? rows - row : ROWS};
  }
  return count;
}

template <class C, class B, class T>
int32_t attend(koala_device* dev, const Call& call, T* y, const T* qkv, const B* keys, const B* values) {
  const int64_t count = list_items(call, nullptr);
  if (reserve(dev, count * sizeof(Item), Workspace<C, B>::bytes(call.cache.E))) return -1;
  Item* items = (Item*)dev->shared.data;
  list_items(call, items);
  double work = 0;
  for (int s = 0; s < call.S; s++)
    work += (double)(call.starts[s + 1] - call.starts[s]) * call.lengths[s] * call.H * call.cache.E;
  parallel_for(&dev->pool, work > 50000, count, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; i++) attend_tile<C, B, T>(call, items[i], y, qkv, keys, values,
        dev->local[thread].data);
  });
  return 0;
}

}  // namespace

int32_t attention(koala_device* dev, void* y, const void* qkv, const void* keys, const void* values,
    const int32_t* starts, const int32_t* lengths, const int32_t* pages, int32_t S, int32_t M, int32_t P, int32_t H,
    int32_t G, int32_t E, int32_t window, float scale, int32_t ctype, int32_t dtype) {
  const Call call = {starts, lengths, pages, S, M, H, window, scale, {P, G, E}};
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) El;
    typedef compute_t<El> C;
    El* to = (El*)y;
    const El* from = (const El*)qkv;
    if (ctype == KOALA_F32) return attend<C>(dev, call, to, from, (const float*)keys, (const float*)values);
    if (ctype == KOALA_BF16) return attend<C>(dev, call, to, from, (const bf16*)keys, (const bf16*)values);
    if constexpr (Same<C, double>::value) return attend<C>(dev, call, to, from, (const double*)keys,
        (const double*)values);
    else if (ctype == KOALA_F8) return attend<C>(dev, call, to, from, (const f8*)keys, (const f8*)values);
    return fail("koala_attention: an f64 cache needs f64 activations, and these are %s.", type_name(dtype));
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_attention(koala_device* dev, void* y, const void* qkv, const void* keys, const void* values,
    const int32_t* starts, const int32_t* lengths, const int32_t* pages, int32_t S, int32_t M, int32_t P, int32_t H,
    int32_t G, int32_t E, int32_t window, float scale, int32_t ctype, int32_t dtype) {
  if (check_attention(dev, y, qkv, keys, values, starts, lengths, pages, S, M, P)) return -1;
  REQUIRE_POSITIVE("attention", H);
  REQUIRE_POSITIVE("attention", G);
  REQUIRE(H % G == 0, "koala_attention: %d query heads cannot share %d key/value heads evenly.", H, G);
  REQUIRE_POSITIVE("attention", E);
  REQUIRE(scale > 0 && scale < 1e30f, "koala_attention: the scale is %g and must be a positive number.", scale);
  REQUIRE_CACHE_TYPES("attention", ctype, dtype);
  for (int s = 0; s < S; s++) {
    REQUIRE(starts[s] >= 0 && starts[s] <= starts[s + 1],
        "koala_attention: starts must ascend from 0, and sequence %d runs from %d to %d.", s, starts[s],
        starts[s + 1]);
    REQUIRE(lengths[s] >= starts[s + 1] - starts[s],
        "koala_attention: sequence %d has %d queries but a length of %d.", s, starts[s + 1] - starts[s], lengths[s]);
    REQUIRE(lengths[s] <= (int64_t)M * P,
        "koala_attention: sequence %d has a length of %d, more than %d pages of %d tokens hold.", s, lengths[s], M,
        P);
  }
  return dev->kernels->attention(dev, y, qkv, keys, values, starts, lengths, pages, S, M, P, H, G, E, window, scale,
      ctype, dtype);
}
#endif
