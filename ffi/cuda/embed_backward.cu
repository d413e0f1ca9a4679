// Gradient of the embedding table: rows of dy are added to the rows of their tokens, in the order that sorts by token.
//
// A block looks at one place of the order; where a token begins there, its threads add all rows of that token to their
// columns, one after another: the bits of the CPU, and no atomics.
// budget k_embed_backward: registers 32, shared 0
#include "kernels.cuh"

namespace {

constexpr int THREADS = 256;

template <class T>
KERNEL(THREADS)
k_embed_backward(compute_t<T>* dtable, const T* dy, const int32_t* tokens, const int32_t* order, Faults* faults, int rows,
    int D, int V) {
  const int first = blockIdx.x, row = order[first], d = blockIdx.y * THREADS + threadIdx.x;
  if (!check_index(faults, FAULT_ORDER, first, row, rows)) return;
  const int token = tokens[row];
  if (!check_index(faults, FAULT_TOKEN, row, token, V)) return;
  auto holds = [&](int i) { return order[i] >= 0 && order[i] < rows && tokens[order[i]] == token; };
  if (d >= D || (first > 0 && holds(first - 1))) return;
  compute_t<T>* to = dtable + (int64_t)token * D + d;
  compute_t<T> sum = *to;
  for (int i = first; i < rows && holds(i); i++) sum += widen(dy[(int64_t)order[i] * D + d]);
  *to = sum;
}

}  // namespace

int32_t koala_embed_backward(koala_device* dev, void* dtable, const void* dy, const int32_t* tokens,
    const int32_t* order, int32_t T, int32_t D, int32_t V, int32_t dtype) {
  if (check_embed_backward(dev, dtable, dy, tokens, order, T, D, V, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_embed_backward")) return -1;
  checked(dev, FAULT_ORDER, T);
  Faults* faults = checked(dev, FAULT_TOKEN, V);
  with_type(dtype, [&](auto element) -> int32_t {
    typedef decltype(element) E;
    LAUNCH((k_embed_backward<E>), dim3(T, blocks_of(D, THREADS)), THREADS, 0, dev->stream, (compute_t<E>*)dtable,
        (const E*)dy, tokens, order, faults, T, D, V);
    return 0;
  });
  return finish(dev);
}
