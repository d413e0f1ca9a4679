// The same as arguments.h of the ops of training.
#pragma once
#include "check.h"

static inline int32_t check_document_attention_backward(koala_device* dev, void* dqkv, const void* dy, const void* y,
    const void* lse, const void* qkv) {
  REQUIRE_POINTER("document_attention_backward", dev);
  REQUIRE_POINTER("document_attention_backward", dqkv);
  REQUIRE_POINTER("document_attention_backward", dy);
  REQUIRE_POINTER("document_attention_backward", y);
  REQUIRE_POINTER("document_attention_backward", lse);
  REQUIRE_POINTER("document_attention_backward", qkv);
  return 0;
}

static inline int32_t check_dropout(koala_device* dev, void* y, const void* x, double offset, int32_t n, float p,
    int32_t dtype) {
  REQUIRE_POINTER("dropout", dev);
  REQUIRE_POINTER("dropout", y);
  REQUIRE_POINTER("dropout", x);
  REQUIRE_COUNT("dropout", offset);
  REQUIRE_SIZE("dropout", n);
  REQUIRE(p >= 0 && p < 1, "koala_dropout: the probability is %g and must be from 0 to below 1.", p);
  REQUIRE_TYPE("dropout", dtype);
  return 0;
}

static inline int32_t check_axpby(koala_device* dev, void* y, const void* x, double n, int32_t dtype) {
  REQUIRE_POINTER("axpby", dev);
  REQUIRE_POINTER("axpby", y);
  REQUIRE_POINTER("axpby", x);
  REQUIRE_COUNT("axpby", n);
  REQUIRE_TYPE("axpby", dtype);
  return 0;
}

static inline int32_t check_accumulate(koala_device* dev, void* sum, const float* x, double n, int32_t stype) {
  REQUIRE_POINTER("accumulate", dev);
  REQUIRE_POINTER("accumulate", sum);
  REQUIRE_POINTER("accumulate", x);
  REQUIRE_COUNT("accumulate", n);
  REQUIRE(stype == KOALA_F32 || stype == KOALA_BF16,
      "koala_accumulate: stype is %d (%s); sums are f32 or bf16.", stype, type_name(stype));
  return 0;
}

static inline int32_t check_cast(koala_device* dev, void* to, const void* from, double n, int32_t to_type,
    int32_t from_type) {
  REQUIRE_POINTER("cast", dev);
  REQUIRE_POINTER("cast", to);
  REQUIRE_POINTER("cast", from);
  REQUIRE_COUNT("cast", n);
  REQUIRE_TYPE("cast", to_type);
  REQUIRE(is_float_type(from_type) || from_type == KOALA_F16,
      "koala_cast: from_type is %d (%s); f32, bf16, f16 and f64 can be read.", from_type, type_name(from_type));
  return 0;
}

static inline int32_t check_sum_squares(koala_device* dev, double* sum, const void* x, double n, int32_t dtype) {
  REQUIRE_POINTER("sum_squares", dev);
  REQUIRE_POINTER("sum_squares", sum);
  REQUIRE_POINTER("sum_squares", x);
  REQUIRE_COUNT("sum_squares", n);
  REQUIRE_TYPE("sum_squares", dtype);
  return 0;
}

static inline int32_t check_embed_backward(koala_device* dev, void* dtable, const void* dy, const int32_t* tokens,
    const int32_t* order, int32_t T, int32_t D, int32_t V, int32_t dtype) {
  REQUIRE_POINTER("embed_backward", dev);
  REQUIRE_POINTER("embed_backward", dtable);
  REQUIRE_POINTER("embed_backward", dy);
  REQUIRE_POINTER("embed_backward", tokens);
  REQUIRE_POINTER("embed_backward", order);
  REQUIRE_SIZE("embed_backward", T);
  REQUIRE_POSITIVE("embed_backward", D);
  REQUIRE_POSITIVE("embed_backward", V);
  REQUIRE_TYPE("embed_backward", dtype);
  return 0;
}

static inline int32_t check_fill_normal(koala_device* dev, float* y, double n, double offset, double seed,
    double std) {
  REQUIRE_POINTER("fill_normal", dev);
  REQUIRE_POINTER("fill_normal", y);
  REQUIRE_COUNT("fill_normal", n);
  REQUIRE_COUNT("fill_normal", offset);
  REQUIRE(offset + n <= 4294967296. && (int64_t)offset % 2 == 0,
      "koala_fill_normal: %g numbers from %g on; a stream has 2^32 in pairs.", n, offset);
  REQUIRE_COUNT("fill_normal", seed);
  REQUIRE(std >= 0 && std < 1e30, "koala_fill_normal: std is %g and must not be negative.", std);
  return 0;
}

