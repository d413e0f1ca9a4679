// Contrastive decoding: one row of logits pushed away from another, among the tokens that the first finds plausible.
#include "device.h"
#include "order.h"

namespace KOALA_NS {

namespace {

/** How far below the least plausible token the others begin: out of reach of any temperature, penalty or bias in use. */
constexpr float FALL = 1000;

template <class V> inline V pushed(V a, V b, V strength) { return a + strength * (a - b); }

/** The smallest new logit among the plausible tokens. */
inline float lowest_plausible(const float* a, const float* b, int V, float strength, float least) {
  const float none = __builtin_inff();
  vf lowest = splat(none);
  int v = 0;
  for (; v + W <= V; v += W) {
    const vf l = load(a + v), c = pushed(l, load(b + v), splat(strength));
    lowest = (l >= splat(least)) & (c < lowest) ? c : lowest;
  }
  float best = none;
  for (int i = 0; i < W; i++) best = lowest[i] < best ? lowest[i] : best;
  for (; v < V; v++) {
    const float c = pushed(a[v], b[v], strength);
    if (a[v] >= least && c < best) best = c;
  }
  return best;
}

inline void contrast_row(float* a, const float* b, int V, float strength, float alpha) {
  bool nan_a, nan_b;
  const float top = row_maximum(a, V, &nan_a), top_b = row_maximum(b, V, &nan_b);
  const float infinite = __builtin_inff();
  if (nan_a || nan_b || top == infinite || top_b == infinite) {
    a[0] = __builtin_nanf("");
    return;
  }
  const float least = top + (float)__builtin_log((double)alpha);
  const float base = lowest_plausible(a, b, V, strength, least) - FALL;
  int v = 0;
  for (; v + W <= V; v += W) {
    const vf l = load(a + v);
    store(a + v, l >= splat(least) ? pushed(l, load(b + v), splat(strength)) : splat(base) + (l - splat(top)));
  }
  for (; v < V; v++) a[v] = a[v] >= least ? pushed(a[v], b[v], strength) : base + (a[v] - top);
}

}  // namespace

int32_t contrast(koala_device* dev, float* logits, const int32_t* pairs, const float* scalars, int32_t C, int32_t,
    int32_t V) {
  parallel_for(&dev->pool, (int64_t)C * V > 20000, C, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t c = begin; c < end; c++)
      contrast_row(logits + (size_t)pairs[2 * c] * V, logits + (size_t)pairs[2 * c + 1] * V, V, scalars[2 * c],
          scalars[2 * c + 1]);
  });
  return 0;
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_contrast(koala_device* dev, float* logits, const int32_t* pairs, const float* scalars, int32_t C,
    int32_t R, int32_t V) {
  if (check_contrast(dev, logits, pairs, scalars, C, R, V)) return -1;
  for (int c = 0; c < C; c++) {
    const int a = pairs[2 * c], b = pairs[2 * c + 1];
    REQUIRE(a >= 0 && a < R && b >= 0 && b < R && a != b,
        "koala_contrast: pair %d names rows %d and %d; they must be two of %d rows.", c, a, b, R);
    const float strength = scalars[2 * c], alpha = scalars[2 * c + 1];
    REQUIRE(strength >= 0 && strength < 1e6f, "koala_contrast: the strength of pair %d is %g; it must be 0 or more.", c,
        strength);
    REQUIRE(alpha >= 0 && alpha <= 1, "koala_contrast: the plausibility of pair %d is %g; it must be from 0 to 1.", c,
        alpha);
  }
  return dev->kernels->contrast(dev, logits, pairs, scalars, C, R, V);
}
#endif
