// Products through cuBLASLt on one device: which it takes, and by which of the library's algorithms.
//
// KOALA_GEMM=auto (or unset) takes the library where it is found, cublaslt insists on it, own never loads it. For each shape,
// with T rounded up to a power of two or the middle of two, the library's proposals are timed once on the first such
// product's own operands; the fastest serves from then on, and is kept in a file for other processes (gemm_cache.cuh).
//
// Always: a product is the same bits whenever it runs with the same choice, but a row's may depend on T, as the choice and the
// library's tiles do. Nothing is timed while the stream records a graph: a shape that is not settled then takes the
// library's first proposal, for that time.
#pragma once
#include "cublaslt.cuh"
#include "device.cuh"

constexpr int LT_ROWS = 128;  // of x, and of dy: fewer are ours, and a step of decoding has fewer
constexpr int LT_SIDE = 32;   // of N and K: what is narrower waits for memory, not for products

/** Does what KOALA_GEMM asks for, and says in dev->gemm what came of it. */
int32_t cublaslt_open(koala_device* dev, const char* gpu);
void cublaslt_close(koala_device* dev);
/** Whether a bf16 product of these sizes is cuBLASLt's, if its addresses are multiples of LT_ALIGNMENT. */
bool cublaslt_takes(const koala_device* dev, int T, int N, int K);
/** Multiplies, with LT_WORKSPACE bytes of workspace. *done is false where the library has no algorithm for it. */
int32_t cublaslt_multiply(koala_device* dev, const LtProduct& p, void* workspace, bool* done);
