// How every backend checks the element types of a cache and of the activations beside it: the same sentences everywhere.
#pragma once
#include "check.h"

static inline bool is_cache_type(int32_t type) { return is_float_type(type) || type == KOALA_F8; }

#define REQUIRE_CACHE_TYPE(op, ctype)                                                                            \
  REQUIRE(is_cache_type(ctype), "koala_" op ": ctype is %d (%s); f32, bf16, f64 and f8 are supported.", ctype, \
      type_name(ctype))
/** Scales are float32: an f8 cache would cost float64 activations what they are for. */
#define REQUIRE_CACHE_TYPES(op, ctype, dtype) \
  REQUIRE_CACHE_TYPE(op, ctype);              \
  REQUIRE_TYPE(op, dtype);                    \
  REQUIRE(ctype != KOALA_F8 || dtype != KOALA_F64, "koala_" op ": an f8 cache needs f32 or bf16 activations, and these are f64.")
