// Element types of packed matrices, and the checks that koala_matmul_pack_bytes, koala_matmul_pack and koala_matmul share.
#pragma once
#include "check.h"

constexpr int QUANT_K = 32;  // elements of a row that share a scale

static inline bool is_quantised(int32_t type) { return type == KOALA_Q8 || type == KOALA_Q4; }

#define REQUIRE_WEIGHT_TYPE(op, type)                                                                              \
  REQUIRE(is_float_type(type) || is_quantised(type),                                                               \
          "koala_" op ": " #type " is %d (%s); f32, bf16, f64, q8 and q4 are supported.", type, type_name(type))
#define REQUIRE_BLOCKS(op, K, type)                                                                                \
  REQUIRE(!is_quantised(type) || (K) % QUANT_K == 0,                                                               \
          "koala_" op ": K is %d; %s has a scale for every 32 elements of a row, so K must be a multiple of 32.",   \
          (int)(K), type_name(type))
