// AdamW over flat blocks of parameters, and the split of float32 masters into bf16 weights and their low halves.
//
// Split: bits = ((w - (low >> 15)) << 16) | low, so w is the master rounded half up and nothing of it is lost.
// Moments in bf16 are rounded up with the probability of the part cut off, by a hash of (seed, step, index): low 16
// bits of the hash for m, high 16 for v. The update itself uses the moments before they are rounded.
#include "flat.h"
#include "hash.h"

namespace KOALA_NS {

namespace {

constexpr int64_t PIECE = 16384;

inline vf root(vf x) {
#if KOALA_LEVEL >= 2
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif KOALA_LEVEL == 1
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < W; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
inline vd root(vd x) {
  for (int i = 0; i < W; i++) x[i] = __builtin_sqrt(x[i]);
  return x;
}

/** The scalars of a step; corrections of the bias are computed in double. */
template <class C> struct Step {
  typedef vector_t<C> V;
  V rate, b1, b1_rest, b2, b2_rest, correct_m, correct_v, eps, decay, scale;
  explicit Step(const double* s) {
    rate = splat((C)s[0]), b1 = splat((C)s[1]), b2 = splat((C)s[2]), eps = splat((C)s[3]), decay = splat((C)s[4]),
        scale = splat((C)s[5]);
    b1_rest = splat((C)(1 - s[1])), b2_rest = splat((C)(1 - s[2]));
    correct_m = splat((C)(1 / (1 - __builtin_pow(s[1], s[6])))), correct_v = splat((C)(1 / (1 - __builtin_pow(s[2],
        s[6]))));
  }
  inline void update(V& w, V& m, V& v, V g) const {
    g *= scale;
    m = fma(b1, m, b1_rest * g);
    v = fma(b2, v, b2_rest * g * g);
    const V direction = m * correct_m / (root(v * correct_v) + eps);
    w -= rate * fma(decay, w, direction);
  }
};

/** 16-bit lanes, widened. */
inline vu load_halves(const uint16_t* p, int64_t left) {
  if (left >= W) return __builtin_convertvector(read_bits<vh>(p), vu);
  uint16_t lanes[W] = {};
  memcpy(lanes, p, left * 2);
  return __builtin_convertvector(read_bits<vh>(lanes), vu);
}
inline void store_halves(uint16_t* p, int64_t left, vu x) {
  const vh v = __builtin_convertvector(x, vh);
  if (left >= W) return write_bits(p, v);
  uint16_t lanes[W];
  write_bits(lanes, v);
  memcpy(p, lanes, left * 2);
}

inline vf join_master(const uint16_t* w, const uint16_t* low, int64_t left) {
  const vu high = load_halves(w, left), bits = load_halves(low, left);
  return (vf)((high - (bits >> 15)) << 16 | bits);
}
inline void split_master(uint16_t* w, uint16_t* low, int64_t left, vf master) {
  const vu bits = (vu)master;
  store_halves(w, left, (bits >> 16) + (bits >> 15 & 1));
  store_halves(low, left, bits & 0xffff);
}

/** bf16 bits of x, rounded up where the 16 random bits carry; infinities and NaN are cut. */
inline vu round_stochastically(vf x, vu random) {
  const vu bits = (vu)x;
  const vu special = (bits & 0x7fffffu) != 0 ? bits | 0x400000u : bits;
  const vu rounded = (bits & 0x7f800000u) == 0x7f800000u ? special : bits + random;
  return rounded >> 16;
}

template <class C> void adamw_plain(koala_device* dev, C* w, C* m, C* v, const C* g, int64_t n, const double* scalars) {
  const Step<C> step(scalars);
  parallel_for(&dev->pool, n > 2 * PIECE, n, PIECE, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += W) {
      const int64_t left = end - i;
      auto wi = load_some(w + i, left), mi = load_some(m + i, left), vi = load_some(v + i, left);
      step.update(wi, mi, vi, load_some(g + i, left));
      store_some(w + i, left, wi);
      store_some(m + i, left, mi);
      store_some(v + i, left, vi);
    }
  });
}

template <class G>
void adamw_split(koala_device* dev, uint16_t* w, uint16_t* low, uint16_t* m, uint16_t* v, const G* g, int64_t n,
    const double* scalars, uint64_t index) {
  const Step<float> step(scalars);
  const HashKey key = hash_key((uint64_t)scalars[7], STREAM_MOMENTS, (uint64_t)scalars[6]);
  parallel_for(&dev->pool, n > 2 * PIECE, n, PIECE, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += W) {
      const int64_t left = end - i;
      vf wi = join_master(w + i, low + i, left), mi = (vf)(load_halves(m + i, left) << 16), vi = (vf)(load_halves(v + i,
          left) << 16);
      step.update(wi, mi, vi, load_some(g + i, left));
      const vu random = hash_at(key, index + i);
      split_master(w + i, low + i, left, wi);
      store_halves(m + i, left, round_stochastically(mi, random & 0xffff));
      store_halves(v + i, left, round_stochastically(vi, random >> 16));
    }
  });
}

}  // namespace

