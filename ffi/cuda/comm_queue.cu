// The queue of collectives of ffi/cpu, as it is; comm_device.cu has what GPUs add.
#include "../cpu/comm_queue.cc"
