// Gradient of attention over documents. Probabilities are computed again from log sum exp, never stored:
//   p = exp(scale * q.k - lse), ds = scale * p * (d * dy.v - dy.y);  dq = sum_j ds k,  dk = sum_i ds q,
//   dv = sum_i d * p * dy, where d is 1, or with dropout 0 or 1 / (1 - drop)
// Three launches: dy.y of every row, then dk and dv by keys, then dq by rows. Each output has one owner.
//
// budget k_delta: registers 40, shared 0
// budget k_flash_keys: registers 255, shared 1536
// budget k_flash_rows: registers 255, shared 0
// budget k_plain_keys: registers 168, shared 0
// budget k_plain_rows: registers 168, shared 0
#include "flash_backward.cuh"
#include "plain_backward.cuh"

namespace {

constexpr const char* OP = "koala_document_attention_backward";
constexpr int DELTA_THREADS = 256;

/** delta of every row, a warp each, where its dq will be. */
template <class T, bool HASHED> KERNEL(DELTA_THREADS) k_delta(BackwardCall<T, HASHED> call) {
  const int E = call.heads.E, H = call.heads.H, lane = threadIdx.x & 31;
  const int64_t rows = (int64_t)(call.starts[call.S] - call.starts[0]) * H, warps = gridDim.x * (DELTA_THREADS / 32);
  for (int64_t i = blockIdx.x * (DELTA_THREADS / 32) + threadIdx.x / 32; i < rows; i += warps) {
    const Row row = {0, 0, call.starts[0] + (int)(i / H), (int)(i % H), true};
    const T *dy = call.dy + call.y_at(row), *y = call.y + call.y_at(row);
    float sum = 0;
    for (int e = lane; e < E; e += 32) sum = fmaf(widen(dy[e]), widen(y[e]), sum);
    sum = warp_sum(sum);
    if (lane == 0) *(float*)(call.dqkv + call.query_at(row)) = sum;
  }
}

/** How many tiles of ROWS keys a document has, and the item-th of them: the first keys, which most rows see, first. */
template <int ROWS, class Call> DEVICE int key_items(const Call& call, int s) {
  return call.heads.G * ceil_div(call.sequence(s).tokens, ROWS);
}
template <int ROWS, class Call> DEVICE FlashItem key_item(const Call& call, const int* before, int item) {
  const int s = owner_of(before, call.S, item), within = item - before[s], tiles = ceil_div(call.sequence(s).tokens,
      ROWS);
  return {s, within / tiles, within % tiles * ROWS, 0, 0};
}

template <int E, bool HASHED> KERNEL(BACKWARD_THREADS) k_flash_keys(BackwardCall<bf16, HASHED> call) {
  DYNAMIC_SHARED(unsigned char, memory);
  SHARED(SideRows, side, 1);
  int* before = (int*)(memory + (2 * OWN + 4 * SIDE) * E * sizeof(bf16));
  list_items(before, call.S, [&](int s) { return key_items<OWN>(call, s); });
  for (int i = blockIdx.x; i < before[call.S]; i += gridDim.x)
    key_gradients<E>(call, key_item<OWN>(call, before, i), (bf16*)memory, *side);
}

template <int E, bool HASHED> KERNEL(BACKWARD_THREADS) k_flash_rows(BackwardCall<bf16, HASHED> call) {
  DYNAMIC_SHARED(unsigned char, memory);
  int* before = (int*)(memory + 4 * SIDE * E * sizeof(bf16));
  list_items(before, call.S, [&](int s) { return row_items<OWN>(call, s); });
  for (int i = blockIdx.x; i < before[call.S]; i += gridDim.x)
    row_gradients<E>(call, row_item<OWN, SIDE>(call, before, i), (bf16*)memory);
}

template <class T, bool HASHED> KERNEL(PLAIN_THREADS, 3) k_plain_keys(BackwardCall<T, HASHED> call) {
  DYNAMIC_SHARED(float, memory);
  const PlainBackwardMemory m(memory, call.heads.E);
  list_items(m.before, call.S, [&](int s) { return key_items<PLAIN_ROWS>(call, s); });
  for (int i = blockIdx.x; i < m.before[call.S]; i += gridDim.x)
    plain_key_gradients(call, key_item<PLAIN_ROWS>(call, m.before, i), m);
}

template <class T, bool HASHED> KERNEL(PLAIN_THREADS, 3) k_plain_rows(BackwardCall<T, HASHED> call) {
  DYNAMIC_SHARED(float, memory);
  const PlainBackwardMemory m(memory, call.heads.E);
  list_items(m.before, call.S, [&](int s) { return row_items<PLAIN_ROWS>(call, s); });
  for (int i = blockIdx.x; i < m.before[call.S]; i += gridDim.x)
    plain_row_gradients(call, row_item<PLAIN_ROWS, PLAIN_KEYS>(call, m.before, i), m);
}

template <int E, bool HASHED> int32_t flash(koala_device* dev, const BackwardCall<bf16, HASHED>& call) {
  const size_t list = ((size_t)call.S + 1) * sizeof(int);
  const size_t keys = (size_t)(2 * OWN + 4 * SIDE) * E * sizeof(bf16) + list, rows = (size_t)4 * SIDE * E * sizeof(bf16)
      + list;
  if (allow_shared(dev, OP, k_flash_keys<E, HASHED>, keys, call.S)
      || allow_shared(dev, OP, k_flash_rows<E, HASHED>, rows, call.S)) return -1;
  LAUNCH_ITEMS(dev, (k_flash_keys<E, HASHED>), 8, BACKWARD_THREADS, keys, call);
  LAUNCH_ITEMS(dev, (k_flash_rows<E, HASHED>), 8, BACKWARD_THREADS, rows, call);
  return finish(dev);
}

template <class T, bool HASHED> int32_t gradients(koala_device* dev, const BackwardCall<T, HASHED>& call) {
  LAUNCH_ITEMS(dev, (k_delta<T, HASHED>), 8, DELTA_THREADS, 0, call);
  if constexpr (Same<T, bf16>::value) {
    if (is_aligned(call.qkv) && is_aligned(call.dy) && call.heads.E == 64) return flash<64, HASHED>(dev, call);
    if (is_aligned(call.qkv) && is_aligned(call.dy) && call.heads.E == 128) return flash<128, HASHED>(dev, call);
  }
  const size_t bytes = plain_backward_bytes(call.heads.E, call.S);
  if (allow_shared(dev, OP, k_plain_keys<T, HASHED>, bytes, call.S)
      || allow_shared(dev, OP, k_plain_rows<T, HASHED>, bytes, call.S)) return -1;
  LAUNCH_ITEMS(dev, (k_plain_keys<T, HASHED>), 8, PLAIN_THREADS, bytes, call);
  LAUNCH_ITEMS(dev, (k_plain_rows<T, HASHED>), 8, PLAIN_THREADS, bytes, call);
  return finish(dev);
}

}  // namespace