int32_t adamw(koala_device* dev, void* w, void* low, void* m, void* v, const void* g, double n, const double* scalars,
    double index, int32_t precision, int32_t dtype) {
  auto split = [&](auto* gradient) { adamw_split(dev, (uint16_t*)w, (uint16_t*)low, (uint16_t*)m, (uint16_t*)v, gradient,
      (int64_t)n, scalars, (uint64_t)index); };
  if (precision == 1 && dtype == KOALA_BF16) split((const bf16*)g);
  else if (precision == 1) split((const float*)g);
  else if (dtype == KOALA_F64) adamw_plain(dev, (double*)w, (double*)m, (double*)v, (const double*)g, (int64_t)n,
      scalars);
  else adamw_plain(dev, (float*)w, (float*)m, (float*)v, (const float*)g, (int64_t)n, scalars);
  return 0;
}

int32_t master_split(koala_device* dev, void* w, void* low, const float* master, double n) {
  parallel_for(&dev->pool, n > 2 * PIECE, (int64_t)n, PIECE, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += W) split_master((uint16_t*)w + i, (uint16_t*)low + i, end - i,
        load_some(master + i, end - i));
  });
  return 0;
}

int32_t master_join(koala_device* dev, float* master, const void* w, const void* low, double n) {
  parallel_for(&dev->pool, n > 2 * PIECE, (int64_t)n, PIECE, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += W) store_some(master + i, end - i, join_master((const uint16_t*)w + i,
        (const uint16_t*)low + i, end - i));
  });
  return 0;
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_adamw(koala_device* dev, void* w, void* low, void* m, void* v, const void* g, double n,
    const double* scalars, double index, int32_t precision, int32_t dtype) {
  if (check_adamw(dev, w, low, m, v, g, n, scalars, index, precision, dtype)) return -1;
  const double step = scalars[6], seed = scalars[7];
  REQUIRE(step >= 1 && step == (double)(int64_t)step, "koala_adamw: the step is %g; steps count from 1.", step);
  REQUIRE_COUNT("adamw", seed);
  REQUIRE(scalars[1] >= 0 && scalars[1] < 1 && scalars[2] >= 0 && scalars[2] < 1,
      "koala_adamw: the betas are %g and %g and must be from 0 to below 1.", scalars[1], scalars[2]);
  return dev->kernels->adamw(dev, w, low, m, v, g, n, scalars, index, precision, dtype);
}

int32_t koala_master_split(koala_device* dev, void* w, void* low, const float* master, double n) {
  if (check_master_split(dev, w, low, master, n)) return -1;
  return dev->kernels->master_split(dev, w, low, master, n);
}

int32_t koala_master_join(koala_device* dev, float* master, const void* w, const void* low, double n) {
  if (check_master_join(dev, master, w, low, n)) return -1;
  return dev->kernels->master_join(dev, master, w, low, n);
}
#endif
