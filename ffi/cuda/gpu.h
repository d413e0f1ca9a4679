// The few primitives that kernels are written in: PTX under nvcc, fibers on the processor under g++ (KOALA_EMULATOR).
//
// Kernels use these, plain C++ and nothing else of CUDA, so the same source runs in CI without a GPU:
//   KERNEL(threads) k_name(...)        a kernel whose blocks have at most `threads` threads; a second number is the
//                                      blocks that must fit a multiprocessor
//   DEVICE                             a function that kernels call
//   SHARED(T, name, n)                 T name[n] in shared memory; DYNAMIC_SHARED(T, name): as much as LAUNCH says
//   LAUNCH(kernel, grid, block, shared_bytes, stream, ...)   a kernel with commas in its name stands in parentheses
//   POINTERS(a, b, ...)                in a struct that kernels take: its pointers, so that the emulator checks where they point
//   __syncthreads(), __syncwarp(), shfl, shfl_xor, shfl_down, warp_ballot   all 32 lanes of a warp take part, always
//   load_16, store_16, cp_async_16, cp_async_commit, cp_async_wait<n>, ldmatrix_x4(_trans), mma_16816
// Addresses of the last line are 16-byte aligned: the emulator stops a kernel that breaks this, as the GPU would.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
struct f8 { uint8_t bits; };

#if defined(KOALA_EMULATOR)
#include "emulator.h"
#else
#include <cuda_runtime.h>

#define DEVICE __device__ __forceinline__
#define HOST_DEVICE __host__ __device__ __forceinline__
#define KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define DYNAMIC_SHARED(T, name)                                    \
  extern __shared__ __align__(16) unsigned char dynamic_shared[];  \
  T* const name = reinterpret_cast<T*>(dynamic_shared)
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define POINTERS(...)

// ---- numbers ----
DEVICE float bits_to_float(uint32_t u) { return __uint_as_float(u); }
DEVICE uint32_t float_to_bits(float f) { return __float_as_uint(f); }
DEVICE bf16 to_bf16(float f) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
  return r;
}
/** `low` in the low half. */
DEVICE uint32_t to_bf16x2(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
/** a b + c of both halves, each rounded once. */
DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
/** Products of two pairs of bf16, rounded to nearest even. */
DEVICE uint32_t mul_bf16x2(uint32_t a, uint32_t b) { return fma_bf16x2(a, b, 0x80008000u); }
DEVICE f16 to_f16(float f) {
  f16 r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
  return r;
}
DEVICE float f16_to_float(f16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
  return f;
}

// ---- warps ----
template <class T> DEVICE T shfl(T v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
template <class T> DEVICE T shfl_xor(T v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
/** The value `delta` lanes further; the own one where there is none. */
template <class T> DEVICE T shfl_down(T v, int delta) { return __shfl_down_sync(0xffffffffu, v, delta); }
/** Bit i is set where lane i's condition holds. */
DEVICE uint32_t warp_ballot(bool condition) { return __ballot_sync(0xffffffffu, condition); }

// ---- memory ----
DEVICE uint4 load_16(const void* p) { return *reinterpret_cast<const uint4*>(p); }
DEVICE void store_16(void* p, uint4 v) { *reinterpret_cast<uint4*>(p) = v; }
DEVICE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
/** Starts copying 16 bytes to shared memory; zeros, if not `valid` (then `from` is not read, but still an address). */
DEVICE void cp_async_16(void* shared, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from), "r"(bytes));
}
/** Ends a group of copies. */
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;"); }
/** Returns when all but the last `groups` groups of this thread have come. Others see them after __syncthreads(). */
template <int groups> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory"); }

// ---- tensor cores ----
/** Four 8x8 matrices of 16-bit elements; lane 8i + j names row j of matrix i, and gets of each matrix the elements
 *  (row lane / 4, columns 2 (lane % 4) and the next); `trans` exchanges rows and columns. */
DEVICE void ldmatrix_x4(uint32_t r[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t r[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
/** c += a b in float32: a is 16x16 bf16 by rows, b is 16x8 by columns. With g = lane / 4 and t = lane % 4:
 *  c[i] is row g + 8 (i / 2), column 2t + i % 2; a[i] holds row g + 8 (i % 2), columns 2t + 8 (i / 2) and the next;
 *  b0 and b1 hold rows 2t and 2t + 8 and the next of column g. */
DEVICE void mma_16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
