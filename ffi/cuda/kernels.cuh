// What kernels share: numbers of every element type, sums in a fixed order, eight elements at a time, checked indices.
//
// Sums over a row run in this order whatever the row's place: thread by thread over its own elements, then lanes by
// halves (shfl_xor 16, 8, 4, 2, 1), then warps in ascending order. Every thread gets the same bits.
#pragma once
#include "device.cuh"

/** The type that sums over elements of type T run in. */
template <class T> struct Compute { typedef float type; };
template <> struct Compute<double> { typedef double type; };
template <class T> using compute_t = typename Compute<T>::type;
template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };

// ---- numbers ----
DEVICE float widen(float x) { return x; }
DEVICE double widen(double x) { return x; }
DEVICE float widen(bf16 x) { return bits_to_float((uint32_t)x.bits << 16); }
DEVICE float widen(f16 x) { return f16_to_float(x); }

/** Through float32, rounded to odd there so that the double rounding is harmless. */
DEVICE bf16 to_bf16(double d) {
  const float f = (float)d;
  uint32_t u = float_to_bits(f);
  const bool finite = (u & 0x7f800000) != 0x7f800000;
  if (finite && (double)f != d) {
    const bool away = (f > 0) == ((double)f > d) && f != 0;
    u = (away ? u - 1 : u) | 1;
  }
  return to_bf16(bits_to_float(u));
}
template <class T, class C> struct Narrow { DEVICE static T from(C x) { return (T)x; } };
template <class C> struct Narrow<bf16, C> { DEVICE static bf16 from(C x) { return to_bf16(x); } };
/** Rounds to nearest even. */
template <class T, class C> DEVICE T narrow(C x) { return Narrow<T, C>::from(x); }

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE float square_root(float x) { return sqrtf(x); }
DEVICE double square_root(double x) { return sqrt(x); }
template <class T> DEVICE T larger(T a, T b) { return a > b ? a : b; }

// ---- sums and maxima ----
template <class T> DEVICE T warp_sum(T v) {
#pragma unroll
  for (int mask = 16; mask; mask /= 2) v += shfl_xor(v, mask);
  return v;
}
template <class T> DEVICE T warp_max(T v) {
#pragma unroll
  for (int mask = 16; mask; mask /= 2) v = larger(v, shfl_xor(v, mask));
  return v;
}
/** Sum over a block of WARPS warps. All threads take part; shared memory may be used again when it returns. */
template <int WARPS, class T> DEVICE T block_sum(T v) {
  SHARED(T, part, WARPS);
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  T sum = 0;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += part[w];
  __syncthreads();
  return sum;
}
template <int WARPS, class T> DEVICE T block_max(T v) {
  SHARED(T, part, WARPS);
  v = warp_max(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  T most = part[0];
#pragma unroll
  for (int w = 1; w < WARPS; w++) most = larger(most, part[w]);
  __syncthreads();
  return most;
}

// ---- eight elements, at a 16-byte aligned address ----
DEVICE void load_8(float v[8], const bf16* p) {
  const uint4 u = load_16(p);
  const uint32_t pairs[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = bits_to_float(pairs[i] << 16);
    v[2 * i + 1] = bits_to_float(pairs[i] & 0xffff0000u);
  }
}
DEVICE void load_8(float v[8], const float* p) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint4 u = load_16(p + 4 * i);
    v[4 * i] = bits_to_float(u.x), v[4 * i + 1] = bits_to_float(u.y);
    v[4 * i + 2] = bits_to_float(u.z), v[4 * i + 3] = bits_to_float(u.w);
  }
}
DEVICE void store_8(bf16* p, const float v[8]) {
  store_16(p, {to_bf16x2(v[0], v[1]), to_bf16x2(v[2], v[3]), to_bf16x2(v[4], v[5]), to_bf16x2(v[6], v[7])});
}
DEVICE void store_8(float* p, const float v[8]) {
#pragma unroll
  for (int i = 0; i < 2; i++)
    store_16(p + 4 * i, {float_to_bits(v[4 * i]), float_to_bits(v[4 * i + 1]), float_to_bits(v[4 * i + 2]),
                            float_to_bits(v[4 * i + 3])});
}
HOST_DEVICE bool is_aligned(const void* p) { return (uintptr_t)p % 16 == 0; }

/** Elements [i, i + 8) of n; zeros beyond. `wide` says that they may be read together (aligned, and i a multiple of 8). */
template <class T> DEVICE void load_some(compute_t<T> v[8], const T* p, int64_t i, int64_t n, bool wide) {
  if constexpr (!Same<T, double>::value && !Same<T, f16>::value)
    if (wide && i + 8 <= n) return load_8(v, p + i);
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = i + j < n ? widen(p[i + j]) : compute_t<T>(0);
}
template <class T, class C> DEVICE void store_some(T* p, const C v[8], int64_t i, int64_t n, bool wide) {
  if constexpr (!Same<C, double>::value && !Same<T, double>::value)
    if (wide && i + 8 <= n) return store_8(p + i, v);
#pragma unroll
  for (int j = 0; j < 8; j++)
    if (i + j < n) p[i + j] = narrow<T>(v[j]);
}

// ---- indices that only kernels see ----
/** What a kernel writes to faults->at[kind]. */
DEVICE uint64_t fault_of(int row, int value) { return (uint64_t)(uint32_t)(row + 1) << 32 | (uint32_t)value; }
/** Whether 0 <= value < limit; if not, the host will say so. */
DEVICE bool check_index(Faults* faults, FaultKind kind, int row, int value, int limit) {
  if (value >= 0 && value < limit) return true;
  faults->at[kind] = fault_of(row, value);
  return false;
}
