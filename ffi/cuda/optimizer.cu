// AdamW over flat blocks of parameters, and the split of float32 masters into bf16 weights and their low halves.
//
// The bits of ffi/cpu/optimizer.cc, which explains the split and the rounding: every sum and product is rounded where
// it is rounded there (the functions *_rn are never fused with what stands around them).
// A thread updates eight parameters side by side.
// budget k_adamw: registers 104, shared 0
// budget k_adamw_split: registers 72, shared 0
// budget k_master_split: registers 32, shared 0
// budget k_master_join: registers 32, shared 0
#include "flat.cuh"
#include "hash.cuh"

namespace {

constexpr int THREADS = 256, EACH = 8 * THREADS;

/** The scalars of a step; corrections of the bias are computed in double. */
template <class C> struct Step {
  C rate, b1, b1_rest, b2, b2_rest, correct_m, correct_v, eps, decay, scale;
  explicit Step(const double* s)
      : rate((C)s[0]), b1((C)s[1]), b1_rest((C)(1 - s[1])), b2((C)s[2]), b2_rest((C)(1 - s[2])),
        correct_m((C)(1 / (1 - pow(s[1], s[6])))), correct_v((C)(1 / (1 - pow(s[2], s[6])))), eps((C)s[3]),
        decay((C)s[4]), scale((C)s[5]) {}
};

template <class C> DEVICE void update(const Step<C>& s, C& w, C& m, C& v, C g) {
  g = mul_rn(g, s.scale);
  m = fma_rn(s.b1, m, mul_rn(s.b1_rest, g));
  v = fma_rn(s.b2, v, mul_rn(mul_rn(s.b2_rest, g), g));
  const C direction = div_rn(mul_rn(m, s.correct_m), add_rn(root_rn(mul_rn(v, s.correct_v)), s.eps));
  w = add_rn(w, -mul_rn(s.rate, fma_rn(s.decay, w, direction)));
}

DEVICE float join_master(uint16_t w, uint16_t low) {
  return bits_to_float(((uint32_t)w - (uint32_t)(low >> 15)) << 16 | low);
}
DEVICE void split_master(uint16_t& w, uint16_t& low, float master) {
  const uint32_t bits = float_to_bits(master);
  w = (uint16_t)((bits >> 16) + (bits >> 15 & 1));
  low = (uint16_t)bits;
}

/** bf16 bits of x, rounded up where the 16 random bits carry; infinities and NaN are cut. */
DEVICE uint16_t round_stochastically(float x, uint32_t random) {
  const uint32_t bits = float_to_bits(x);
  const uint32_t special = (bits & 0x7fffffu) != 0 ? bits | 0x400000u : bits;
  return (uint16_t)(((bits & 0x7f800000u) == 0x7f800000u ? special : bits + random) >> 16);
}

template <class C> KERNEL(THREADS) k_adamw(C* w, C* m, C* v, const C* g, int64_t n, Step<C> step, bool wide) {
  const int64_t at = flat_index();
  if (at >= n) return;
  C wi[8], mi[8], vi[8], gi[8];
  load_some<C>(wi, w, at, n, wide);
  load_some<C>(mi, m, at, n, wide);
  load_some<C>(vi, v, at, n, wide);
  load_some<C>(gi, g, at, n, wide);
#pragma unroll
  for (int i = 0; i < 8; i++) update(step, wi[i], mi[i], vi[i], gi[i]);
  store_some(w, wi, at, n, wide);
  store_some(m, mi, at, n, wide);
  store_some(v, vi, at, n, wide);
}

template <class G>
KERNEL(THREADS) k_adamw_split(uint16_t* w, uint16_t* low, uint16_t* m, uint16_t* v, const G* g, int64_t n,
    Step<float> step, HashKey key, uint64_t index, bool wide) {
  const int64_t at = flat_index();
  if (at >= n) return;
  uint16_t wi[8], li[8], mi[8], vi[8];
  float gi[8];
  load_some_bits(wi, w, at, n, wide);
  load_some_bits(li, low, at, n, wide);
  load_some_bits(mi, m, at, n, wide);
  load_some_bits(vi, v, at, n, wide);
  load_some<G>(gi, g, at, n, wide);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float master = join_master(wi[i], li[i]);
    float first = bits_to_float((uint32_t)mi[i] << 16), second = bits_to_float((uint32_t)vi[i] << 16);
    update(step, master, first, second, gi[i]);
    const uint32_t random = hash_at(key, index + (uint64_t)(at + i));
    split_master(wi[i], li[i], master);
    mi[i] = round_stochastically(first, random & 0xffff);
    vi[i] = round_stochastically(second, random >> 16);
  }
  store_some_bits(w, wi, at, n, wide);
  store_some_bits(low, li, at, n, wide);
  store_some_bits(m, mi, at, n, wide);
  store_some_bits(v, vi, at, n, wide);
}

