// Matrix products y = x w^T from weights that were packed once into panels of 32 rows.
//
// Packed [N,K]: panel after panel (panel n/32 holds the columns n of y), inside a panel as tile.h says. Rows beyond N
// and an odd last k are zero. Threads take runs of panels; within a run, blocks of x rows stay in the second-level
// cache while panels stream by, and each panel is used for all rows of the block before the next one.
#include "device.h"
#include "tile.h"
#include "transpose.h"

namespace KOALA_NS {

namespace {

constexpr int BLOCK_ROWS = 192;   // rows of x that share one pass over the panels
constexpr int BLOCK_K = 3072;     // longest k range of one pass: 8 rows of operand stay in the first-level cache
constexpr int PACK_AHEAD = 512;   // bytes of a row that packing fetches ahead
constexpr int64_t SMALL = 32768;  // elements of x that each thread rather converts itself than waits for

struct Sizes {
  int T, N, K, accumulate;
};

/** y[0..n) of one row from the sums c, with bias and the old y where asked. */
template <class C, class T>
inline void finish_row(T* y, const C* c, const T* bias, int n, bool accumulate) {
  for (int i = 0; i < n; i += W) {
    vector_t<C> v = load(c + i);
    if (bias) v += load_row(bias, i, n);
    if (accumulate) v += load_row(y, i, n);
    store_row(y, i, n, v);
  }
}

/** One block of rows times panels [begin, end). `a` are all operands; `sums` has room for BLOCK_ROWS x 32. */
template <class C, class B, class T>
void multiply_block(T* y, const operand_t<C, B>* a, size_t lda, const B* packed, const T* bias, const Sizes& s,
    int row, int rows, int begin, int end, C* sums) {
  const int K = padded_k<B>(s.K);
  const int k_blocks = (K + BLOCK_K - 1) / BLOCK_K, k_step = ((K + k_blocks - 1) / k_blocks + 63) & ~63;
  const int passes = (rows + TILE_ROWS - 1) / TILE_ROWS, pass_rows = (rows + passes - 1) / passes;
  for (int panel = begin; panel < end; panel++) {
    const int column = panel * PANEL, columns = s.N - column < PANEL ? s.N - column : PANEL;
    for (int k = 0; k < K; k += k_step) {
      const int depth = K - k < k_step ? K - k : k_step;
      const B* b = packed + ((size_t)panel * K + k) * PANEL;
      // While the passes of this panel run, fetch what follows it in memory.
      const char* next = (const char*)(b + (size_t)depth * PANEL);
      const int lines = passes > 1 ? (int)((size_t)depth * PANEL * sizeof(B) / 64)
          : 0, share = (lines + passes - 1) / passes;
      for (int i = 0, pass = 0; i < rows; i += pass_rows, pass++) {
        const int n = rows - i < pass_rows ? rows - i : pass_rows;
        const int fetched = pass * share, fetch = lines - fetched < share ? lines - fetched : share;
        multiply_panel<C, B>(n, a + (size_t)(row + i) * lda + k, lda, b, depth, sums + i * PANEL, PANEL, k > 0,
            {next + (size_t)fetched * 64, fetch});
        if (k + k_step < K) continue;
        for (int j = i; j < i + n; j++)
          finish_row(y + (size_t)(row + j) * s.N + column, sums + j * PANEL, bias ? bias + column : nullptr, columns,
              s.accumulate);
      }
    }
  }
}

template <class C, class B, class T>
int32_t multiply(koala_device* dev, T* y, const T* x, const B* packed, const T* bias, Sizes s) {
  typedef operand_t<C, B> A;
  const int K = padded_k<B>(s.K), panels = (s.N + PANEL - 1) / PANEL;
  const bool direct = Same<A, T>::value && K == s.K && (Same<B, bf16>::value ? Same<A, bf16>::value : true);
  const size_t lda = direct ? s.K : K + 32;  // off powers of two: 8 rows at a distance of 4096 bytes share one cache set
  const bool small = (int64_t)s.T * K <= SMALL, wide = (double)s.N * K * (s.T + 8) > 400000;
  const size_t operand_bytes = direct ? 0 : ((size_t)s.T * lda * sizeof(A) + 63) & ~(size_t)63;
  if (reserve(dev, small ? 0 : operand_bytes, (small ? operand_bytes
      : 0) + BLOCK_ROWS * PANEL * sizeof(C))) return -1;
  if (!direct && !small)
    parallel_for(&dev->pool, wide, s.T, 1 + s.T / (dev->pool.threads * 4), [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) make_operand<C, B>((A*)dev->shared.data + t * lda, x + t * s.K, s.K, K);
    });
  Counter counter;
  parallel(&dev->pool, wide && panels > 1, [&](int thread) {
    C* sums = (C*)dev->local[thread].data;
    const A* a = (const A*)x;
    if (!direct) {
      A* own = small ? (A*)(sums + BLOCK_ROWS * PANEL) : (A*)dev->shared.data;
      for (int t = 0; small && t < s.T; t++) make_operand<C, B>(own + t * lda, x + (size_t)t * s.K, s.K, K);
      a = own;
    }
    for (int64_t begin, end; counter.take_share(panels, 3 * dev->pool.threads, &begin, &end);)
      for (int row = 0; row < s.T; row += BLOCK_ROWS)
        multiply_block<C, B, T>(y, a, lda, packed, bias, s, row, s.T - row < BLOCK_ROWS ? s.T - row : BLOCK_ROWS,
            (int)begin, (int)end, sums);
  });
  return 0;
}

/** Element k of a packed panel row n. */
template <class B> inline size_t packed_index(int n, int k) {
  if (Same<B, bf16>::value) return (size_t)(k / 2) * (2 * PANEL) + (n % PANEL) * 2 + (k & 1);
  return (size_t)k * PANEL + n % PANEL;
}

/** Rows [n, n + rows), elements [k0, k1), one by one. */
template <class B, class S>
void pack_elements(B* out, const S* source, int K, int n, int rows, int k0, int k1) {
  for (int i = 0; i < rows; i++)
    for (int k = k0; k < k1; k++) {
      if constexpr (Same<B, S>::value) out[packed_index<B>(n + i, k)] = source[(size_t)i * K + k];
      else out[packed_index<B>(n + i, k)] = narrow<B>(widen(source[(size_t)i * K + k]));
    }
}

/** Lanes of two vectors side by side: the even ones and the odd ones. */
struct Pairs {
  uint32_t even[W], odd[W];
  constexpr Pairs() : even(), odd() {
    for (int i = 0; i < W; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
  }
};

/** W lanes of 32 bits that go into a panel side by side in k: W elements, or W pairs of bf16. */
template <class B, class S> inline vu lanes_of(const S* p) {
  if constexpr (Same<B, float>::value) return (vu)load(p);
  else if constexpr (Same<S, bf16>::value) return read_bits<vu>(p);
  else {
    static constexpr Pairs lanes;
    const vu a = (vu)load(p), b = (vu)load(p + W);
    const vu even = __builtin_shuffle(a, b, read_bits<vu>(lanes.even)), odd = __builtin_shuffle(a, b,
        read_bits<vu>(lanes.odd));
    return bf16_bits((vf)even) | bf16_bits((vf)odd) << 16;
  }
}

/** W rows from n on, elements [0, K): blocks of W x W lanes are transposed in registers. */
template <class B, class S> void pack_rows(B* out, const S* source, int K, int n) {
  constexpr int step = W * (Same<B, bf16>::value ? 2 : 1);
  int k = 0;
  for (; k + step <= K; k += step) {
    vu block[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) {
      const S* row = source + (size_t)i * K + k;
      // The rows are too many streams for the processor's own prefetching.
      for (int line = 0; line < step * (int)sizeof(S); line += 64)
        __builtin_prefetch((const char*)row + PACK_AHEAD + line);
      block[i] = lanes_of<B>(row);
    }
    transpose_block(block);
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) write_bits((char*)(out + (size_t)k * PANEL) + ((size_t)i * PANEL + n % PANEL) * 4,
        block[i]);
  }
  pack_elements(out, source, K, n, W, k, K);
}

template <class B, class S>
void pack(koala_device* dev, B* packed, const S* weight, int K, int row, int R) {
  // f16 to f32 element by element: vectors would set the quiet bit of a signalling NaN.
  constexpr bool wide = Same<compute_t<S>, double>::value || Same<B, double>::value
      || (Same<S, f16>::value && Same<B, float>::value);
  const int padded = padded_k<B>(K), first = row / PANEL, panels = (row + R + PANEL - 1) / PANEL - first;
  parallel_for(&dev->pool, (int64_t)R * K > 20000, panels, 1 + panels / (dev->pool.threads * 8), [&](int64_t begin,
      int64_t end, int) {
    for (int64_t panel = first + begin; panel < first + end; panel++) {
      B* out = packed + (size_t)panel * padded * PANEL;
      const int from = panel * PANEL < row ? row : (int)panel * PANEL, to = (panel + 1) * PANEL < row + R
          ? (int)(panel + 1) * PANEL : row + R;
      for (int n = from; n < to;) {
        const S* source = weight + (size_t)(n - row) * K;
        if constexpr (!wide)
          if (n + W <= to && n % PANEL <= PANEL - W) {
            pack_rows(out, source, K, n);
            n += W;
            continue;
          }
        pack_elements(out, source, K, n++, 1, 0, K);
      }
    }
  });
}

template <class B>
void pack_from(koala_device* dev, B* packed, const void* weight, int K, int row, int R, int stype) {
  switch (stype) {
    case KOALA_F32: return pack(dev, packed, (const float*)weight, K, row, R);
    case KOALA_BF16: return pack(dev, packed, (const bf16*)weight, K, row, R);
    case KOALA_F16: return pack(dev, packed, (const f16*)weight, K, row, R);
    default: return pack(dev, packed, (const double*)weight, K, row, R);
  }
}

}  // namespace

