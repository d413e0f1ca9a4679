// Gradients of matrix products, by the kernel of the products themselves (tile.h).
//
// dx = dy w is koala_matmul with the packed transpose of w. dw = dy^T x takes dy^T as rows and x, packed, as panels: in
// both cases packing a transpose is cheap, because 32 columns of a row-major row already lie side by side.
// t is summed in blocks: one chain of fused sums from 0 in a block, and the blocks are added to dw in ascending order.
#include "device.h"
#include "tile.h"
#include "transpose.h"

namespace KOALA_NS {

namespace {

constexpr int ROWS = 96;          // rows of dw of one piece of work: their operands stay in the second-level cache
constexpr int PANELS = 16;        // panels of one piece of work
constexpr int PACK_PANELS = 4;    // panels written side by side
constexpr int PREFETCH_ROWS = 16;
constexpr int PACK_COLUMNS = 64;  // columns of dy transposed by one piece of work

/** Tokens of one block: 8 operand rows fill half of the first-level cache. */
template <class A> constexpr int block_tokens() { return 2048 / (int)sizeof(A); }

inline int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

/** Panels [begin, end) of the transpose of row-major source [N,K]. */
template <class B, class S>
void pack_columns(B* packed, const S* source, int N, int K, int begin, int end) {
  const int padded = padded_k<B>(N);
  constexpr bool wide = Same<compute_t<S>, double>::value || Same<B, double>::value;
  constexpr int step = Same<B, bf16>::value ? 2 : 1;
  for (int n = 0; n < N; n += step)
    for (int panel = begin; panel < end; panel++) {
      B* out = packed + ((size_t)panel * padded + n) * PANEL;
      const S *row = source + (size_t)n * K, *next = n + 1 < N ? row + K : nullptr;
      // Rows lie pages apart, where the processor's own prefetching does not reach.
      for (int i = 0; i < step; i++)
        for (int c = 0; c < PANEL; c += 64 / (int)sizeof(S))
          __builtin_prefetch(row + (size_t)(PREFETCH_ROWS + i) * K + panel * PANEL + c);
      for (int c = 0; c < PANEL; c += W) {
        const int k = panel * PANEL + c;
        if constexpr (wide) {
          for (int i = 0; i < W; i++) {
            if constexpr (step == 1) out[c + i] = k + i < K ? (B)widen(row[k + i]) : B{};
            else {
              out[(c + i) * 2] = k + i < K ? to_bf16(widen(row[k + i])) : B{};
              out[(c + i) * 2 + 1] = next && k + i < K ? to_bf16(widen(next[k + i])) : B{};
            }
          }
        } else if constexpr (step == 1) {
          store(out + c, k < K ? load_row(row, k, K) : vf{});
        } else {
          const vu low = k < K ? bf16_bits(load_row(row, k, K)) : vu{}, high = next && k < K ? bf16_bits(load_row(next,
              k, K)) : vu{};
          write_bits(out + c * 2, low | high << 16);
        }
      }
    }
}

template <class B, class S> void pack(koala_device* dev, B* packed, const S* source, int N, int K) {
  const int panels = (int)pieces(K, PANEL);
  parallel_for(&dev->pool, (int64_t)N * K > 20000, pieces(panels, PACK_PANELS), 1, [&](int64_t begin, int64_t end,
      int) {
    for (int64_t p = begin; p < end; p++)
      pack_columns(packed, source, N, K, (int)p * PACK_PANELS, (int)p * PACK_PANELS + PACK_PANELS < panels
          ? (int)p * PACK_PANELS + PACK_PANELS : panels);
  });
}

template <class B> int32_t pack_from(koala_device* dev, B* packed, const void* weight, int N, int K, int stype) {
  switch (stype) {
    case KOALA_F32: pack(dev, packed, (const float*)weight, N, K); break;
    case KOALA_BF16: pack(dev, packed, (const bf16*)weight, N, K); break;
    case KOALA_F16: pack(dev, packed, (const f16*)weight, N, K); break;
    default: pack(dev, packed, (const double*)weight, N, K);
  }
  return 0;
}

/** a[n][t] = dy[t][n] for n in [begin, end), as operands, zero behind the last t. */
template <class C, class B, class T>
void transpose_rows(operand_t<C, B>* a, size_t lda, const T* dy, int rows, int N, int begin, int end) {
  typedef operand_t<C, B> A;
  if constexpr (Same<C, double>::value) {
    for (int n = begin; n < end; n++) {
      for (int t = 0; t < rows; t++) {
        const T value = dy[(size_t)t * N + n];
        if constexpr (Same<B, bf16>::value) a[n * lda + t] = widen(to_bf16(widen(value)));
        else if constexpr (Same<B, float>::value) a[n * lda + t] = (float)widen(value);
        else a[n * lda + t] = widen(value);
      }
      for (int t = rows; t < padded_k<B>(rows); t++) a[n * lda + t] = 0;
    }
  } else {
    constexpr int step = Same<A, bf16>::value ? 2 : 1;
    for (int t = 0; t < rows; t += W * step)
      for (int n = begin; n < end; n += W) {
        vu block[W];
        auto row = [&](int at) { return at < rows ? load_row(dy + (size_t)at * N, n, N) : vf{}; };
        for (int i = 0; i < W; i++) {
          if constexpr (step == 2) block[i] = bf16_bits(row(t + 2 * i)) | bf16_bits(row(t + 2 * i + 1)) << 16;
          else block[i] = (vu)(Same<B, bf16>::value ? round_to_bf16(row(t + i)) : row(t + i));
        }
        transpose_block(block);
        for (int j = 0; j < W && n + j < end; j++) write_bits(a + (n + j) * lda + t, block[j]);
      }
  }
}

template <class C, class B> struct Block {
  operand_t<C, B>* a;
  B* packed;
  size_t lda;
  int depth;
};

/** dw[row.., panel columns] += the product of rows [row, end) of dy^T and one panel of x. */
template <class C, class B>
inline void add_panel(C* dw, const Block<C, B>& b, int K, int row, int end, int panel) {
  C sums[TILE_ROWS * PANEL];
  const int column = panel * PANEL, columns = K - column < PANEL ? K - column : PANEL;
  for (int n = row; n < end; n += TILE_ROWS) {
    const int rows = end - n < TILE_ROWS ? end - n : TILE_ROWS;
    C* out = dw + (size_t)n * K + column;
    for (int i = 0; i < rows; i++)
      for (int line = 0; line * 64 < columns * (int)sizeof(C); line++) __builtin_prefetch((const char*)(out
          + (size_t)i * K) + line * 64, 1);
    multiply_panel<C, B>(rows, b.a + n * b.lda, b.lda, b.packed + (size_t)panel * b.depth * PANEL, b.depth, sums, PANEL,
        false);
    for (int i = 0; i < rows; i++)
      for (int c = 0; c < columns; c += W) store_row(out + (size_t)i * K, c, columns, load_row(out + (size_t)i * K, c,
          columns) + load(sums + i * PANEL + c));
  }
}

template <class C, class B, class T>
int32_t weight_gradient(koala_device* dev, C* dw, const T* dy, const T* x, int tokens, int N, int K) {
  typedef operand_t<C, B> A;
  const int longest = tokens < block_tokens<A>() ? tokens : block_tokens<A>(), panels = (int)pieces(K, PANEL);
  const size_t lda = (longest + 2 * W - 1) / (2 * W) * (2 * W) + 32;
  const size_t packed_bytes = (size_t)panels * PANEL * padded_k<B>(longest) * sizeof(B);
  if (reserve(dev, packed_bytes + N * lda * sizeof(A), 0)) return -1;
  const bool wide = (double)tokens * N * K > 400000;
  for (int t = 0; t < tokens; t += longest) {
    const int rows = tokens - t < longest ? tokens - t : longest;
    const Block<C, B> block = {(A*)(dev->shared.data + packed_bytes), (B*)dev->shared.data, lda, padded_k<B>(rows)};
    const T *left = dy + (size_t)t * N, *right = x + (size_t)t * K;
    const int64_t packs = pieces(panels, PACK_PANELS), transposes = pieces(N, PACK_COLUMNS);
    parallel_for(&dev->pool, wide, packs + transposes, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) {
        if (i < packs) {
          const int from = (int)i * PACK_PANELS;
          pack_columns(block.packed, right, rows, K, from, from + PACK_PANELS < panels ? from + PACK_PANELS : panels);
        } else {
          const int from = (int)(i - packs) * PACK_COLUMNS;
          transpose_rows<C, B>(block.a, lda, left, rows, N, from, from + PACK_COLUMNS < N ? from + PACK_COLUMNS : N);
        }
      }
    });
    const int64_t runs = pieces(panels, PANELS);
    parallel_for(&dev->pool, wide, pieces(N, ROWS) * runs, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) {
        const int row = (int)(i / runs) * ROWS, end_row = row + ROWS < N ? row + ROWS : N;
        const int from = (int)(i % runs) * PANELS, to = from + PANELS < panels ? from + PANELS : panels;
        for (int panel = from; panel < to; panel++) add_panel(dw, block, K, row, end_row, panel);
      }
    });
  }
  return 0;
}

}  // namespace

