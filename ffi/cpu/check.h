// How the C functions of every backend check their arguments and fail: a sentence for koala_last_error(), and -1.
#pragma once
#pragma GCC visibility push(default)
#include "../include/koala.h"
#pragma GCC visibility pop
#include <math.h>
#include <stddef.h>

/** Keeps a sentence for koala_last_error() and returns -1. */
int32_t fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

/** Byte counts are doubles: whole, and exact up to 2^53. */
static inline bool is_byte_count(double bytes) { return bytes >= 0 && bytes <= 9007199254740992. && bytes == floor(bytes); }

static inline const char* type_name(int32_t type) {
  const char* const names[] = {"f32", "bf16", "f64", "f16", "i32", "f8"};
  if (type == KOALA_Q8 || type == KOALA_Q4) return type == KOALA_Q8 ? "q8" : "q4";
  return type >= 0 && type < 6 ? names[type] : "unknown";
}
static inline bool is_float_type(int32_t type) { return type == KOALA_F32 || type == KOALA_BF16
    || type == KOALA_F64; }
static inline size_t type_bytes(int32_t type) { return type == KOALA_F64 ? 8 : type == KOALA_BF16
    || type == KOALA_F16 ? 2 : 4; }

/** Returns from a C function with a sentence unless `condition` holds. */
#define REQUIRE(condition, ...) \
  do {                          \
    if (!(condition)) return fail(__VA_ARGS__); \
  } while (0)
#define REQUIRE_POINTER(op, pointer) REQUIRE((pointer) != nullptr, "koala_" op ": " #pointer " is a null pointer.")
#define REQUIRE_SIZE(op, size) REQUIRE((size) >= 0, "koala_" op ": " #size " is %d and must not be negative.", (int)(size))
#define REQUIRE_POSITIVE(op, size) REQUIRE((size) > 0, "koala_" op ": " #size " is %d and must be positive.", (int)(size))
#define REQUIRE_TYPE(op, type) \
  REQUIRE(is_float_type(type), "koala_" op ": " #type " is %d (%s); f32, bf16 and f64 are supported.", type, type_name(type))
/** Counts that came as a double. */
#define REQUIRE_COUNT(op, n)                                                      \
  REQUIRE((n) >= 0 && (n) <= 9007199254740992. && (n) == (double)(int64_t)(n),    \
          "koala_" op ": " #n " is %g and must be a count.", (double)(n))
