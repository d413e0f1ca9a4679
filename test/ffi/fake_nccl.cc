// NCCL's functions for tests, between processes of one machine whose "GPUs" are emulated: bytes go through shared memory.
//
// Nothing blocks, as in NCCL's non-blocking mode: a call is noted and answered with ncclInProgress, and moves on when it is
// asked for by ncclCommGetAsyncError. KOALA_FAKE_NCCL_FAILS=n makes the n-th call to that function report a remote error.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

namespace {

constexpr int WORLD_MAX = 8;
constexpr size_t BOX = 4096;  // bytes on their way from a rank to another: small, so that messages take many turns

struct Box {
  volatile size_t sent, taken;
  char bytes[BOX];
};
struct Shared {
  volatile int present[WORLD_MAX];
  Box boxes[WORLD_MAX][WORLD_MAX];  // from, to
};
struct Message {
  char* data;
  size_t left;
  int peer;
};
struct Comm {
  Shared* shared;
  int rank, world;
  std::vector<Message> sends, receives;
  char name[128];  // of the shared memory, until all are there
};
struct Id { char bytes[128]; };

thread_local int depth = 0;
int questions = 0;

bool send_some(Comm* c, Message& m) {
  Box& box = c->shared->boxes[c->rank][m.peer];
  while (m.left > 0 && box.sent - box.taken < BOX) {
    box.bytes[box.sent % BOX] = *m.data++;
    m.left--;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    box.sent = box.sent + 1;
  }
  return m.left == 0;
}
bool receive_some(Comm* c, Message& m) {
  Box& box = c->shared->boxes[m.peer][c->rank];
  while (m.left > 0 && box.taken < box.sent) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    *m.data++ = box.bytes[box.taken % BOX];
    m.left--;
    box.taken = box.taken + 1;
  }
  return m.left == 0;
}
/** The oldest message to or from each peer moves on. */
template <class F> void turn(std::vector<Message>& list, F&& some) {
  bool busy[WORLD_MAX] = {};
  for (size_t i = 0; i < list.size();) {
    const int peer = list[i].peer;
    if (!busy[peer] && some(list[i])) list.erase(list.begin() + i);
    else busy[peer] = true, i++;
  }
}
bool over(Comm* c) {
  for (int r = 0; r < c->world; r++)
    if (!c->shared->present[r]) return false;
  if (c->name[0]) shm_unlink(c->name), c->name[0] = 0;
  turn(c->sends, [&](Message& m) { return send_some(c, m); });
  turn(c->receives, [&](Message& m) { return receive_some(c, m); });
  return c->sends.empty() && c->receives.empty();
}

}  // namespace

#define NCCL extern "C" __attribute__((visibility("default")))

NCCL int ncclGetVersion(int* version) { return *version = 23007, 0; }
NCCL const char* ncclGetErrorString(int result) { return result == 6 ? "remote process exited" : "no error"; }
NCCL const char* ncclGetLastError(Comm*) { return "the fake was told to"; }
NCCL int ncclGetUniqueId(Id* id) {
  memset(id, 0, sizeof *id);
  snprintf(id->bytes, sizeof id->bytes, "/koala-fake-nccl-%d-%ld", getpid(), random());
  return 0;
}
NCCL int ncclCommInitRankConfig(Comm** out, int world, Id id, int rank, const int* config) {
  // {size_t size; unsigned magic, version; int blocking}
  if (config[0] != 24 || (unsigned)config[2] != 0xcafebeef || config[4] != 0) return 4;
  const int file = shm_open(id.bytes, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return 2;
  Shared* shared = (Shared*)mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  *out = new Comm{shared, rank, world, {}, {}, {}};
  memcpy((*out)->name, id.bytes, sizeof id.bytes);
  shared->present[rank] = 1;
  return 7;
}
NCCL int ncclCommDestroy(Comm* c) { return munmap(c->shared, sizeof(Shared)); }
NCCL int ncclCommAbort(Comm* c) { return munmap(c->shared, sizeof(Shared)); }
NCCL int ncclCommGetAsyncError(Comm* c, int* result) {
  const char* fails = getenv("KOALA_FAKE_NCCL_FAILS");
  if (fails && ++questions >= atoi(fails)) return *result = 6, 0;
  *result = over(c) ? 0 : 7;
  return 0;
}
NCCL int ncclGroupStart() { return depth++, 0; }
NCCL int ncclGroupEnd() { return depth--, 7; }
NCCL int ncclSend(const void* from, size_t count, int, int peer, Comm* c, void*) {
  c->sends.push_back({(char*)from, count, peer});
  return depth ? 0 : 7;
}
NCCL int ncclRecv(void* to, size_t count, int, int peer, Comm* c, void*) {
  c->receives.push_back({(char*)to, count, peer});
  return depth ? 0 : 7;
}
NCCL int ncclAllGather(const void* from, void* to, size_t count, int, Comm* c, void*) {
  for (int r = 0; r < c->world; r++) {
    char* place = (char*)to + r * count;
    if (r == c->rank) memmove(place, from, count);
    else c->sends.push_back({(char*)to + c->rank * count, count, r}), c->receives.push_back({place, count, r});
  }
  return 7;
}
NCCL int ncclBroadcast(const void*, void* to, size_t count, int, int root, Comm* c, void*) {
  if (c->rank != root) c->receives.push_back({(char*)to, count, root});
  else
    for (int r = 0; r < c->world; r++)
      if (r != root) c->sends.push_back({(char*)to, count, r});
  return 7;
}