int32_t matmul_pack(koala_device* dev, void* packed, const void* weight, int32_t, int32_t K, int32_t row, int32_t R,
    int32_t wtype, int32_t stype) {
  if (wtype == KOALA_F32) pack_from(dev, (float*)packed, weight, K, row, R, stype);
  else if (wtype == KOALA_BF16) pack_from(dev, (bf16*)packed, weight, K, row, R, stype);
  else pack_from(dev, (double*)packed, weight, K, row, R, stype);
  return 0;
}

int32_t matmul(koala_device* dev, void* y, const void* x, const void* packed, const void* bias, int32_t T, int32_t N,
    int32_t K, int32_t accumulate, int32_t wtype, int32_t dtype) {
  const Sizes sizes = {T, N, K, accumulate};
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    E* to = (E*)y;
    const E *from = (const E*)x, *add = (const E*)bias;
    if (wtype == KOALA_F32) return multiply<C>(dev, to, from, (const float*)packed, add, sizes);
    if (wtype == KOALA_BF16) return multiply<C>(dev, to, from, (const bf16*)packed, add, sizes);
    if constexpr (Same<C, double>::value) return multiply<C>(dev, to, from, (const double*)packed, add, sizes);
    return fail("koala_matmul: f64 weights need f64 activations, and these are %s.", type_name(dtype));
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_matmul_pack_bytes(koala_device* dev, double* bytes, int32_t N, int32_t K, int32_t wtype) {
  REQUIRE_POINTER("matmul_pack_bytes", dev);
  REQUIRE_POINTER("matmul_pack_bytes", bytes);
  REQUIRE_POSITIVE("matmul_pack_bytes", N);
  REQUIRE_POSITIVE("matmul_pack_bytes", K);
  REQUIRE_TYPE("matmul_pack_bytes", wtype);
  const int padded = wtype == KOALA_BF16 ? (K + 1) & ~1 : K;
  *bytes = (double)((N + 31) / 32 * 32) * padded * type_bytes(wtype);
  return 0;
}

int32_t koala_matmul_pack(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K, int32_t row,
    int32_t R, int32_t wtype, int32_t stype) {
  REQUIRE_POINTER("matmul_pack", dev);
  REQUIRE_POINTER("matmul_pack", packed);
  REQUIRE_POINTER("matmul_pack", weight);
  REQUIRE_POSITIVE("matmul_pack", N);
  REQUIRE_POSITIVE("matmul_pack", K);
  REQUIRE_SIZE("matmul_pack", R);
  REQUIRE_TYPE("matmul_pack", wtype);
  REQUIRE(is_float_type(stype) || stype == KOALA_F16,
      "koala_matmul_pack: stype is %d (%s); f32, bf16, f16 and f64 can be packed.", stype, type_name(stype));
  REQUIRE(row >= 0 && (int64_t)row + R <= N, "koala_matmul_pack: rows %d to %lld do not fit a matrix of %d rows.",
      row, (long long)row + R, N);
  return dev->kernels->matmul_pack(dev, packed, weight, N, K, row, R, wtype, stype);
}

int32_t koala_matmul(koala_device* dev, void* y, const void* x, const void* packed, const void* bias, int32_t T,
    int32_t N, int32_t K, int32_t accumulate, int32_t wtype, int32_t dtype) {
  REQUIRE_POINTER("matmul", dev);
  REQUIRE_POINTER("matmul", y);
  REQUIRE_POINTER("matmul", x);
  REQUIRE_POINTER("matmul", packed);
  REQUIRE_SIZE("matmul", T);
  REQUIRE_POSITIVE("matmul", N);
  REQUIRE_POSITIVE("matmul", K);
  REQUIRE_TYPE("matmul", wtype);
  REQUIRE_TYPE("matmul", dtype);
  return dev->kernels->matmul(dev, y, x, packed, bias, T, N, K, accumulate, wtype, dtype);
}
#endif
