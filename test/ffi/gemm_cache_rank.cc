// A rank that has timed `count` products (of K 1, 2, 3 ...) and keeps `word` as each one's choice: it prints what they become.
#include <stdio.h>
#include <stdlib.h>

#include "../../ffi/cuda/gemm_cache.cu"

int main(int, char** arguments) {
  const int count = atoi(arguments[1]);
  const uint64_t word = strtoull(arguments[2], nullptr, 10);
  GemmCache cache;
  gemm_cache_open(&cache, "A \"GPU\"/90%s", 90, 130100);
  for (int K = 1; K <= count; K++) {
    const LtKey key = {LT_WEIGHTS, 256, 64, K, 64, 72, LT_R_32F, 1, 0};
    LtAlgorithm choice = {{word, ~word, 0, 1, 2, 3, 4, 5}};
    gemm_cache_keep(cache, key, &choice);
    printf("%llu ", (unsigned long long)choice.words[0]);
  }
}
