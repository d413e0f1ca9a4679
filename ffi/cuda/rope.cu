// Rotary position embedding of the query and key heads of qkv in place.
#include "rope.cuh"

int32_t koala_rope(koala_device* dev, void* qkv, const float* table, const int32_t* positions, int32_t T, int32_t H,
    int32_t G, int32_t E, int32_t dtype) {
  if (check_rope(dev, qkv, table, positions, T, H, G, E, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_rope")) return -1;
  return turn<false>(dev, qkv, table, positions, T, H + G, (H + 2 * G) * E, E, dtype);
}
