// What a GPU keeps of a communicator: a stream beside that of the ops, and events that make it wait for them.
#pragma once
#include "device.cuh"
#include "../cpu/comm.h"

struct CommDevice {
  koala_device* dev = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t asked[COMM_QUEUE] = {};  // what makes the input of each collective that waits
  void* bounce = nullptr;
};

inline CommDevice* of_device(koala_comm* c) { return (CommDevice*)c->backend; }

/** NCCL moves the bytes, in comm_nccl.cu; "nccl:" and the 256 hexadecimal digits of its id, then a name of shared memory
 *  or nothing. */
extern const CommTransport nccl;
constexpr const char* NCCL_PREFIX = "nccl:";
constexpr int NCCL_PREFIX_LENGTH = 5, NCCL_ID_DIGITS = 256;

/** Ranks read each other's GPU memory, in comm_peer.cu; "peer:" and a name of shared memory. */
extern const CommTransport peer;
constexpr const char* PEER_PREFIX = "peer:";
constexpr int PEER_PREFIX_LENGTH = 5;
/** Writes the GPUs whose memory `dev` reads when another process has it: "\"0000:01:00.0\",\"0000:02:00.0\"". */
int32_t list_peers(koala_device* dev, char* text, size_t bytes);
