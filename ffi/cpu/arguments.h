// What every backend asks of the arguments of an op before it asks what is its own to ask: 0, or -1 with a sentence.
#pragma once
#include "cache_check.h"
#include "weight_types.h"

static inline int32_t check_attention(koala_device* dev, void* y, const void* qkv, const void* keys,
    const void* values, const int32_t* starts, const int32_t* lengths, const int32_t* pages, int32_t S, int32_t M,
    int32_t P) {
  REQUIRE_POINTER("attention", dev);
  REQUIRE_POINTER("attention", y);
  REQUIRE_POINTER("attention", qkv);
  REQUIRE_POINTER("attention", keys);
  REQUIRE_POINTER("attention", values);
  REQUIRE_POINTER("attention", starts);
  REQUIRE_POINTER("attention", lengths);
  REQUIRE_POINTER("attention", pages);
  REQUIRE_SIZE("attention", S);
  REQUIRE_POSITIVE("attention", M);
  REQUIRE(P > 0 && P % 32 == 0, "koala_attention: a page has %d tokens; it must be a positive multiple of 32.", P);
  return 0;
}

static inline int32_t check_cache_page_bytes(koala_device* dev, double* bytes, int32_t P, int32_t G, int32_t E,
    int32_t ctype) {
  REQUIRE_POINTER("cache_page_bytes", dev);
  REQUIRE_POINTER("cache_page_bytes", bytes);
  REQUIRE(P > 0 && P % 32 == 0, "koala_cache_page_bytes: a page has %d tokens; it must be a positive multiple of 32.",
      P);
  REQUIRE_POSITIVE("cache_page_bytes", G);
  REQUIRE_POSITIVE("cache_page_bytes", E);
  REQUIRE_CACHE_TYPE("cache_page_bytes", ctype);
  return 0;
}

static inline int32_t check_cache_write(koala_device* dev, void* keys, void* values, const void* qkv,
    const int32_t* slots, int32_t T, int32_t H, int32_t G, int32_t E, int32_t P, int32_t ctype, int32_t dtype) {
  REQUIRE_POINTER("cache_write", dev);
  REQUIRE_POINTER("cache_write", keys);
  REQUIRE_POINTER("cache_write", values);
  REQUIRE_POINTER("cache_write", qkv);
  REQUIRE_POINTER("cache_write", slots);
  REQUIRE_SIZE("cache_write", T);
  REQUIRE_POSITIVE("cache_write", H);
  REQUIRE_POSITIVE("cache_write", G);
  REQUIRE_POSITIVE("cache_write", E);
  REQUIRE(P > 0 && P % 32 == 0, "koala_cache_write: a page has %d tokens; it must be a positive multiple of 32.", P);
  REQUIRE_CACHE_TYPES("cache_write", ctype, dtype);
  return 0;
}

static inline int32_t check_contrast(koala_device* dev, float* logits, const int32_t* pairs, const float* scalars,
    int32_t C, int32_t R, int32_t V) {
  REQUIRE_POINTER("contrast", dev);
  REQUIRE_POINTER("contrast", logits);
  REQUIRE_POINTER("contrast", pairs);
  REQUIRE_POINTER("contrast", scalars);
  REQUIRE_SIZE("contrast", C);
  REQUIRE_SIZE("contrast", R);
  REQUIRE_POSITIVE("contrast", V);
  return 0;
}

static inline int32_t check_embed(koala_device* dev, void* y, const void* table, const int32_t* tokens, int32_t T,
    int32_t D, int32_t V, int32_t ttype, int32_t dtype) {
  REQUIRE_POINTER("embed", dev);
  REQUIRE_POINTER("embed", y);
  REQUIRE_POINTER("embed", table);
  REQUIRE_POINTER("embed", tokens);
  REQUIRE_SIZE("embed", T);
  REQUIRE_POSITIVE("embed", D);
  REQUIRE_POSITIVE("embed", V);
  REQUIRE(is_float_type(ttype) || ttype == KOALA_F16,
      "koala_embed: ttype is %d (%s); f32, bf16, f16 and f64 are supported.", ttype, type_name(ttype));
  REQUIRE_TYPE("embed", dtype);
  return 0;
}