static inline int32_t check_matmul_pack_transposed(koala_device* dev, void* packed, const void* weight, int32_t N,
    int32_t K, int32_t wtype, int32_t stype) {
  REQUIRE_POINTER("matmul_pack_transposed", dev);
  REQUIRE_POINTER("matmul_pack_transposed", packed);
  REQUIRE_POINTER("matmul_pack_transposed", weight);
  REQUIRE_POSITIVE("matmul_pack_transposed", N);
  REQUIRE_POSITIVE("matmul_pack_transposed", K);
  REQUIRE_TYPE("matmul_pack_transposed", wtype);
  REQUIRE(is_float_type(stype) || stype == KOALA_F16,
      "koala_matmul_pack_transposed: stype is %d (%s); f32, bf16, f16 and f64 can be packed.", stype, type_name(stype));
  return 0;
}

static inline int32_t check_matmul_weight_gradient(koala_device* dev, void* dw, const void* dy, const void* x,
    int32_t T, int32_t N, int32_t K, int32_t ctype, int32_t dtype) {
  REQUIRE_POINTER("matmul_weight_gradient", dev);
  REQUIRE_POINTER("matmul_weight_gradient", dw);
  REQUIRE_POINTER("matmul_weight_gradient", dy);
  REQUIRE_POINTER("matmul_weight_gradient", x);
  REQUIRE_SIZE("matmul_weight_gradient", T);
  REQUIRE_POSITIVE("matmul_weight_gradient", N);
  REQUIRE_POSITIVE("matmul_weight_gradient", K);
  REQUIRE_TYPE("matmul_weight_gradient", ctype);
  REQUIRE_TYPE("matmul_weight_gradient", dtype);
  return 0;
}

static inline int32_t check_bias_gradient(koala_device* dev, void* db, const void* dy, int32_t T, int32_t N,
    int32_t dtype) {
  REQUIRE_POINTER("bias_gradient", dev);
  REQUIRE_POINTER("bias_gradient", db);
  REQUIRE_POINTER("bias_gradient", dy);
  REQUIRE_SIZE("bias_gradient", T);
  REQUIRE_POSITIVE("bias_gradient", N);
  REQUIRE_TYPE("bias_gradient", dtype);
  return 0;
}

static inline int32_t check_cross_entropy(koala_device* dev, void* logprobs, void* lse, const void* logits,
    const int32_t* targets, int32_t R, int32_t V, int32_t dtype) {
  REQUIRE_POINTER("cross_entropy", dev);
  REQUIRE_POINTER("cross_entropy", logprobs);
  REQUIRE_POINTER("cross_entropy", lse);
  REQUIRE_POINTER("cross_entropy", logits);
  REQUIRE_POINTER("cross_entropy", targets);
  REQUIRE_SIZE("cross_entropy", R);
  REQUIRE_POSITIVE("cross_entropy", V);
  REQUIRE_TYPE("cross_entropy", dtype);
  return 0;
}

static inline int32_t check_cross_entropy_backward(koala_device* dev, void* logits, const void* lse,
    const void* weights, const int32_t* targets, int32_t R, int32_t V, int32_t dtype) {
  REQUIRE_POINTER("cross_entropy_backward", dev);
  REQUIRE_POINTER("cross_entropy_backward", logits);
  REQUIRE_POINTER("cross_entropy_backward", lse);
  REQUIRE_POINTER("cross_entropy_backward", weights);
  REQUIRE_POINTER("cross_entropy_backward", targets);
  REQUIRE_SIZE("cross_entropy_backward", R);
  REQUIRE_POSITIVE("cross_entropy_backward", V);
  REQUIRE_TYPE("cross_entropy_backward", dtype);
  return 0;
}

static inline int32_t check_silu_mul_backward(koala_device* dev, void* dgate_up, const void* dy, const void* gate_up,
    int32_t T, int32_t F, int32_t dtype) {
  REQUIRE_POINTER("silu_mul_backward", dev);
  REQUIRE_POINTER("silu_mul_backward", dgate_up);
  REQUIRE_POINTER("silu_mul_backward", dy);
  REQUIRE_POINTER("silu_mul_backward", gate_up);
  REQUIRE_SIZE("silu_mul_backward", T);
  REQUIRE_POSITIVE("silu_mul_backward", F);
  REQUIRE_TYPE("silu_mul_backward", dtype);
  return 0;
}

