// Where a token's keys and values lie: pages [token][G][E], keys and values apart.
//
// Behind the codes of a page of f8 stand its scales, float32 [G][P], so that the scales of neighbouring tokens of a head
// are read together. A key's scale multiplies its score, a value's scale its weight.
#pragma once
#include "e4m3.cuh"
#include "kernels.cuh"

/** Tokens of a page; a shift, not a division, where they are a power of two. */
struct PageSize {
  int P, shift;
  explicit PageSize(int P) : P(P), shift(P & (P - 1) ? -1 : __builtin_ctz((unsigned)P)) {}
  DEVICE int page_of(int token) const { return shift >= 0 ? token >> shift : token / P; }
};

/** From page to page, in elements of B. */
template <class B> HOST_DEVICE size_t page_stride(int P, int G, int E) {
  return (size_t)P * G * E + (Same<B, f8>::value ? (size_t)P * G * sizeof(float) : 0);
}

/** Place of a head's element 0 of token `offset` of a page, in elements of B. */
template <class B> DEVICE size_t head_at(int page, int offset, int g, int P, int G, int E) {
  return page * page_stride<B>(P, G, E) + ((size_t)offset * G + g) * E;
}
/** Place of its scale, in bytes. */
DEVICE size_t scale_at(int page, int offset, int g, int P, int G, int E) {
  return page * page_stride<f8>(P, G, E) + (size_t)P * G * E + ((size_t)g * P + offset) * sizeof(float);
}
