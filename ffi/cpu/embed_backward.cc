// Gradient of the embedding table: rows of dy are added to the rows of their tokens.
#include "device.h"
#include "simd.h"

namespace KOALA_NS {

int32_t embed_backward(koala_device* dev, void* dtable, const void* dy, const int32_t* tokens, const int32_t* order,
    int32_t T, int32_t D, int32_t, int32_t dtype) {
  // Threads share the columns, not the tokens: one token may be most of the batch.
  const int piece = 64;
  return with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    typedef compute_t<E> C;
    parallel_for(&dev->pool, (int64_t)T * D > 65536, (D + piece - 1) / piece, 1, [&](int64_t begin, int64_t end, int) {
      const int from = (int)begin * piece, to = end * piece < D ? (int)end * piece : D;
      for (int i = 0; i < T; i++) {
        const E* row = (const E*)dy + (size_t)order[i] * D;
        C* sum = (C*)dtable + (size_t)tokens[order[i]] * D;
        for (int d = from; d < to; d += W) store_row(sum, d, D, load_row(sum, d, D) + load_row(row, d, D));
      }
    });
    return 0;
  });
}

}  // namespace KOALA_NS

#ifdef KOALA_EXPORTS
int32_t koala_embed_backward(koala_device* dev, void* dtable, const void* dy, const int32_t* tokens,
    const int32_t* order, int32_t T, int32_t D, int32_t V, int32_t dtype) {
  if (check_embed_backward(dev, dtable, dy, tokens, order, T, D, V, dtype)) return -1;
  for (int i = 0; i < T; i++) {
    REQUIRE(order[i] >= 0 && order[i] < T, "koala_embed_backward: order[%d] is %d, outside the %d rows.", i, order[i],
        T);
    REQUIRE(tokens[order[i]] >= 0 && tokens[order[i]] < V,
        "koala_embed_backward: token %d of row %d is outside the vocabulary of %d.", tokens[order[i]], order[i], V);
  }
  return dev->kernels->embed_backward(dev, dtable, dy, tokens, order, T, D, V, dtype);
}
#endif
