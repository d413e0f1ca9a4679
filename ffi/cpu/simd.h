// Vectors of W lanes over GCC's vector extensions, so that every kernel is written once.
//
// W is 4, 8 or 16 floats by instruction set (KOALA_LEVEL 0 portable, 1 AVX2, 2 AVX-512, 3 AVX-512 with BF16). A vector
// of doubles also has W lanes, in two registers. Files are compiled with -ffp-contract=off: a product and a sum are
// fused where `fma` is written and nowhere else, so the same element has the same bits in every code path.
#pragma once
#include <stdint.h>
#include <string.h>
#if KOALA_LEVEL >= 1
#include <immintrin.h>
#endif

namespace KOALA_NS {

#if KOALA_LEVEL >= 2
constexpr int W = 16;
#elif KOALA_LEVEL == 1
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef double vd __attribute__((vector_size(W * 8)));

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

/** The type that sums over elements of type T run in, and its vector. */
template <class T> struct Compute { typedef float type; };
template <> struct Compute<double> { typedef double type; };
template <class T> using compute_t = typename Compute<T>::type;
template <class C> struct VectorOf { typedef vf type; };
template <> struct VectorOf<double> { typedef vd type; };
template <class C> using vector_t = typename VectorOf<C>::type;
template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };

/** The loaded or stored image of a vector: any alignment, any type beneath. */
template <class V> struct __attribute__((packed, may_alias)) Unaligned { V v; };

template <class V> inline V read_bits(const void* p) { V v; memcpy(&v, p, sizeof v); return v; }
template <class V> inline void write_bits(void* p, V v) { memcpy(p, &v, sizeof v); }

// ---- scalars ----
inline float bits_to_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline uint32_t float_to_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
/** Rounds to nearest even; a NaN stays a NaN. */
inline bf16 to_bf16(float f) {
  uint32_t u = float_to_bits(f);
  if ((u & 0x7fffffff) > 0x7f800000) return {(uint16_t)(u >> 16 | 0x40)};
  return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
/** Through float32, rounded to odd there so that the double rounding is harmless. */
inline bf16 to_bf16(double d) {
  float f = (float)d;
  uint32_t u = float_to_bits(f);
  bool finite = (u & 0x7f800000) != 0x7f800000;
  if (finite && (double)f != d) {
    bool away = (f > 0) == ((double)f > d) && f != 0;
    if (away) u -= 1;
    u |= 1;
  }
  return to_bf16(bits_to_float(u));
}
inline float f16_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
  float value = (float)mantissa * 0x1p-24f;
  return sign ? -value : value;
}
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(bf16 x) { return bits_to_float((uint32_t)x.bits << 16); }
inline float widen(f16 x) { return f16_to_float(x.bits); }
template <class T, class C> struct Narrow { static T from(C x) { return (T)x; } };
template <class C> struct Narrow<bf16, C> { static bf16 from(C x) { return to_bf16(x); } };
template <class T, class C> inline T narrow(C x) { return Narrow<T, C>::from(x); }

