// Causal attention of documents laid end to end, without a cache: y = softmax(scale * q.k) v, and log sum exp by row.
//
// Each block takes tiles of rows of a (document, key/value head), late rows first. bf16 of head dims 64 and 128 goes to
// the tensor cores (flash.cuh), all else to plain_attention.cuh. Hidden keys and dropped weights come from a hash of
// their places, in kernels of their own, so that plain training does not pay for them.
//
// budget k_flash_documents: registers 255, shared 0
// budget k_plain_documents: registers 128, shared 0
#include "document_attention.cuh"

namespace {

// Two blocks a processor: left to itself, ptxas aims at three on sm_80 and spills.
template <int E, bool HASHED> KERNEL(DOCUMENT_WARPS * 32, 2) k_flash_documents(DocumentCall<bf16, HASHED> call) {
  DYNAMIC_SHARED(unsigned char, memory);
  unsigned char* ring = memory;
  int* before = (int*)(ring + RING * FlashTile<bf16, E>::BYTES);
  constexpr int ROWS = DOCUMENT_WARPS * 16;
  list_items(before, call.S, [&](int s) { return row_items<ROWS>(call, s); });
  for (int i = blockIdx.x; i < before[call.S]; i += gridDim.x) {
    const FlashItem item = row_item<ROWS, TILE>(call, before, i);
    const FlashSight<DocumentCall<bf16, HASHED>> sight(call, call.sequence(item.s), item);
    FlashState<E> state;
    flash_attend<E, DOCUMENT_WARPS, false>(call, item, sight, state, ring, nullptr);
    flash_store<E>(call, sight, state);
  }
}

template <class T, bool HASHED> KERNEL(PLAIN_THREADS, 3) k_plain_documents(DocumentCall<T, HASHED> call) {
  DYNAMIC_SHARED(float, memory);
  const PlainMemory m(memory, call.heads.E);
  list_items(m.before, call.S, [&](int s) { return row_items<PLAIN_ROWS>(call, s); });
  for (int i = blockIdx.x; i < m.before[call.S]; i += gridDim.x) {
    const FlashItem item = row_item<PLAIN_ROWS, PLAIN_KEYS>(call, m.before, i);
    const Row row = row_of(call.sequence(item.s), call.heads, item.g, item.row + threadIdx.x / PLAIN_KEYS,
        call.window);
    PlainState state;
    plain_attend<false>(call, item, row, m, state);
    plain_store(call, item, row, m, state);
  }
}

constexpr const char* OP = "koala_document_attention";

template <int E, bool HASHED> int32_t flash(koala_device* dev, const DocumentCall<bf16, HASHED>& call) {
  const size_t bytes = flash_shared_bytes<FlashTile<bf16, E>, E, DOCUMENT_WARPS, false>(call.S);
  if (allow_shared(dev, OP, k_flash_documents<E, HASHED>, bytes, call.S)) return -1;
  LAUNCH_ITEMS(dev, (k_flash_documents<E, HASHED>), 8, DOCUMENT_WARPS * 32, bytes, call);
  return finish(dev);
}

template <class T, bool HASHED> int32_t attend(koala_device* dev, const DocumentCall<T, HASHED>& call) {
  if constexpr (Same<T, bf16>::value) {
    if (is_aligned(call.qkv) && call.heads.E == 64) return flash<64, HASHED>(dev, call);
    if (is_aligned(call.qkv) && call.heads.E == 128) return flash<128, HASHED>(dev, call);
  }
  const size_t bytes = plain_shared_bytes(call.heads.E, call.S);
  if (allow_shared(dev, OP, k_plain_documents<T, HASHED>, bytes, call.S)) return -1;
  LAUNCH_ITEMS(dev, (k_plain_documents<T, HASHED>), 8, PLAIN_THREADS, bytes, call);
  return finish(dev);
}

}  // namespace

int32_t koala_document_attention(koala_device* dev, void* y, void* lse, const void* qkv, const int32_t* starts,
    const float* forget, int32_t S, int32_t H, int32_t G, int32_t E, int32_t window, int32_t first, int32_t seed,
    int32_t drop_seed, float drop, float scale, int32_t dtype) {
  REQUIRE_POINTER("document_attention", dev);
  REQUIRE_POINTER("document_attention", y);
  REQUIRE_POINTER("document_attention", lse);
  REQUIRE_POINTER("document_attention", qkv);
  const DocumentArguments a = {starts, forget, S, H, G, E, window, first, seed, drop_seed, drop, scale, dtype};
  if (check_documents(OP, a)) return -1;
  if (S == 0) return 0;
  if (begin(dev, OP)) return -1;
  auto with = [&](auto element) {
    typedef decltype(element) T;
    return forget || drop > 0 ? attend(dev, document_call<T, true>(a, (T*)y, (float*)lse, (const T*)qkv))
                              : attend(dev, document_call<T, false>(a, (T*)y, (float*)lse, (const T*)qkv));
  };
  return dtype == KOALA_F32 ? with(float{}) : with(bf16{});
}