KERNEL(THREADS) k_master_split(uint16_t* w, uint16_t* low, const float* master, int64_t n, bool wide) {
  const int64_t at = flat_index();
  if (at >= n) return;
  float x[8];
  uint16_t high[8], rest[8];
  load_some<float>(x, master, at, n, wide);
#pragma unroll
  for (int i = 0; i < 8; i++) split_master(high[i], rest[i], x[i]);
  store_some_bits(w, high, at, n, wide);
  store_some_bits(low, rest, at, n, wide);
}

KERNEL(THREADS) k_master_join(float* master, const uint16_t* w, const uint16_t* low, int64_t n, bool wide) {
  const int64_t at = flat_index();
  if (at >= n) return;
  uint16_t high[8], rest[8];
  float x[8];
  load_some_bits(high, w, at, n, wide);
  load_some_bits(rest, low, at, n, wide);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = join_master(high[i], rest[i]);
  store_some(master, x, at, n, wide);
}

}  // namespace

int32_t koala_adamw(koala_device* dev, void* w, void* low, void* m, void* v, const void* g, double n,
    const double* scalars, double index, int32_t precision, int32_t dtype) {
  if (check_adamw(dev, w, low, m, v, g, n, scalars, index, precision, dtype)) return -1;
  const double step = scalars[6], seed = scalars[7];
  REQUIRE(step >= 1 && step == (double)(int64_t)step, "koala_adamw: the step is %g; steps count from 1.", step);
  REQUIRE_COUNT("adamw", seed);
  REQUIRE(scalars[1] >= 0 && scalars[1] < 1 && scalars[2] >= 0 && scalars[2] < 1,
      "koala_adamw: the betas are %g and %g and must be from 0 to below 1.", scalars[1], scalars[2]);
  if (n == 0) return 0;
  if (begin(dev, "koala_adamw")) return -1;
  const int64_t count = (int64_t)n;
  const bool wide = all_aligned(w, low, m, v, g);
  auto plain = [&](auto element) {
    typedef decltype(element) C;
    LAUNCH((k_adamw<C>), blocks_of(count, EACH), THREADS, 0, dev->stream, (C*)w, (C*)m, (C*)v, (const C*)g, count,
        Step<C>(scalars), wide);
  };
  auto split = [&](auto element) {
    typedef decltype(element) G;
    const HashKey key = hash_key((uint64_t)seed, STREAM_MOMENTS, (uint64_t)step);
    LAUNCH((k_adamw_split<G>), blocks_of(count, EACH), THREADS, 0, dev->stream, (uint16_t*)w, (uint16_t*)low,
        (uint16_t*)m, (uint16_t*)v, (const G*)g, count, Step<float>(scalars), key, (uint64_t)index, wide);
  };
  if (precision == 1 && dtype == KOALA_BF16) split(bf16{});
  else if (precision == 1) split(float{});
  else if (dtype == KOALA_F64) plain(double{});
  else plain(float{});
  return finish(dev);
}

int32_t koala_master_split(koala_device* dev, void* w, void* low, const float* master, double n) {
  if (check_master_split(dev, w, low, master, n)) return -1;
  if (n == 0) return 0;
  if (begin(dev, "koala_master_split")) return -1;
  LAUNCH(k_master_split, blocks_of(n, EACH), THREADS, 0, dev->stream, (uint16_t*)w, (uint16_t*)low, master, (int64_t)n,
      all_aligned(w, low, master));
  return finish(dev);
}

int32_t koala_master_join(koala_device* dev, float* master, const void* w, const void* low, double n) {
  if (check_master_join(dev, master, w, low, n)) return -1;
  if (n == 0) return 0;
  if (begin(dev, "koala_master_join")) return -1;
  LAUNCH(k_master_join, blocks_of(n, EACH), THREADS, 0, dev->stream, master, (const uint16_t*)w, (const uint16_t*)low,
      (int64_t)n, all_aligned(w, low, master));
  return finish(dev);
}
