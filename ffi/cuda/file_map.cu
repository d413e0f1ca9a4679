// The mapped files of ffi/cpu, as they are: they lie in host memory.
#include "../cpu/file_map.cc"