// ---- vectors ----
inline vf splat(float x) {
#if KOALA_LEVEL >= 2
  return (vf)_mm512_set1_ps(x);
#elif KOALA_LEVEL == 1
  return (vf)_mm256_set1_ps(x);
#else
  return vf{x, x, x, x};
#endif
}
inline vd splat(double x) {
  vd v;
  for (int i = 0; i < W; i++) v[i] = x;
  return v;
}
/** a * b + c: one rounding where the processor has it. */
inline vf fma(vf a, vf b, vf c) {
#if KOALA_LEVEL >= 2
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif KOALA_LEVEL == 1
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
inline vd fma(vd a, vd b, vd c) { return a * b + c; }

inline vf load(const float* p) { return read_bits<vf>(p); }
inline vd load(const double* p) { return read_bits<vd>(p); }
inline vf load(const bf16* p) { return (vf)(__builtin_convertvector(read_bits<vh>(p), vu) << 16); }
inline vf load(const f16* p) {
#if KOALA_LEVEL >= 2
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif KOALA_LEVEL == 1
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  vf v;
  for (int i = 0; i < W; i++) v[i] = f16_to_float(p[i].bits);
  return v;
#endif
}
/** The bf16 bits of each lane, in the low half of a 32-bit lane; rounds to nearest even. */
inline vu bf16_bits(vf x) {
  vu u = (vu)x;
  vu rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  return (u & 0x7fffffff) > 0x7f800000 ? (u >> 16 | 0x40) : rounded;
}
inline vf round_to_bf16(vf x) { return (vf)(bf16_bits(x) << 16); }
inline void store(float* p, vf v) { write_bits(p, v); }
inline void store(double* p, vd v) { write_bits(p, v); }
inline void store(bf16* p, vf v) {
#if KOALA_LEVEL >= 3
  write_bits(p, _mm512_cvtneps_pbh((__m512)v));
#else
  write_bits(p, __builtin_convertvector(bf16_bits(v), vh));
#endif
}
/** The first n < W elements; the other lanes are 0. */
template <class T> inline vector_t<compute_t<T>> load_partial(const T* p, int n) {
  T buffer[W];
  memset(buffer, 0, sizeof buffer);
  memcpy(buffer, p, n * sizeof(T));
  return load(buffer);
}
template <class T, class V> inline void store_partial(T* p, V v, int n) {
  T buffer[W];
  store(buffer, v);
  memcpy(p, buffer, n * sizeof(T));
}
/** load and store of lanes [i, i+W) of a row of n elements, cut at its end. */
template <class T> inline vector_t<compute_t<T>> load_row(const T* p, int i, int n) { return i + W <= n ? load(p + i)
    : load_partial(p + i, n - i); }
template <class T, class V> inline void store_row(T* p, int i, int n, V v) { i + W <= n ? store(p + i, v)
    : store_partial(p + i, v, n - i); }

/** Sum of the lanes: halves are added to halves, always in this order. */
template <class C> inline C sum_lanes(vector_t<C> v) {
  C lanes[W];
  memcpy(lanes, &v, sizeof lanes);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}
template <class C> inline C max_lanes(vector_t<C> v) {
  C lanes[W];
  memcpy(lanes, &v, sizeof lanes);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}
inline vf max(vf a, vf b) { return a > b ? a : b; }
inline vd max(vd a, vd b) { return a > b ? a : b; }

/** Bit i is set where lane i of a comparison holds. */
inline uint32_t lane_bits(vi mask) {
#if KOALA_LEVEL >= 2
  return _mm512_movepi32_mask((__m512i)mask);
#elif KOALA_LEVEL == 1
  return _mm256_movemask_ps((__m256)mask);
#else
  uint32_t bits = 0;
  for (int i = 0; i < W; i++) bits |= (uint32_t)(mask[i] & 1) << i;
  return bits;
#endif
}

/** e^x within 2 ulp (Cephes' polynomial); exactly 0 below -87.33, infinite above 88.02, NaN for NaN. */
inline vf exp(vf x) {
  vf n = (x * 1.44269504f + 12582912.f) - 12582912.f;  // rounds to the nearest integer
  vf r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = fma(r, splat(1.9875691500e-4f), splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(r * r, p, r + 1.f);
  vf y = p * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
  y = x > 88.02f ? splat(__builtin_inff()) : y;
  return x < -87.33f ? vf{} : y;
}
inline vd exp(vd x) {
  for (int i = 0; i < W; i++) x[i] = __builtin_exp(x[i]);
  return x;
}

/** f(element) with a null element of the type that `type` names. */
template <class F> inline int32_t with_type(int32_t type, F&& f) {
  switch (type) {
    case 0: return f(float{});
    case 1: return f(bf16{});
    default: return f(double{});
  }
}

}  // namespace KOALA_NS
