// Matrix products y = x w^T from weights that were packed once into panels of 32 rows.
//
// Packed [N,K]: panel after panel (panel n/32 holds the columns n of y), inside a panel as tile.h says. Rows beyond N
// and an odd last k are zero. Threads take runs of panels; within a run, blocks of x rows stay in the second-level
// cache while panels stream by, and each panel is used for all rows of the block before the next one.
#include "device.h"
#include "quantised.h"
#include "tile.h"
#include "transpose.h"

namespace KOALA_NS {

namespace {

constexpr int BLOCK_ROWS = 192;   // rows of x that share one pass over the panels
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

/** Panels of elements, multiplied where they lie. */
template <class B> struct StoredPanels {
  typedef B Element, Piece;
  static constexpr int FUSED_ROWS = 0;
  static constexpr int PIECE_K = 3072;  // 8 rows of operand stay in the first-level cache
  static constexpr size_t PIECE_BYTES = 0;
  const B* packed;
  int K;  // padded
  inline const B* at(int panel, int k) const { return packed + ((size_t)panel * K + k) * PANEL; }
  inline const B* piece(int panel, int k, int, char*) const { return at(panel, k); }
};

/** One block of rows times panels [begin, end). `a` are all operands; `sums` has room for BLOCK_ROWS x 32, and `room`
 *  for a piece of a panel that is not stored as it is multiplied. */
template <class C, class P, class T>
void multiply_block(T* y, const operand_t<C, typename P::Element>* a, size_t lda, const P& panels, const T* bias,
    const Sizes& s, int row, int rows, int begin, int end, C* sums, char* room) {
  typedef typename P::Element B;
  const int K = padded_k<B>(s.K);
  const int k_blocks = (K + P::PIECE_K - 1) / P::PIECE_K, k_step = ((K + k_blocks - 1) / k_blocks + 63) & ~63;
  const int passes = (rows + TILE_ROWS - 1) / TILE_ROWS, pass_rows = (rows + passes - 1) / passes;
  for (int panel = begin; panel < end; panel++) {
    const int column = panel * PANEL, columns = s.N - column < PANEL ? s.N - column : PANEL;
    if constexpr (P::FUSED_ROWS > 0)
      if (rows <= P::FUSED_ROWS) {
        panels.multiply_rows(rows, sums, a + (size_t)row * lda, lda, panel);
        for (int j = 0; j < rows; j++)
          finish_row(y + (size_t)(row + j) * s.N + column, sums + j * PANEL, bias ? bias + column : nullptr, columns,
              s.accumulate);
        continue;
      }
    for (int k = 0; k < K; k += k_step) {
      const int depth = K - k < k_step ? K - k : k_step;
      const typename P::Piece* b = panels.piece(panel, k, depth, room);
      // While the passes of this panel run, fetch what follows it in memory.
      const char *next = (const char*)panels.at(panel, k + depth), *from = (const char*)panels.at(panel, k);
      const int lines = passes > 1 ? (int)((next - from) / 64) : 0, share = (lines + passes - 1) / passes;
      for (int i = 0, pass = 0; i < rows; i += pass_rows, pass++) {
        const int n = rows - i < pass_rows ? rows - i : pass_rows;
        const int fetched = pass * share, fetch = lines - fetched < share ? lines - fetched : share;
        multiply_panel<C, typename P::Piece>(n, a + (size_t)(row + i) * lda + k, lda, b, depth, sums + i * PANEL, PANEL, k > 0,
            {next + (size_t)fetched * 64, fetch});
        if (k + k_step < K) continue;
        for (int j = i; j < i + n; j++)
          finish_row(y + (size_t)(row + j) * s.N + column, sums + j * PANEL, bias ? bias + column : nullptr, columns,
              s.accumulate);
      }
    }
  }
}

template <class C, class P, class T>
int32_t multiply(koala_device* dev, T* y, const T* x, const P& stored, const T* bias, Sizes s) {
  typedef typename P::Element B;
  typedef operand_t<C, B> A;
  const int K = padded_k<B>(s.K), panels = (s.N + PANEL - 1) / PANEL;
  const bool direct = Same<A, T>::value && K == s.K && (Same<B, bf16>::value ? Same<A, bf16>::value : true);
  const size_t lda = direct ? s.K : K + 32;  // off powers of two: 8 rows at a distance of 4096 bytes share one cache set
  const bool small = (int64_t)s.T * K <= SMALL, wide = (double)s.N * K * (s.T + 8) > 400000;
  const size_t operand_bytes = direct ? 0 : ((size_t)s.T * lda * sizeof(A) + 63) & ~(size_t)63;
  constexpr size_t sum_bytes = BLOCK_ROWS * PANEL * sizeof(C);
  if (reserve(dev, small ? 0 : operand_bytes, sum_bytes + P::PIECE_BYTES + (small ? operand_bytes : 0))) return -1;
  if (!direct && !small)
    parallel_for(&dev->pool, wide, s.T, 1 + s.T / (dev->pool.threads * 4), [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) make_operand<C, B>((A*)dev->shared.data + t * lda, x + t * s.K, s.K, K);
    });
  Counter counter;
  parallel(&dev->pool, wide && panels > 1, [&](int thread) {
    C* sums = (C*)dev->local[thread].data;
    char* room = dev->local[thread].data + sum_bytes;
    const A* a = (const A*)x;
    if (!direct) {
      A* own = small ? (A*)(room + P::PIECE_BYTES) : (A*)dev->shared.data;
      for (int t = 0; small && t < s.T; t++) make_operand<C, B>(own + t * lda, x + (size_t)t * s.K, s.K, K);
      a = own;
    }
    for (int64_t begin, end; counter.take_share(panels, 3 * dev->pool.threads, &begin, &end);)
      for (int row = 0; row < s.T; row += BLOCK_ROWS)
        multiply_block<C, P, T>(y, a, lda, stored, bias, s, row, s.T - row < BLOCK_ROWS ? s.T - row : BLOCK_ROWS,
            (int)begin, (int)end, sums, room);
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

/** Quantises rows [row, row + R); a float64 is rounded to float32 first. */
template <class Q, class S>
void quantise(koala_device* dev, uint8_t* packed, const S* weight, int K, int row, int R) {
  const QuantisedPanels<Q> panels = {packed, K};
  const int first = row / PANEL, count = (row + R + PANEL - 1) / PANEL - first;
  parallel_for(&dev->pool, (int64_t)R * K > 20000, count, 1 + count / (dev->pool.threads * 8), [&](int64_t begin,
      int64_t end, int) {
    for (int panel = first + (int)begin; panel < first + end; panel++) {
      const int from = panel * PANEL < row ? row : panel * PANEL, to = (panel + 1) * PANEL < row + R
          ? (panel + 1) * PANEL : row + R;
      for (int k = 0; k < K; k += QUANT_K)
        for (int n = from; n < to; n++) {
          float w[QUANT_K];
          const S* source = weight + (size_t)(n - row) * K + k;
          __builtin_prefetch((const char*)source + PACK_AHEAD);
          widen_block(w, source);
          pack_block<Q>((uint8_t*)panels.at(panel, k), w, n % PANEL);
        }
    }
  });
}

/** f(weight) with the source in its own type. */
template <class F> void with_source(const void* weight, int stype, F&& f) {
  switch (stype) {
    case KOALA_F32: return f((const float*)weight);
    case KOALA_BF16: return f((const bf16*)weight);
    case KOALA_F16: return f((const f16*)weight);
    default: return f((const double*)weight);
  }
}

}  // namespace

int32_t matmul_pack(koala_device* dev, void* packed, const void* weight, int32_t, int32_t K, int32_t row, int32_t R,
    int32_t wtype, int32_t stype) {
  with_source(weight, stype, [&](auto source) {
    if (wtype == KOALA_F32) pack(dev, (float*)packed, source, K, row, R);
    else if (wtype == KOALA_BF16) pack(dev, (bf16*)packed, source, K, row, R);
    else if (wtype == KOALA_Q8) quantise<Q8>(dev, (uint8_t*)packed, source, K, row, R);
    else if (wtype == KOALA_Q4) quantise<Q4>(dev, (uint8_t*)packed, source, K, row, R);
    else pack(dev, (double*)packed, source, K, row, R);
  });
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
    const int padded = padded_k<bf16>(K);
    if (wtype == KOALA_F32) return multiply<C>(dev, to, from, StoredPanels<float>{(const float*)packed, K}, add, sizes);
    if (wtype == KOALA_BF16)
      return multiply<C>(dev, to, from, StoredPanels<bf16>{(const bf16*)packed, padded}, add, sizes);
    if constexpr (Same<C, double>::value) {
      if (is_quantised(wtype))
        return fail("koala_matmul: %s weights need f32 or bf16 activations, and these are f64.", type_name(wtype));
      return multiply<C>(dev, to, from, StoredPanels<double>{(const double*)packed, K}, add, sizes);
    } else {
      if (wtype == KOALA_Q8)
        return multiply<C>(dev, to, from, QuantisedPanels<Q8>{(const uint8_t*)packed, K}, add, sizes);
      if (wtype == KOALA_Q4)
        return multiply<C>(dev, to, from, QuantisedPanels<Q4>{(const uint8_t*)packed, K}, add, sizes);
      return fail("koala_matmul: f64 weights need f64 activations, and these are %s.", type_name(dtype));
    }
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_matmul_pack_bytes(koala_device* dev, double* bytes, int32_t N, int32_t K, int32_t wtype) {
  if (check_matmul_pack_bytes(dev, bytes, N, K, wtype)) return -1;
  const int padded = wtype == KOALA_BF16 ? (K + 1) & ~1 : K;
  const double rows = (N + 31) / 32 * 32;
  if (is_quantised(wtype))
    *bytes = rows * K * (wtype == KOALA_Q8 ? 34 : 18) / QUANT_K;
  else *bytes = rows * padded * type_bytes(wtype);
  return 0;
}

int32_t koala_matmul_pack(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K, int32_t row,
    int32_t R, int32_t wtype, int32_t stype) {
  if (check_matmul_pack(dev, packed, weight, N, K, row, R, wtype, stype)) return -1;
  return dev->kernels->matmul_pack(dev, packed, weight, N, K, row, R, wtype, stype);
}

int32_t koala_matmul(koala_device* dev, void* y, const void* x, const void* packed, const void* bias, int32_t T,
    int32_t N, int32_t K, int32_t accumulate, int32_t wtype, int32_t dtype) {
  if (check_matmul(dev, y, x, packed, T, N, K, wtype, dtype)) return -1;
  return dev->kernels->matmul(dev, y, x, packed, bias, T, N, K, accumulate, wtype, dtype);
}
#endif
