// The inner kernel of every matrix product: a few rows times one panel of 32 columns. koala_matmul and koala_attention
// share it, because the cache keeps keys and values as panels too.
//
// A panel of element type B over k = 0..K-1 is, for each k, 32 elements side by side; for bf16, for each pair (k, k+1),
// 32 pairs side by side (a pair is one 32-bit lane, k in the low half), so K counts up to an even number.
// Every output is ONE chain of fused sums in ascending k, whatever the number of rows: that is what makes results
// independent of the batch. A chain may stop and go on from its stored value (`resume`).
#pragma once
#include "simd.h"

namespace KOALA_NS {

constexpr int PANEL = 32;

/** How a row is held while it is multiplied with panels of B: bf16 where the processor multiplies bf16 pairs. */
template <class C, class B> struct Operand { typedef C type; };
#if KOALA_LEVEL >= 3
template <> struct Operand<float, bf16> { typedef bf16 type; };
#endif
template <class C, class B> using operand_t = typename Operand<C, B>::type;

/** Rows of the kernel that fit the registers. */
#if KOALA_LEVEL >= 2
constexpr int TILE_ROWS = 8;
#elif KOALA_LEVEL == 1
constexpr int TILE_ROWS = 5;
#else
constexpr int TILE_ROWS = 4;
#endif

template <class B> constexpr int padded_k(int K) { return Same<B, bf16>::value ? (K + 1) & ~1 : K; }

/** a[0..padded) = the K elements of x as an operand, rounded to B where that is bf16, zero behind. */
template <class C, class B, class T>
inline void make_operand(operand_t<C, B>* a, const T* x, int K, int padded) {
  typedef operand_t<C, B> A;
  int k = 0;
  for (; k < K; k += W) {
    vector_t<compute_t<T>> v = load_row(x, k, K);
    if constexpr (Same<A, bf16>::value) store_row(a, k, K, v);
    else if constexpr (Same<C, float>::value) store_row(a, k, K, Same<B, bf16>::value ? round_to_bf16(v) : v);
    else if constexpr (Same<B, bf16>::value)
      for (int i = k; i < K && i < k + W; i++) a[i] = widen(to_bf16(widen(x[i])));
    else store_row(a, k, K, __builtin_convertvector(v, vd));
  }
  for (k = K; k < padded; k++) a[k] = A{};
}

/** What to fetch while the kernel runs: `lines` cache lines from `at` on. */
struct Prefetch {
  const char* at;
  int lines;
  inline void step() {
    if (lines <= 0) return;
    __builtin_prefetch(at, 0, 2);
    at += 64;
    lines--;
  }
};

/** One k (bf16: one pair) of the panel's columns: loaded once and multiplied with every row. */
template <class C, class B, int NV> struct Columns {
  vector_t<C> v[NV];
  inline explicit Columns(const B* row) {
    for (int i = 0; i < NV; i++) {
      if constexpr (Same<B, C>::value) v[i] = load(row + i * W);
      else v[i] = __builtin_convertvector(load(row + i * W), vd);
    }
  }
  inline void add(vector_t<C>* sum, const C* a) const {
    const vector_t<C> x = splat(*a);
    for (int i = 0; i < NV; i++) sum[i] = fma(x, v[i], sum[i]);
  }
};
template <class C, int NV> struct Columns<C, bf16, NV> {
#if KOALA_LEVEL >= 3
  static constexpr bool paired = Same<C, float>::value;
#else
  static constexpr bool paired = false;
#endif
  vu pair[NV];
  inline explicit Columns(const bf16* row) {
    for (int i = 0; i < NV; i++) pair[i] = read_bits<vu>(row + i * 2 * W);
  }
  inline void add(vector_t<C>* sum, const operand_t<C, bf16>* a) const {
#if KOALA_LEVEL >= 3
    if constexpr (paired) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(read_bits<int>(a));
      for (int i = 0; i < NV; i++) sum[i] = (vf)_mm512_dpbf16_ps((__m512)sum[i], x, (__m512bh)pair[i]);
    }
#endif
    if constexpr (!paired)
      for (int i = 0; i < NV; i++) {
        vf even = (vf)(pair[i] << 16), odd = (vf)(pair[i] & 0xffff0000u);
        if constexpr (Same<C, float>::value) sum[i] = fma(splat(a[1]), odd, fma(splat(a[0]), even, sum[i]));
        else sum[i] = fma(splat(a[1]), __builtin_convertvector(odd, vd), fma(splat(a[0]),
            __builtin_convertvector(even, vd), sum[i]));
      }
  }
};

