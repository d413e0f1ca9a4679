// The table of one instruction set.
#include "device.h"

namespace KOALA_NS {
extern const Kernels kernels;
#define X(name) name,
const Kernels kernels = {KOALA_KERNELS(X)};
#undef X
}  // namespace KOALA_NS
