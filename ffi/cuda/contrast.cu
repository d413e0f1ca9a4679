// Contrastive decoding: one row of logits pushed away from another, among the tokens that the first finds plausible; a block
// has a pair.
//
// budget k_contrast: registers 40, shared 128
#include "flat.cuh"
#include "order.cuh"

namespace {

/** How far below the least plausible token the others begin: out of reach of any temperature, penalty or bias in use. */
constexpr float FALL = 1000;

struct ContrastCall {
  float* logits;
  const int32_t* pairs;
  const float* scalars;
  int R, V;
  Faults* faults;
  POINTERS(logits, pairs, scalars, faults)
};

DEVICE float pushed(float a, float b, float strength) { return add_rn(a, mul_rn(strength, add_rn(a, -b))); }

KERNEL(ROW_THREADS) k_contrast(ContrastCall call) {
  const int c = blockIdx.x, V = call.V, first = call.pairs[2 * c], second = call.pairs[2 * c + 1];
  if (!check_index(call.faults, FAULT_ROW, c, first, call.R)) return;
  if (!check_index(call.faults, FAULT_ROW, c, second, call.R)) return;
  float* a = call.logits + (size_t)first * V;
  const float* b = call.logits + (size_t)second * V;
  const float strength = call.scalars[2 * c], alpha = call.scalars[2 * c + 1];
  const LogitRow row = {a, V, 0, 1};
  float top = -INFINITY;
  int unusable = 0;
  for_own(row, [&](float l, int v) {
    const float other = b[v];
    unusable |= l != l || other != other || l == INFINITY || other == INFINITY;
    top = l > top ? l : top;
  });
  top = block_max<ROW_WARPS>(top);
  if (block_max<ROW_WARPS>(unusable)) {
    if (threadIdx.x == 0) a[0] = NAN;
    return;
  }
  const float least = add_rn(top, (float)log((double)alpha));
  float lowest = INFINITY;
  for_own(row, [&](float l, int v) {
    const float l_pushed = pushed(l, b[v], strength);
    lowest = l >= least && l_pushed < lowest ? l_pushed : lowest;
  });
  const float base = add_rn(-block_max<ROW_WARPS>(-lowest), -FALL);
  for_own(row, [&](float l, int v) {
    a[v] = l >= least ? pushed(l, b[v], strength) : add_rn(base, add_rn(l, -top));
  });
}

}  // namespace

int32_t koala_contrast(koala_device* dev, float* logits, const int32_t* pairs, const float* scalars, int32_t C,
    int32_t R, int32_t V) {
  if (check_contrast(dev, logits, pairs, scalars, C, R, V)) return -1;
  if (C == 0) return 0;
  if (begin(dev, "koala_contrast")) return -1;
  const ContrastCall call = {logits, pairs, scalars, R, V, checked(dev, FAULT_ROW, R)};
  LAUNCH(k_contrast, dim3(C), dim3(ROW_THREADS), 0, dev->stream, call);
  return finish(dev);
}