int32_t koala_document_attention_backward(koala_device* dev, void* dqkv, const void* dy, const void* y, const void* lse,
    const void* qkv, const int32_t* starts, const float* forget, int32_t S, int32_t H, int32_t G, int32_t E,
    int32_t window, int32_t first, int32_t seed, int32_t drop_seed, float drop, float scale, int32_t dtype) {
  if (check_document_attention_backward(dev, dqkv, dy, y, lse, qkv)) return -1;
  const DocumentArguments a = {starts, forget, S, H, G, E, window, first, seed, drop_seed, drop, scale, dtype};
  if (check_documents(OP, a)) return -1;
  if (S == 0) return 0;
  if (begin(dev, OP)) return -1;
  auto with = [&](auto element, auto hashed) {
    typedef decltype(element) T;
    constexpr bool HASHED = Same<decltype(hashed), int>::value;
    const BackwardCall<T, HASHED> call = {document_call<T, HASHED>(a, (T*)y, (float*)lse, (const T*)qkv), (T*)dqkv,
        (const T*)dy};
    return gradients(dev, call);
  };
  const bool hashed = forget || drop > 0;
  if (dtype == KOALA_F32) return hashed ? with(float{}, int{}) : with(float{}, char{});
  return hashed ? with(bf16{}, int{}) : with(bf16{}, char{});
}