static inline int32_t check_gather_rows(koala_device* dev, void* y, const void* x, const int32_t* rows, int32_t R,
    int32_t D, int32_t dtype) {
  REQUIRE_POINTER("gather_rows", dev);
  REQUIRE_POINTER("gather_rows", y);
  REQUIRE_POINTER("gather_rows", x);
  REQUIRE_POINTER("gather_rows", rows);
  REQUIRE_SIZE("gather_rows", R);
  REQUIRE_POSITIVE("gather_rows", D);
  REQUIRE_TYPE("gather_rows", dtype);
  return 0;
}

static inline int32_t check_sum_rows(koala_device* dev, double* y, const void* x, const int32_t* starts, int32_t S,
    int32_t D, int32_t dtype) {
  REQUIRE_POINTER("sum_rows", dev);
  REQUIRE_POINTER("sum_rows", y);
  REQUIRE_POINTER("sum_rows", x);
  REQUIRE_POINTER("sum_rows", starts);
  REQUIRE_SIZE("sum_rows", S);
  REQUIRE_POSITIVE("sum_rows", D);
  REQUIRE_TYPE("sum_rows", dtype);
  return 0;
}

static inline int32_t check_logprobs(koala_device* dev, float* logprobs, int32_t* ranks, int32_t* top_ids,
    float* top_logprobs, const float* logits, const int32_t* ids, int32_t R, int32_t V, int32_t k) {
  REQUIRE_POINTER("logprobs", dev);
  REQUIRE_POINTER("logprobs", logprobs);
  REQUIRE_POINTER("logprobs", ranks);
  REQUIRE_POINTER("logprobs", logits);
  REQUIRE_POINTER("logprobs", ids);
  REQUIRE_SIZE("logprobs", R);
  REQUIRE_POSITIVE("logprobs", V);
  REQUIRE(k >= 0 && k <= V, "koala_logprobs: k is %d and must be from 0 to the vocabulary of %d.", k, V);
  REQUIRE(k == 0 || (top_ids && top_logprobs),
      "koala_logprobs: k is %d but the lists for the best tokens are null pointers.", k);
  return 0;
}

static inline int32_t check_matmul_pack_bytes(koala_device* dev, double* bytes, int32_t N, int32_t K, int32_t wtype) {
  REQUIRE_POINTER("matmul_pack_bytes", dev);
  REQUIRE_POINTER("matmul_pack_bytes", bytes);
  REQUIRE_POSITIVE("matmul_pack_bytes", N);
  REQUIRE_POSITIVE("matmul_pack_bytes", K);
  REQUIRE_WEIGHT_TYPE("matmul_pack_bytes", wtype);
  REQUIRE_BLOCKS("matmul_pack_bytes", K, wtype);
  return 0;
}

static inline int32_t check_matmul_pack(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K,
    int32_t row, int32_t R, int32_t wtype, int32_t stype) {
  REQUIRE_POINTER("matmul_pack", dev);
  REQUIRE_POINTER("matmul_pack", packed);
  REQUIRE_POINTER("matmul_pack", weight);
  REQUIRE_POSITIVE("matmul_pack", N);
  REQUIRE_POSITIVE("matmul_pack", K);
  REQUIRE_SIZE("matmul_pack", R);
  REQUIRE_WEIGHT_TYPE("matmul_pack", wtype);
  REQUIRE_BLOCKS("matmul_pack", K, wtype);
  REQUIRE(is_float_type(stype) || stype == KOALA_F16,
      "koala_matmul_pack: stype is %d (%s); f32, bf16, f16 and f64 can be packed.", stype, type_name(stype));
  REQUIRE(row >= 0 && (int64_t)row + R <= N, "koala_matmul_pack: rows %d to %lld do not fit a matrix of %d rows.",
      row, (long long)row + R, N);
  return 0;
}

static inline int32_t check_matmul(koala_device* dev, void* y, const void* x, const void* packed, int32_t T,
    int32_t N, int32_t K, int32_t wtype, int32_t dtype) {
  REQUIRE_POINTER("matmul", dev);
  REQUIRE_POINTER("matmul", y);
  REQUIRE_POINTER("matmul", x);
  REQUIRE_POINTER("matmul", packed);
  REQUIRE_SIZE("matmul", T);
  REQUIRE_POSITIVE("matmul", N);
  REQUIRE_POSITIVE("matmul", K);
  REQUIRE_WEIGHT_TYPE("matmul", wtype);
  REQUIRE_BLOCKS("matmul", K, wtype);
  REQUIRE_TYPE("matmul", dtype);
  return 0;
}

