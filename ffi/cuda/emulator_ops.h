// The primitives of gpu.h on the emulator; gpu.h says what each does.
#pragma once

// ---- numbers ----
inline float bits_to_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline uint32_t float_to_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
inline bf16 to_bf16(float f) {
  const uint32_t u = float_to_bits(f);
  if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline uint32_t to_bf16x2(float low, float high) { return to_bf16(low).bits | (uint32_t)to_bf16(high).bits << 16; }
/** Exact in double for all but sums of far apart exponents, whose bits below bf16 are then those of the larger one. */
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  auto half = [](uint32_t pair, int i) { return (double)bits_to_float(i ? pair & 0xffff0000u : pair << 16); };
  return to_bf16x2((float)(half(a, 0) * half(b, 0) + half(c, 0)), (float)(half(a, 1) * half(b, 1) + half(c, 1)));
}
inline uint32_t mul_bf16x2(uint32_t a, uint32_t b) { return fma_bf16x2(a, b, 0x80008000u); }
inline f16 to_f16(float f) {
  const uint32_t u = float_to_bits(f), size = u & 0x7fffffff, sign = u >> 16 & 0x8000;
  if (size > 0x7f800000) return {0x7fff};
  if (size >= 0x477ff000) return {(uint16_t)(sign | 0x7c00)};
  // Below 2^-14 the last place is 2^-24, as that of 0.5 is in float32.
  if (size < 0x38800000) return {(uint16_t)(sign | (float_to_bits(bits_to_float(size) + 0.5f) - 0x3f000000))};
  return {(uint16_t)(sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13)};
}
inline float f16_to_float(f16 h) {
  const uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, mantissa = h.bits & 1023;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float value = (float)mantissa * 0x1p-24f;
  return sign ? -value : value;
}
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline double cospi(double x) { return cos(x * 3.14159265358979323846); }
inline double sinpi(double x) { return sin(x * 3.14159265358979323846); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned places) {
  const uint64_t bytes = (uint64_t)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(bytes >> 8 * (places >> 4 * i & 7) & 0xff) << 8 * i;
  return r;
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
template <class T> inline T max(T a, T b) { return a > b ? a : b; }
template <class T> inline T min(T a, T b) { return a < b ? a : b; }

// ---- warps ----
template <class T> inline T shfl(T v, int lane) {
  return emulator::shown<T>(emulator::show("shfl", v), (unsigned)lane);
}
template <class T> inline T shfl_xor(T v, int mask) {
  const unsigned lane = emulator::gpu->current->lane;
  return emulator::shown<T>(emulator::show("shfl_xor", v), lane ^ (unsigned)mask);
}
template <class T> inline T shfl_down(T v, int delta) {
  const unsigned lane = emulator::gpu->current->lane, from = lane + (unsigned)delta;
  return emulator::shown<T>(emulator::show("shfl_down", v), from < 32 ? from : lane);
}
inline uint32_t warp_ballot(bool condition) {
  const unsigned char* slots = emulator::show("warp_ballot", (int)condition);
  uint32_t bits = 0;
  for (unsigned lane = 0; lane < 32; lane++) bits |= (uint32_t)emulator::shown<int>(slots, lane) << lane;
  return bits;
}

// ---- memory ----
inline uint4 load_16(const void* p) {
  emulator::require_aligned("load_16 from", p);
  uint4 v;
  memcpy(&v, p, 16);
  return v;
}
inline void store_16(void* p, uint4 v) {
  emulator::require_aligned("store_16 to", p);
  memcpy(p, &v, 16);
}
inline void cp_async_16(void* shared, const void* from, bool valid) {
  emulator::require_aligned("cp_async_16 to", shared);
  emulator::require_aligned("cp_async_16 from", from);
  emulator::gpu->current->open.push_back({shared, from, valid});
}
inline void cp_async_commit() {
  emulator::Fiber* f = emulator::gpu->current;
  f->groups.push_back(std::move(f->open));
  f->open.clear();
}
template <int groups> inline void cp_async_wait() {
  emulator::Fiber* f = emulator::gpu->current;
  while (f->groups.size() > (size_t)groups) {
    for (const emulator::Copy& copy : f->groups.front()) {
      if (copy.valid) memcpy(copy.to, copy.from, 16);
      else memset(copy.to, 0, 16);
    }
    f->groups.erase(f->groups.begin());
  }
}

// ---- tensor cores ----
inline void ldmatrix_x4(uint32_t r[4], const void* row) {
  emulator::require_aligned("ldmatrix_x4 from", row);
  const unsigned lane = emulator::gpu->current->lane;
  const unsigned char* slots = emulator::show("ldmatrix_x4", (const char*)row);
  for (unsigned i = 0; i < 4; i++) memcpy(&r[i], emulator::shown<const char*>(slots, 8 * i + lane / 4) + 4 * (lane % 4), 4);
}
inline void ldmatrix_x4_trans(uint32_t r[4], const void* row) {
  emulator::require_aligned("ldmatrix_x4_trans from", row);
  const unsigned lane = emulator::gpu->current->lane;
  const unsigned char* slots = emulator::show("ldmatrix_x4_trans", (const char*)row);
  for (unsigned i = 0; i < 4; i++) {
    uint16_t pair[2];
    for (unsigned j = 0; j < 2; j++)
      memcpy(&pair[j], emulator::shown<const char*>(slots, 8 * i + 2 * (lane % 4) + j) + 2 * (lane / 4), 2);
    memcpy(&r[i], pair, 4);
  }
}
inline void mma_16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  struct Operands { uint32_t a[4], b[2]; };
  const Operands own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const unsigned lane = emulator::gpu->current->lane, g = lane / 4, t = lane % 4;
  const Operands* slots = (const Operands*)emulator::show("mma_16816", own);
  auto lane_of = [&](unsigned l) { return (const Operands*)((const char*)slots + emulator::SLOT * l); };
  auto half = [](uint32_t pair, unsigned odd) { return bits_to_float(odd ? pair & 0xffff0000u : pair << 16); };
  for (unsigned i = 0; i < 4; i++) {
    const unsigned low = i / 2, column = 2 * t + i % 2;
    float sum = c[i];
    for (unsigned k = 0; k < 16; k++) {
      const unsigned high = k / 8, pair = k % 8 / 2, odd = k % 2;
      sum += half(lane_of(4 * g + pair)->a[low + 2 * high], odd) * half(lane_of(4 * column + pair)->b[high], odd);
    }
    c[i] = sum;
  }
}