int32_t matmul_pack_transposed(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K, int32_t wtype,
    int32_t stype) {
  if (wtype == KOALA_F32) return pack_from(dev, (float*)packed, weight, N, K, stype);
  if (wtype == KOALA_BF16) return pack_from(dev, (bf16*)packed, weight, N, K, stype);
  return pack_from(dev, (double*)packed, weight, N, K, stype);
}

int32_t matmul_weight_gradient(koala_device* dev, void* dw, const void* dy, const void* x, int32_t T, int32_t N,
    int32_t K, int32_t ctype, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    C* to = (C*)dw;
    const E *left = (const E*)dy, *right = (const E*)x;
    if (ctype == KOALA_F32) return weight_gradient<C, float>(dev, to, left, right, T, N, K);
    if (ctype == KOALA_BF16) return weight_gradient<C, bf16>(dev, to, left, right, T, N, K);
    if constexpr (Same<C, double>::value) return weight_gradient<C, double>(dev, to, left, right, T, N, K);
    return fail("koala_matmul_weight_gradient: products in f64 need f64 activations, and these are %s.",
        type_name(dtype));
  });
}

int32_t bias_gradient(koala_device* dev, void* db, const void* dy, int32_t T, int32_t N, int32_t dtype) {
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    constexpr int vectors = 4;
    parallel_for(&dev->pool, (int64_t)T * N > 65536, pieces(N, vectors * W), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; p++) {
        const int from = (int)p * vectors * W;
        vector_t<C> sums[vectors] = {};
        for (int t = 0; t < T; t++)
          for (int v = 0; v < vectors && from + v * W < N; v++) sums[v] += load_row((const E*)dy + (size_t)t * N, from
              + v * W, N);
        for (int v = 0; v < vectors && from + v * W < N; v++) store_row((C*)db, from + v * W, N, load_row((C*)db, from
            + v * W, N) + sums[v]);
      }
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_matmul_pack_transposed(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K,
    int32_t wtype, int32_t stype) {
  if (check_matmul_pack_transposed(dev, packed, weight, N, K, wtype, stype)) return -1;
  return dev->kernels->matmul_pack_transposed(dev, packed, weight, N, K, wtype, stype);
}

int32_t koala_matmul_weight_gradient(koala_device* dev, void* dw, const void* dy, const void* x, int32_t T, int32_t N,
    int32_t K, int32_t ctype, int32_t dtype) {
  if (check_matmul_weight_gradient(dev, dw, dy, x, T, N, K, ctype, dtype)) return -1;
  return dev->kernels->matmul_weight_gradient(dev, dw, dy, x, T, N, K, ctype, dtype);
}

int32_t koala_bias_gradient(koala_device* dev, void* db, const void* dy, int32_t T, int32_t N, int32_t dtype) {
  if (check_bias_gradient(dev, db, dy, T, N, dtype)) return -1;
  return dev->kernels->bias_gradient(dev, db, dy, T, N, dtype);
}
#endif