/** MR rows times NV vectors of the panel's columns; b points at the first of them. */
template <class C, class B, int MR, int NV>
inline void tile(const operand_t<C, B>* a, size_t lda, const B* b, int K, C* c, size_t ldc, bool resume,
    Prefetch prefetch) {
  constexpr int step = Same<B, bf16>::value ? 2 : 1;
  vector_t<C> sum[MR][NV];
  for (int i = 0; i < MR; i++)
    for (int v = 0; v < NV; v++) sum[i][v] = resume ? load(c + i * ldc + v * W) : vector_t<C>{};
  for (int k = 0; k < K; k += step) {
    prefetch.step();
    const Columns<C, B, NV> columns(b + (size_t)k * PANEL);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) columns.add(sum[i], a + i * lda + k);
  }
  for (int i = 0; i < MR; i++)
    for (int v = 0; v < NV; v++) store(c + i * ldc + v * W, sum[i][v]);
}

/** MR rows times a whole panel, NV vectors at a time. */
template <class C, class B, int MR, int NV>
inline void tile_panel(const operand_t<C, B>* a, size_t lda, const B* b, int K, C* c, size_t ldc, bool resume,
    Prefetch prefetch) {
  constexpr int step = Same<B, bf16>::value ? 2 : 1;
  for (int v = 0; v < PANEL / W; v += NV) {
    tile<C, B, MR, NV>(a, lda, b + v * W * step, K, c + v * W, ldc, resume, prefetch);
    prefetch.lines = 0;
  }
}

/** Panels that one row is multiplied with at once: one panel alone would wait for the latency of its few chains. */
#if KOALA_LEVEL >= 2
constexpr int WIDE = 4;
#elif KOALA_LEVEL == 1
constexpr int WIDE = 2;
#else
constexpr int WIDE = 1;
#endif

/** One row times the WIDE panels b; c gets 32 columns for each, side by side. The chains are those of multiply_panel,
 *  bit for bit. */
template <class C, class B>
__attribute__((noinline)) void multiply_wide(const operand_t<C, B>* a, const B* const* b, int K, C* c, bool resume) {
  constexpr int NV = PANEL / W, step = Same<B, bf16>::value ? 2 : 1;
  vector_t<C> sum[WIDE][NV];
  for (int p = 0; p < WIDE; p++)
    for (int v = 0; v < NV; v++) sum[p][v] = resume ? load(c + p * PANEL + v * W) : vector_t<C>{};
  for (int k = 0; k < K; k += step)
    for (int p = 0; p < WIDE; p++) Columns<C, B, NV>(b[p] + (size_t)k * PANEL).add(sum[p], a + k);
  for (int p = 0; p < WIDE; p++)
    for (int v = 0; v < NV; v++) store(c + p * PANEL + v * W, sum[p][v]);
}

/** c[i][0..32) = sum_k a[i][k] * b[k][0..32) for i < rows; goes on from c where `resume`. Not inlined: it is eight
 *  kernels, and a copy of them for each caller doubles the time to build. */
template <class C, class B>
__attribute__((noinline)) void multiply_panel(int rows, const operand_t<C, B>* a, size_t lda, const B* b, int K, C* c,
    size_t ldc, bool resume,
                           Prefetch prefetch = {nullptr, 0}) {
  constexpr int columns = PANEL / W;
  if constexpr (Same<C, double>::value) {
    for (int i = 0; i < rows; i++) tile_panel<C, B, 1, columns / 2 ? columns / 2 : 1>(a + i * lda, lda, b, K,
        c + i * ldc, ldc, resume, prefetch);
  } else {
    constexpr int pair = 2;
    while (rows > 0) {
      // Equal parts: 8 rows in a kernel of at most 5 go as 4 and 4.
      int parts = (rows + TILE_ROWS - 1) / TILE_ROWS, part = (rows + parts - 1) / parts;
      switch (part) {
        case 1: tile_panel<C, B, 1, columns < 4 ? columns : 4>(a, lda, b, K, c, ldc, resume, prefetch); break;
        case 2: tile_panel<C, B, 2, pair>(a, lda, b, K, c, ldc, resume, prefetch); break;
        case 3: tile_panel<C, B, 3, pair>(a, lda, b, K, c, ldc, resume, prefetch); break;
        case 4: tile_panel<C, B, 4, pair>(a, lda, b, K, c, ldc, resume, prefetch); break;
#if KOALA_LEVEL >= 1
        case 5: tile_panel<C, B, 5, pair>(a, lda, b, K, c, ldc, resume, prefetch); break;
#endif
#if KOALA_LEVEL >= 2
        case 6: tile_panel<C, B, 6, pair>(a, lda, b, K, c, ldc, resume, prefetch); break;
        case 7: tile_panel<C, B, 7, pair>(a, lda, b, K, c, ldc, resume, prefetch); break;
        case 8: tile_panel<C, B, 8, pair>(a, lda, b, K, c, ldc, resume, prefetch); break;
#endif
      }
      rows -= part;
      a += part * lda;
      c += part * ldc;
      prefetch.lines = 0;
    }
  }
}

}  // namespace KOALA_NS
