// The file that remembers which of cuBLASLt's algorithms was the fastest for a product: one for each kind of GPU and version.
//
// Always: what is not ours, of another version or damaged is as if it were not there; nothing here fails. Whoever comes first
// decides: processes that time the same product at once all get the choice that was kept first.
#pragma once
#include "cublaslt.cuh"

struct GemmCache {
  char title[400];  // first line of the file: whose choices these are
  char path[1200];  // "": nothing is kept
};

/** The folder is KOALA_GEMM_CACHE ("off": none), else koala/gemm in XDG_CACHE_HOME or ~/.cache. */
void gemm_cache_open(GemmCache* cache, const char* gpu, int architecture, size_t version);
bool gemm_cache_find(const GemmCache& cache, const LtKey& key, LtAlgorithm* found);
/** Keeps `choice`; where the file has one for this key by now, that becomes the choice. */
void gemm_cache_keep(const GemmCache& cache, const LtKey& key, LtAlgorithm* choice);
