// Quantises rows into the layout of quantised.cuh, by the rules of koala.h: float32 arithmetic, each operation rounded once,
// so that the blocks are those of the CPU. A block that holds a NaN or an infinity, or whose scale is too large for f16,
// gets a NaN for a scale.
// budget k_quantise: registers 96, shared 0
#pragma once
#include "flat.cuh"
#include "quantised.cuh"

/** d of a block, and what its elements are multiplied with (0 where 1 / d is no number). */
struct BlockScale {
  float d, inverse;
};
template <int BITS> DEVICE BlockScale scale_of(const float (&w)[QUANT_K]) {
  float most = 0, at = 0, strange = 0;
#pragma unroll
  for (int i = 0; i < QUANT_K; i++) {
    const float size = w[i] < 0 ? -w[i] : w[i];
    if (size > most) most = size, at = w[i];
    strange += w[i] - w[i];  // NaN of what is not finite
  }
  const float d = BITS == 8 ? div_rn(most, 127.f) : div_rn(at, -8.f), inverse = div_rn(1.f, d);
  return {strange == 0 ? d : strange, inverse - inverse == 0 ? inverse : 0};
}

/** As roundf: halves away from zero. */
DEVICE int round_half_away(float x) {
  const int whole = (int)x;
  const float rest = x - (float)whole;
  return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/** Stores the q of 32 elements. */
template <int BITS> DEVICE void store_block(unsigned char* to, const float (&w)[QUANT_K], float inverse) {
  uint32_t words[BITS] = {};
#pragma unroll
  for (int k = 0; k < QUANT_K; k++) {
    const Place p = place_of(k);
    const float x = mul_rn(w[k], inverse);
    if constexpr (BITS == 8) {
      words[2 * p.thread + p.pair / 2] |= (uint32_t)(round_half_away(x) + 128) << (p.pair % 2 * 16 + p.odd * 8);
    } else {
      const int q = (int)add_rn(x, 8.5f);
      words[p.thread] |= (uint32_t)(q < 15 ? q : 15) << (4 * p.pair + 16 * p.odd);
    }
  }
#pragma unroll
  for (int i = 0; i < BITS; i += 4) store_16(to + 4 * i, {words[i], words[i + 1], words[i + 2], words[i + 3]});
}

/** A thread quantises the 32 elements of a block of a row; the grid is (blocks of a row, rows). `row` is the first one's place. */
template <int BITS, class S>
KERNEL(128) k_quantise(unsigned char* packed, f16* scales, const S* weight, int N, int K, int row, int R, bool wide) {
  const int block = blockIdx.x * 128 + threadIdx.x;
  if (block >= K / QUANT_K) return;
  for (int r = blockIdx.y; r < R; r += gridDim.y) {
    float w[QUANT_K];
#pragma unroll
    for (int i = 0; i < QUANT_K; i += 8) {
      compute_t<S> v[8];
      load_some(v, weight + (int64_t)r * K, (int64_t)block * QUANT_K + i, K, wide);
#pragma unroll
      for (int j = 0; j < 8; j++) w[i + j] = (float)v[j];
    }
    const BlockScale scale = scale_of<BITS>(w);
    f16 held = to_f16(scale.d);
    if ((held.bits & 0x7c00) == 0x7c00) {
      held = {0x7e00};
#pragma unroll
      for (int i = 0; i < QUANT_K; i++) w[i] = 0;
    }
    store_block<BITS>(packed + ((int64_t)(row + r) * K + block * QUANT_K) * BITS / 8, w, scale.inverse);
    scales[(int64_t)block * scale_stride(N) + row + r] = held;
  }
}

/** Rows [row, row + R), from memory of the device. */
template <int BITS, class S>
void quantise_rows(koala_device* dev, void* packed, const S* weight, int N, int K, int row, int R) {
  LAUNCH((k_quantise<BITS, S>), dim3(blocks_of(K / QUANT_K, 128), R < 65535 ? R : 65535), 128, 0, dev->stream,
      (unsigned char*)packed, scales_of<BITS>(packed, N, K), weight, N, K, row, R, is_aligned(weight));
}
