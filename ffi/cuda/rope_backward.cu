// Gradient of the rotary position embedding: every query and key head turns back by its position's angles.
#include "rope.cuh"

int32_t koala_rope_backward(koala_device* dev, void* dqkv, const float* table, const int32_t* positions, int32_t T,
    int32_t H, int32_t G, int32_t E, int32_t dtype) {
  if (check_rope_backward(dev, dqkv, table, positions, T, H, G, E, dtype)) return -1;
  if (T == 0) return 0;
  if (begin(dev, "koala_rope_backward")) return -1;
  return turn<true>(dev, dqkv, table, positions, T, H + G, (H + 2 * G) * E, E, dtype);
}
