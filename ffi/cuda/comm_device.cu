// What a GPU adds to a communicator: collectives follow the ops that were queued when they were asked for, by an event and
// not by waiting; shared memory is page-locked and copied to and from on a stream of the communicator's own.
#include "comm_device.cuh"

#include <stdlib.h>

namespace {

bool is_object_name(const char* name) {
  return name[0] == '/' && name[1] && !strchr(name + 1, '/') && strlen(name) < 200;
}

bool is_nccl_name(const char* name) {
  if (strncmp(name, NCCL_PREFIX, NCCL_PREFIX_LENGTH) != 0) return false;
  const char* id = name + NCCL_PREFIX_LENGTH;
  if (strspn(id, "0123456789abcdef") != (size_t)NCCL_ID_DIGITS) return false;
  return id[NCCL_ID_DIGITS] == 0 || is_object_name(id + NCCL_ID_DIGITS);
}

int32_t take(koala_comm* c, CommDevice* own) {
  REQUIRE_CUDA("comm_open", cudaSetDevice(own->dev->ordinal));
  REQUIRE_CUDA("comm_open", cudaStreamCreateWithFlags(&own->stream, cudaStreamNonBlocking));
  for (cudaEvent_t& event : own->asked) REQUIRE_CUDA("comm_open", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  REQUIRE_CUDA("comm_open", cudaMallocHost(&own->bounce, c->slot / 2));
  return 0;
}

}  // namespace

int32_t comm_attach(koala_comm* c, koala_device* dev) {
  CommDevice* own = (CommDevice*)malloc(sizeof(CommDevice));
  REQUIRE(own, "koala_comm_open: the system has no memory for a communicator.");
  *own = CommDevice();
  own->dev = dev;
  c->backend = own;
  return take(c, own);
}

void comm_detach(koala_comm* c) {
  CommDevice* own = of_device(c);
  if (!own) return;
  for (cudaEvent_t event : own->asked)
    if (event) cudaEventDestroy(event);
  if (own->bounce) cudaFreeHost(own->bounce);
  if (own->stream) cudaStreamDestroy(own->stream);
  free(own);
  c->backend = nullptr;
  cudaGetLastError();
}

/** Copies are slower where the system refuses, and right all the same. */
void comm_pin(koala_comm*, void* data, size_t bytes) {
  if (cudaHostRegister(data, bytes, cudaHostRegisterPortable) != cudaSuccess) cudaGetLastError();
}
void comm_unpin(koala_comm*, void* data) {
  if (cudaHostUnregister(data) != cudaSuccess) cudaGetLastError();
}

int32_t comm_mark(koala_comm* c, int place) {
  CommDevice* own = of_device(c);
  REQUIRE(!own->dev->recording, "The device records a graph, and collectives cannot be part of one.");
  REQUIRE_CUDA("comm", cudaEventRecord(own->asked[place], own->dev->stream));
  return 0;
}

int32_t comm_begin(koala_comm* c, int place) {
  CommDevice* own = of_device(c);
  REQUIRE_CUDA("comm", cudaSetDevice(own->dev->ordinal));
  REQUIRE_CUDA("comm", cudaStreamWaitEvent(own->stream, own->asked[place], 0));
  return 0;
}

bool comm_reaches(koala_comm*, const void* p) { return !is_device_memory(p); }

int32_t comm_copy(koala_comm* c, void* to, const void* from, size_t bytes) {
  if (!is_device_memory(to) && !is_device_memory(from)) memcpy(to, from, bytes);
  else if (bytes > 0)
    REQUIRE_CUDA("comm", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, of_device(c)->stream));
  return 0;
}

int32_t comm_settle(koala_comm* c) {
  REQUIRE_CUDA("comm", cudaStreamSynchronize(of_device(c)->stream));
  return 0;
}

void* comm_bounce(koala_comm* c) { return of_device(c)->bounce; }

const CommTransport* comm_transport(const char* name) {
  if (is_object_name(name)) return &shared_memory;
  if (is_nccl_name(name)) return &nccl;
  if (!strncmp(name, PEER_PREFIX, PEER_PREFIX_LENGTH) && is_object_name(name + PEER_PREFIX_LENGTH)) return &peer;
  fail("koala_comm_open: \"%.200s\" is no name of a shared memory object, which looks like \"/koala-1234\", none behind "
      "\"peer:\", and no offer of koala_comm_offer.", name);
  return nullptr;
}
