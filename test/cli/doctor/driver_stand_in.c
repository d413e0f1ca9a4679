/* A stand-in for libcuda.so.1 with as many devices as -DDEVICES says. -DINIT_ERROR=n: cuInit fails with n. -DMEMORY_ERROR=n: the
 * question for a device's memory does. -DCUDA=n: the driver's CUDA version. Devices 0 and 1 are peers, others are not. */
#include <stddef.h>
#include <string.h>
#ifndef DEVICES
#define DEVICES 1
#endif
#ifndef INIT_ERROR
#define INIT_ERROR 0
#endif
#ifndef MEMORY_ERROR
#define MEMORY_ERROR 0
#endif
#ifndef CUDA
#define CUDA 13000
#endif
static int ready;
int cuInit(unsigned flags) { ready = INIT_ERROR == 0 && flags == 0; return INIT_ERROR; }
int cuDriverGetVersion(int* version) { *version = CUDA; return 0; }
int cuGetErrorString(int error, const char** text) {
  *text = error == 2 ? "out of memory" : error == 3 ? "initialization error" : error == 100 ? "no CUDA-capable device is detected" : NULL;
  return *text ? 0 : 1;
}
int cuDeviceGetCount(int* count) { *count = DEVICES; return ready ? 0 : 3; }
int cuDeviceGet(int* device, int ordinal) { *device = 7 + ordinal; return ordinal < DEVICES ? 0 : 101; }
int cuDeviceGetName(char* name, int length, int device) { strncpy(name, "Stand-in GPU", (size_t)length); return device >= 7 ? 0 : 101; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)139 << 30; return device >= 7 ? MEMORY_ERROR : 101; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : -1;
  return device >= 7 ? 0 : 101;
}
int cuDeviceCanAccessPeer(int* can, int device, int peer) { *can = device <= 8 && peer <= 8; return device == peer ? 101 : 0; }
