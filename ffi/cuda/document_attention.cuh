// What attention over documents knows of a call, forward and backward, and how it checks its arguments.
#pragma once
#include "flash.cuh"
#include "plain_attention.cuh"

constexpr int DOCUMENT_WARPS = 4;

template <class T_, bool HASHED_> struct DocumentCall {
  typedef T_ T;
  static constexpr bool HASHED = HASHED_, LSE = true;
  T* y;
  float* lse;
  const T* qkv;
  RowKeys<T> keys;
  const int32_t* starts;
  int S, window;
  Heads heads;
  float scale;
  Hashing hash;
  POINTERS(y, lse, qkv, keys, starts, hash)
  DEVICE Sequence sequence(int s) const { return {starts[s], starts[s + 1] - starts[s], 0}; }
  DEVICE DocumentHashing hashing(int s) const { return DocumentHashing(hash, starts, s); }
};

/** The arguments that both directions have, as koala.h names them. */
struct DocumentArguments {
  const int32_t* starts;
  const float* forget;
  int32_t S, H, G, E, window, first, seed, drop_seed;
  float drop, scale;
  int32_t dtype;
};

inline int32_t check_documents(const char* op, const DocumentArguments& a) {
  REQUIRE(a.starts, "%s: starts is a null pointer.", op);
  REQUIRE(a.S >= 0, "%s: S is %d and must not be negative.", op, a.S);
  REQUIRE(a.H > 0, "%s: H is %d and must be positive.", op, a.H);
  REQUIRE(a.G > 0, "%s: G is %d and must be positive.", op, a.G);
  REQUIRE(a.H % a.G == 0, "%s: %d query heads cannot share %d key/value heads evenly.", op, a.H, a.G);
  REQUIRE(a.E > 0, "%s: E is %d and must be positive.", op, a.E);
  REQUIRE(a.E % 2 == 0 && a.E <= PLAIN_HEAD_MAX,
      "%s: the head dim is %d; on a GPU it must be even and at most %d.", op, a.E, PLAIN_HEAD_MAX);
  REQUIRE(a.window >= 0, "%s: window is %d and must not be negative.", op, a.window);
  REQUIRE(a.first >= 0, "%s: first is %d and must not be negative.", op, a.first);
  REQUIRE(a.drop >= 0 && a.drop < 1, "%s: drop is %g and must be from 0 to below 1.", op, a.drop);
  REQUIRE(a.scale > 0 && a.scale < 1e30f, "%s: the scale is %g and must be a positive number.", op, a.scale);
  REQUIRE(is_float_type(a.dtype), "%s: dtype is %d (%s); f32, bf16 and f64 are supported.", op, a.dtype,
      type_name(a.dtype));
  REQUIRE(a.dtype != KOALA_F64, "%s: f64 is computed on the CPU only; a GPU takes f32 and bf16.", op);
  return 0;
}

template <class T, bool HASHED>
inline DocumentCall<T, HASHED> document_call(const DocumentArguments& a, T* y, float* lse, const T* qkv) {
  const Heads heads(a.H, a.G, a.E);
  const T* keys = qkv + (size_t)a.H * a.E;
  return {y, lse, qkv, {keys, keys + (size_t)a.G * a.E, a.starts, heads}, a.starts, a.S, a.window, heads, a.scale,
      {hash_key((uint32_t)a.seed, STREAM_FORGET), a.forget, (uint32_t)a.first, (uint32_t)a.drop_seed, a.drop}};
}

/** Lets blocks of a kernel have this much shared memory. */
template <class K> inline int32_t allow_shared(koala_device* dev, const char* op, K kernel, size_t bytes, int S) {
  REQUIRE(bytes <= dev->shared_bytes, "%s: %d documents need %zu bytes of shared memory and this GPU has %zu.", op, S,
      bytes, dev->shared_bytes);
  REQUIRE_CUDA("document_attention",
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
  return 0;
}

/** Launches a kernel whose blocks take what they find to do; `each` blocks a processor, so that the long items of one
 *  are made up for by the short ones of another. */
#define LAUNCH_ITEMS(dev, kernel, each, threads, bytes, ...) \
  LAUNCH((kernel), dim3((dev)->processors * (each)), dim3(threads), bytes, (dev)->stream, __VA_ARGS__)
