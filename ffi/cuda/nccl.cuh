// NVIDIA's NCCL, found when it is first needed: our own prototypes of the functions that move bytes between GPUs.
//
// All of these are in NCCL since 2.14, whose layout of ncclConfig_t newer versions still read. Reductions are not among
// them: the order in which NCCL adds depends on ranks and sizes, and ours does not.
#pragma once
#include <stddef.h>
#include <stdint.h>

/** ncclResult_t; other values are failures with words. */
enum NcclResult { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 };
enum { NCCL_BYTES = 0 };                  // ncclInt8
constexpr int NCCL_VERSION_MIN = 21400;  // 2.14.0

struct NcclId { char bytes[128]; };

/** ncclConfig_t of 2.14. */
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef, version = NCCL_VERSION_MIN;
  int blocking = 0;
};

struct NcclComm;

struct Nccl {
  int version = 0;
  int (*GetVersion)(int* version);
  int (*GetUniqueId)(NcclId* id);
  int (*CommInitRankConfig)(NcclComm** comm, int ranks, NcclId id, int rank, NcclConfig* config);
  int (*CommDestroy)(NcclComm* comm);
  int (*CommAbort)(NcclComm* comm);
  int (*CommGetAsyncError)(NcclComm* comm, int* result);
  const char* (*GetErrorString)(int result);
  const char* (*GetLastError)(NcclComm* comm);
  int (*GroupStart)();
  int (*GroupEnd)();
  int (*Send)(const void* from, size_t count, int type, int peer, NcclComm* comm, cudaStream_t stream);
  int (*Recv)(void* to, size_t count, int type, int peer, NcclComm* comm, cudaStream_t stream);
  int (*AllGather)(const void* from, void* to, size_t count, int type, NcclComm* comm, cudaStream_t stream);
  int (*Broadcast)(const void* from, void* to, size_t count, int type, int root, NcclComm* comm, cudaStream_t stream);
};

/** nullptr with a sentence where it is not to be found or too old. KOALA_NCCL names the file, or is "off". */
const Nccl* nccl_library();
