// Picks the next token of each row from its logits.
//
// What a row keeps (top-k, then top-p, then min-p) is always a prefix of the descending order, and a draw is a point in
// it. Nothing is sorted: candidates above a threshold are gathered, the threshold falls until they suffice, and the end
// of a prefix is found by a quickselect that compares masses. Probabilities are relative to the largest (which has 1).
#include "device.h"
#include "order.h"

namespace KOALA_NS {

namespace {

struct Candidate {
  uint64_t key;
  float p;
};

struct Settings {
  float temperature, top_p, min_p, repetition, frequency, presence;
  int64_t top_k;
};

inline Settings settings_of(const float* row) { return {row[0], row[1], row[2], row[3], row[4], row[5],
    (int64_t)row[6]}; }

inline void penalise(float* logits, const Settings& s, const int32_t* history, const int32_t* counts, int n) {
  for (int i = 0; i < n; i++) {
    float& l = logits[history[i]];
    l = l > 0 ? l / s.repetition : l * s.repetition;
    l -= s.frequency * counts[i];
    if (counts[i] > 0) l -= s.presence;
  }
}

/** Logits whose bit is clear become -inf; a NaN stays, so that the row is refused. */
inline void exclude(float* logits, const uint32_t* mask, int V) {
  for (int v = 0; v < V; v += 32) {
    const uint32_t word = mask[v / 32];
    if (word == 0xffffffffu) continue;
    const int n = V - v < 32 ? V - v : 32;
    for (int i = 0; i < n; i++)
      if (!(word >> i & 1) && logits[v + i] == logits[v + i]) logits[v + i] = -__builtin_inff();
  }
}

/** p[v] = exp((logit - top) / temperature); returns their sum. */
inline double weigh(float* p, const float* logits, int V, float top, float temperature) {
  vd sum = {};
  for (int v = 0; v < V; v += W) {
    vf l = load_row(logits, v, V);
    vf e = exp((l == top ? vf{} : l - top) / temperature);
    store_row(p, v, V, e);
    if (v + W > V)
      for (int i = V - v; i < W; i++) e[i] = 0;
    sum += __builtin_convertvector(e, vd);
  }
  return sum_lanes<double>(sum);
}

inline void sort_few(Candidate* c, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    const Candidate x = c[i];
    int64_t j = i;
    for (; j > 0 && c[j - 1].key > x.key; j--) c[j] = c[j - 1];
    c[j] = x;
  }
}

/** Parts c[0..n) around the median of three keys; the left part, of the returned length, holds the smaller keys. */
inline int64_t partition(Candidate* c, int64_t n) {
  const uint64_t a = c[0].key, b = c[n / 2].key, d = c[n - 1].key;
  const uint64_t low = a < b ? a : b, high = a < b ? b : a, pivot = d < low ? low : d > high ? high : d;
  int64_t i = -1, j = n;
  for (;;) {
    do i++;
    while (c[i].key < pivot);
    do j--;
    while (c[j].key > pivot);
    if (i >= j) return j + 1;
    const Candidate x = c[i];
    c[i] = c[j];
    c[j] = x;
  }
}

/** Moves to the front the shortest prefix in order whose mass reaches (or, if `beyond`, exceeds) the target, its last
 *  candidate last. Returns its length; n if even all do not reach it. */
template <class Mass>
inline int64_t select_prefix(Candidate* c, int64_t n, double target, bool beyond, double* mass, Mass&& mass_of) {
  auto enough = [&](double m) { return beyond ? m > target : m >= target; };
  int64_t low = 0, high = n;
  double before = 0;
  while (high - low > 16) {
    const int64_t middle = low + partition(c + low, high - low);
    double left = 0;
    for (int64_t i = low; i < middle; i++) left += mass_of(c[i]);
    if (enough(before + left)) high = middle;
    else before += left, low = middle;
  }
  sort_few(c + low, high - low);
  for (; low < high; low++) {
    before += mass_of(c[low]);
    if (enough(before)) {
      low++;
      break;
    }
  }
  *mass = before;
  return low;
}

inline double mass_of_all(const Candidate* c, int64_t n) {
  double mass = 0;
  for (int64_t i = 0; i < n; i++) mass += c[i].p;
  return mass;
}

/** Keeps what top-k, top-p and min-p keep of the candidates. Returns how many, and their mass. */
inline int64_t keep(Candidate* c, int64_t n, const Settings& s, double total, double* mass) {
  const auto p = [](const Candidate& x) { return (double)x.p; };
  *mass = total;
  if (s.top_k > 0) {
    double counted;
    n = select_prefix(c, n, (double)s.top_k, false, &counted, [](const Candidate&) { return 1.; });
    *mass = mass_of_all(c, n);
  }
  if (s.top_p < 1) n = select_prefix(c, n, s.top_p * *mass, false, mass, p);
  if (s.min_p > 0) {
    const float least = s.min_p < 1 ? s.min_p : 1;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
      if (c[i].p >= least) c[kept++] = c[i];
    n = kept;
    *mass = mass_of_all(c, n);
  }
  return n;
}

/** How far below the largest logit candidates are gathered, in temperatures, and e^-reach rounded up. */
constexpr int ATTEMPTS = 4;
constexpr float REACH[ATTEMPTS] = {2, 4, 8, 16}, REACH_P[ATTEMPTS] = {0.1354f, 0.01832f, 3.36e-4f, 1.13e-7f};

/** Whether the n largest logits, of this share of the whole mass, hold all that the row keeps or the point drawn.
 *  `reaches_min_p`: all others are less probable than min-p asks. */
inline bool suffices(const Settings& s, int64_t n, double share, double uniform, bool reaches_min_p) {
  // top-p counts among the k best, so with both they must all be here.
  if (s.top_k > 0) return n >= s.top_k || (reaches_min_p && s.top_p >= 1);
  if (s.top_p < 1) return share >= s.top_p || reaches_min_p;
  if (s.min_p > 0) return reaches_min_p;
  return share > uniform;
}

/** Draws from the row; `memory` has room for V candidates and V floats. */
inline int draw(const float* logits, int V, float top, const Settings& s, double uniform, char* memory) {
  Candidate* c = (Candidate*)memory;
  float* p = (float*)(c + V);
  const double total = weigh(p, logits, V, top, s.temperature);
  for (int attempt = 0;; attempt++) {
    const bool all = attempt == ATTEMPTS;
    const float least = all ? -__builtin_inff() : top - REACH[attempt] * s.temperature;
    int64_t n = 0;
    double gathered = 0;
    for_each_from(logits, V, least, [&](int v) {
      if (!(p[v] > 0)) return;
      c[n++] = {order_key(logits[v], v), p[v]};
      gathered += p[v];
    });
    if (!all && !suffices(s, n, gathered / total, uniform, s.min_p >= REACH_P[attempt])) continue;
    double mass;
    n = keep(c, n, s, total, &mass);
    double reached;
    const int64_t last = select_prefix(c, n, uniform * mass, true, &reached,
        [](const Candidate& x) { return (double)x.p; });
    return key_id(c[last - 1].key);
  }
}

inline int pick(float* logits, int V, const Settings& s, double uniform, char* memory) {
  bool has_nan;
  const float top = row_maximum(logits, V, &has_nan);
  if (has_nan || top == -__builtin_inff()) return -1;
  if (s.temperature > 0) return draw(logits, V, top, s, uniform, memory);
  int v = 0;
  for (; v + W <= V; v += W)
    if (uint32_t bits = lane_bits(load(logits + v) == splat(top))) return v + __builtin_ctz(bits);
  while (logits[v] != top) v++;
  return v;
}

}  // namespace