static inline int32_t check_silu_mul(koala_device* dev, void* y, const void* gate_up, int32_t T, int32_t F,
    int32_t dtype) {
  REQUIRE_POINTER("silu_mul", dev);
  REQUIRE_POINTER("silu_mul", y);
  REQUIRE_POINTER("silu_mul", gate_up);
  REQUIRE_SIZE("silu_mul", T);
  REQUIRE_POSITIVE("silu_mul", F);
  REQUIRE_TYPE("silu_mul", dtype);
  return 0;
}

static inline int32_t check_rms_norm(koala_device* dev, void* y, const void* x, const void* weight, int32_t T,
    int32_t D, int32_t dtype) {
  REQUIRE_POINTER("rms_norm", dev);
  REQUIRE_POINTER("rms_norm", y);
  REQUIRE_POINTER("rms_norm", x);
  REQUIRE_POINTER("rms_norm", weight);
  REQUIRE_SIZE("rms_norm", T);
  REQUIRE_POSITIVE("rms_norm", D);
  REQUIRE_TYPE("rms_norm", dtype);
  return 0;
}

static inline int32_t check_add_rms_norm(koala_device* dev, void* y, void* x, const void* delta, const void* weight,
    int32_t T, int32_t D, int32_t dtype) {
  REQUIRE_POINTER("add_rms_norm", dev);
  REQUIRE_POINTER("add_rms_norm", y);
  REQUIRE_POINTER("add_rms_norm", x);
  REQUIRE_POINTER("add_rms_norm", delta);
  REQUIRE_POINTER("add_rms_norm", weight);
  REQUIRE_SIZE("add_rms_norm", T);
  REQUIRE_POSITIVE("add_rms_norm", D);
  REQUIRE_TYPE("add_rms_norm", dtype);
  return 0;
}

static inline int32_t check_qk_norm(koala_device* dev, void* qkv, const void* q_weight, const void* k_weight,
    int32_t T, int32_t H, int32_t G, int32_t E, int32_t dtype) {
  REQUIRE_POINTER("qk_norm", dev);
  REQUIRE_POINTER("qk_norm", qkv);
  REQUIRE_POINTER("qk_norm", q_weight);
  REQUIRE_POINTER("qk_norm", k_weight);
  REQUIRE_SIZE("qk_norm", T);
  REQUIRE_POSITIVE("qk_norm", H);
  REQUIRE_POSITIVE("qk_norm", G);
  REQUIRE_POSITIVE("qk_norm", E);
  REQUIRE_TYPE("qk_norm", dtype);
  return 0;
}

static inline int32_t check_rope(koala_device* dev, void* qkv, const float* table, const int32_t* positions,
    int32_t T, int32_t H, int32_t G, int32_t E, int32_t dtype) {
  REQUIRE_POINTER("rope", dev);
  REQUIRE_POINTER("rope", qkv);
  REQUIRE_POINTER("rope", table);
  REQUIRE_POINTER("rope", positions);
  REQUIRE_SIZE("rope", T);
  REQUIRE_POSITIVE("rope", H);
  REQUIRE_POSITIVE("rope", G);
  REQUIRE_POSITIVE("rope", E);
  REQUIRE(E % 2 == 0, "koala_rope: the head dimension is %d and must be even.", E);
  REQUIRE_TYPE("rope", dtype);
  return 0;
}

static inline int32_t check_sample(koala_device* dev, int32_t* ids, float* logits, const float* scalars,
    const double* uniform, const int32_t* history_starts, const int32_t* bias_starts, const int32_t* mask_rows,
    int32_t R, int32_t V) {
  REQUIRE_POINTER("sample", dev);
  REQUIRE_POINTER("sample", ids);
  REQUIRE_POINTER("sample", logits);
  REQUIRE_POINTER("sample", scalars);
  REQUIRE_POINTER("sample", uniform);
  REQUIRE_POINTER("sample", history_starts);
  REQUIRE_POINTER("sample", bias_starts);
  REQUIRE_POINTER("sample", mask_rows);
  REQUIRE_SIZE("sample", R);
  REQUIRE_POSITIVE("sample", V);
  return 0;
}