static inline int32_t check_rms_norm_backward(koala_device* dev, void* dx, void* dweight, const void* dy,
    const void* x, const void* weight, int32_t T, int32_t D, int32_t dtype) {
  REQUIRE_POINTER("rms_norm_backward", dev);
  REQUIRE_POINTER("rms_norm_backward", dx);
  REQUIRE_POINTER("rms_norm_backward", dweight);
  REQUIRE_POINTER("rms_norm_backward", dy);
  REQUIRE_POINTER("rms_norm_backward", x);
  REQUIRE_POINTER("rms_norm_backward", weight);
  REQUIRE_SIZE("rms_norm_backward", T);
  REQUIRE_POSITIVE("rms_norm_backward", D);
  REQUIRE_TYPE("rms_norm_backward", dtype);
  return 0;
}

static inline int32_t check_qk_norm_backward(koala_device* dev, void* dqkv, void* dq_weight, void* dk_weight,
    const void* qkv, const void* q_weight, const void* k_weight, int32_t T, int32_t H, int32_t G, int32_t E,
    int32_t dtype) {
  REQUIRE_POINTER("qk_norm_backward", dev);
  REQUIRE_POINTER("qk_norm_backward", dqkv);
  REQUIRE_POINTER("qk_norm_backward", dq_weight);
  REQUIRE_POINTER("qk_norm_backward", dk_weight);
  REQUIRE_POINTER("qk_norm_backward", qkv);
  REQUIRE_POINTER("qk_norm_backward", q_weight);
  REQUIRE_POINTER("qk_norm_backward", k_weight);
  REQUIRE_SIZE("qk_norm_backward", T);
  REQUIRE_POSITIVE("qk_norm_backward", H);
  REQUIRE_POSITIVE("qk_norm_backward", G);
  REQUIRE_POSITIVE("qk_norm_backward", E);
  REQUIRE_TYPE("qk_norm_backward", dtype);
  return 0;
}

static inline int32_t check_adamw(koala_device* dev, void* w, void* low, void* m, void* v, const void* g, double n,
    const double* scalars, double index, int32_t precision, int32_t dtype) {
  REQUIRE_POINTER("adamw", dev);
  REQUIRE_POINTER("adamw", w);
  REQUIRE_POINTER("adamw", m);
  REQUIRE_POINTER("adamw", v);
  REQUIRE_POINTER("adamw", g);
  REQUIRE_COUNT("adamw", n);
  REQUIRE_POINTER("adamw", scalars);
  REQUIRE_COUNT("adamw", index);
  REQUIRE(precision == 0 || precision == 1,
      "koala_adamw: precision is %d; there are 0 (plain) and 1 (bf16 weights with a split master).", precision);
  REQUIRE(precision == 0 || low,
      "koala_adamw: precision 1 needs the low halves of the masters, and low is a null pointer.");
  REQUIRE(dtype == KOALA_F32 || dtype == (precision ? KOALA_BF16 : KOALA_F64),
      "koala_adamw: dtype is %d (%s); precision %d takes %s.", dtype, type_name(dtype), precision, precision
      ? "f32 and bf16 gradients" : "f32 and f64");
  return 0;
}

static inline int32_t check_master_split(koala_device* dev, void* w, void* low, const float* master, double n) {
  REQUIRE_POINTER("master_split", dev);
  REQUIRE_POINTER("master_split", w);
  REQUIRE_POINTER("master_split", low);
  REQUIRE_POINTER("master_split", master);
  REQUIRE_COUNT("master_split", n);
  return 0;
}

static inline int32_t check_master_join(koala_device* dev, float* master, const void* w, const void* low, double n) {
  REQUIRE_POINTER("master_join", dev);
  REQUIRE_POINTER("master_join", master);
  REQUIRE_POINTER("master_join", w);
  REQUIRE_POINTER("master_join", low);
  REQUIRE_COUNT("master_join", n);
  return 0;
}

static inline int32_t check_rope_backward(koala_device* dev, void* dqkv, const float* table, const int32_t* positions,
    int32_t T, int32_t H, int32_t G, int32_t E, int32_t dtype) {
  REQUIRE_POINTER("rope_backward", dev);
  REQUIRE_POINTER("rope_backward", dqkv);
  REQUIRE_POINTER("rope_backward", table);
  REQUIRE_POINTER("rope_backward", positions);
  REQUIRE_SIZE("rope_backward", T);
  REQUIRE_POSITIVE("rope_backward", H);
  REQUIRE_POSITIVE("rope_backward", G);
  REQUIRE_POSITIVE("rope_backward", E);
  REQUIRE(E % 2 == 0, "koala_rope_backward: the head dimension is %d and must be even.", E);
  REQUIRE_TYPE("rope_backward", dtype);
  return 0;
}
