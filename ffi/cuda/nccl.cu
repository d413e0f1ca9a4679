// Finds NCCL: the file that KOALA_NCCL names, or where all of NVIDIA's libraries are looked for.
#include "device.cuh"
#include "find_library.cuh"
#include "nccl.cuh"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

namespace {

const char* const SONAME = "libnccl.so.2";

Nccl library;
char why[600];  // there is none
pthread_once_t searched = PTHREAD_ONCE_INIT;

void* find() {
  const char* file = getenv("KOALA_NCCL");
  return file && *file ? dlopen(file, RTLD_NOW | RTLD_LOCAL) : find_library(&SONAME, 1);
}

template <class F> bool load(void* handle, F* to, const char* name) {
  *(void**)to = dlsym(handle, name);
  if (!*to) snprintf(why, sizeof why, "NCCL has no %s; version 2.14 or newer is needed.", name);
  return *to != nullptr;
}

bool load_all(void* handle) {
#define LOAD(name) load(handle, &library.name, "nccl" #name)
  return LOAD(GetVersion) && LOAD(GetUniqueId) && LOAD(CommInitRankConfig) && LOAD(CommDestroy) && LOAD(CommAbort)
      && LOAD(CommGetAsyncError) && LOAD(GetErrorString) && LOAD(GetLastError) && LOAD(GroupStart) && LOAD(GroupEnd)
      && LOAD(Send) && LOAD(Recv) && LOAD(AllGather) && LOAD(Broadcast);
#undef LOAD
}

void search() {
  const char* wanted = getenv("KOALA_NCCL");
  if (wanted && strcmp(wanted, "off") == 0) {
    snprintf(why, sizeof why, "NCCL is not used, because KOALA_NCCL is \"off\".");
    return;
  }
  void* handle = find();
  if (!handle) {
    const char* reason = dlerror();
    snprintf(why, sizeof why,
        "NCCL cannot be loaded (%.300s). Install libnccl2, or name its file in KOALA_NCCL or its folder in KOALA_CUDA_LIBS.",
        reason ? reason : SONAME);
    return;
  }
  int version = 0;
  if (!load_all(handle)) return;
  if (library.GetVersion(&version) != NCCL_SUCCESS || version < NCCL_VERSION_MIN) {
    snprintf(why, sizeof why, "NCCL is version %d; 2.14 or newer is needed.", version);
    return;
  }
  library.version = version;
}

}  // namespace

const Nccl* nccl_library() {
  pthread_once(&searched, search);
  if (library.version) return &library;
  fail("%s", why);
  return nullptr;
}