int32_t sample(koala_device* dev, int32_t* ids, float* logits, const float* scalars, const double* uniform,
    const int32_t* history_starts, const int32_t* history, const int32_t* counts, const int32_t* bias_starts,
    const int32_t* bias_ids, const float* bias_values, const int32_t* mask_rows, const uint32_t* mask, int32_t R,
    int32_t V) {
  bool draws = false;
  for (int r = 0; r < R; r++) draws = draws || scalars[r * 7] > 0;
  if (reserve(dev, 0, draws ? (size_t)V * (sizeof(Candidate) + sizeof(float)) : 0)) return -1;
  parallel_for(&dev->pool, (int64_t)R * V > 20000, R, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t r = begin; r < end; r++) {
      float* row = logits + r * V;
      const Settings s = settings_of(scalars + r * 7);
      const int from = history_starts[r], n = history_starts[r + 1] - from;
      if (n) penalise(row, s, history + from, counts + from, n);
      for (int i = bias_starts[r]; i < bias_starts[r + 1]; i++) row[bias_ids[i]] += bias_values[i];
      if (mask_rows[r] >= 0) exclude(row, mask + (size_t)mask_rows[r] * ((V + 31) / 32), V);
      ids[r] = pick(row, V, s, uniform[r], dev->local[thread].data);
    }
  });
  return 0;
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
namespace {

/** Offsets of R rows must ascend and ids lie in the vocabulary. */
int32_t check_lists(const char* what, const int32_t* starts, const int32_t* ids, const void* values, int R, int V) {
  for (int r = 0; r < R; r++)
    REQUIRE(starts[r] >= 0 && starts[r] <= starts[r + 1],
        "koala_sample: %s_starts must ascend from 0, and row %d runs from %d to %d.", what, r, starts[r],
        starts[r + 1]);
  const int from = R ? starts[0] : 0, to = R ? starts[R] : 0;
  REQUIRE(from == to || (ids && values), "koala_sample: %s_starts names %d entries but the list is a null pointer.",
      what, to - from);
  for (int i = from; i < to; i++) REQUIRE(ids[i] >= 0 && ids[i] < V,
      "koala_sample: %s token %d is outside the vocabulary of %d.", what, ids[i], V);
  return 0;
}

int32_t check_scalars(const float* s, double uniform, int r) {
  REQUIRE(s[0] >= 0 && s[0] < 1e30f, "koala_sample: the temperature of row %d is %g; it must be 0 or more.", r, s[0]);
  REQUIRE(s[1] > 0 && s[1] <= 1, "koala_sample: top_p of row %d is %g; it must be above 0 and at most 1.", r, s[1]);
  REQUIRE(s[2] >= 0 && s[2] <= 1, "koala_sample: min_p of row %d is %g; it must be from 0 to 1.", r, s[2]);
  REQUIRE(s[3] > 0, "koala_sample: the repetition penalty of row %d is %g; it must be above 0.", r, s[3]);
  REQUIRE(s[4] == s[4] && s[5] == s[5], "koala_sample: a penalty of row %d is not a number.", r);
  REQUIRE(s[6] >= 0 && s[6] <= 2147483648.f, "koala_sample: top_k of row %d is %g; it must be 0 (all) or more.", r,
      s[6]);
  REQUIRE(uniform >= 0 && uniform < 1, "koala_sample: the random number of row %d is %g; it must be in [0, 1).", r,
      uniform);
  return 0;
}

}  // namespace

int32_t koala_sample(koala_device* dev, int32_t* ids, float* logits, const float* scalars, const double* uniform,
    const int32_t* history_starts, const int32_t* history, const int32_t* counts, const int32_t* bias_starts,
    const int32_t* bias_ids, const float* bias_values, const int32_t* mask_rows, const uint32_t* mask, int32_t R,
    int32_t V) {
  if (check_sample(dev, ids, logits, scalars, uniform, history_starts, bias_starts, mask_rows, R, V)) return -1;
  if (check_lists("history", history_starts, history, counts, R, V)) return -1;
  if (check_lists("bias", bias_starts, bias_ids, bias_values, R, V)) return -1;
  for (int r = 0; r < R; r++) {
    REQUIRE(mask_rows[r] < 0 || mask, "koala_sample: row %d uses mask %d but the mask is a null pointer.", r,
        mask_rows[r]);
    if (check_scalars(scalars + r * 7, uniform[r], r)) return -1;
  }
  return dev->kernels->sample(dev, ids, logits, scalars, uniform, history_starts, history, counts, bias_starts,
      bias_ids, bias_values, mask_rows, mask, R, V);
}
#endif
