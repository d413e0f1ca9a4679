// Flat arrays: eight elements a thread, 16-bit patterns, and roundings that no compiler fuses away.
#pragma once
#include "kernels.cuh"

/** Whether all pointers can be read 16 bytes at a time. */
template <class... P> inline bool all_aligned(const P*... pointers) { return (is_aligned(pointers) && ...); }

/** The first of this thread's eight elements. */
DEVICE int64_t flat_index() { return ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8; }

/** Bit patterns [i, i + 8) of n; zeros beyond. */
DEVICE void load_some_bits(uint16_t v[8], const uint16_t* p, int64_t i, int64_t n, bool wide) {
  if (wide && i + 8 <= n) {
    const uint4 u = load_16(p + i);
    const uint32_t pairs[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int j = 0; j < 4; j++) v[2 * j] = (uint16_t)pairs[j], v[2 * j + 1] = (uint16_t)(pairs[j] >> 16);
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = i + j < n ? p[i + j] : (uint16_t)0;
}
DEVICE void store_some_bits(uint16_t* p, const uint16_t v[8], int64_t i, int64_t n, bool wide) {
  if (wide && i + 8 <= n) {
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; j++) pairs[j] = v[2 * j] | (uint32_t)v[2 * j + 1] << 16;
    return store_16(p + i, {pairs[0], pairs[1], pairs[2], pairs[3]});
  }
#pragma unroll
  for (int j = 0; j < 8; j++)
    if (i + j < n) p[i + j] = v[j];
}

#if !defined(KOALA_EMULATOR)
DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float root_rn(float a) { return __fsqrt_rn(a); }
#else
DEVICE float add_rn(float a, float b) { return a + b; }
DEVICE float mul_rn(float a, float b) { return a * b; }
DEVICE float div_rn(float a, float b) { return a / b; }
DEVICE float fma_rn(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE float root_rn(float a) { return sqrtf(a); }
#endif
DEVICE double add_rn(double a, double b) { return a + b; }
DEVICE double mul_rn(double a, double b) { return a * b; }
DEVICE double div_rn(double a, double b) { return a / b; }
DEVICE double fma_rn(double a, double b, double c) { return fma(a, b, c); }
DEVICE double root_rn(double a) { return sqrt(a); }
