// Finds NCCL: KOALA_NCCL (a file), the folders of KOALA_CUDA_LIBS, the loader's own places, then those of the toolkit.
#include "device.cuh"
#include "nccl.cuh"

#include <dlfcn.h>
#include <initializer_list>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

namespace {

constexpr const char* SONAME = "libnccl.so.2";

Nccl library;
char why[600];  // there is none
pthread_once_t searched = PTHREAD_ONCE_INIT;

void* open_in(const char* folder, int length) {
  char path[1024];
  snprintf(path, sizeof path, "%.*s/%s", length, folder, SONAME);
  return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

void* find() {
  const char* file = getenv("KOALA_NCCL");
  if (file && *file) return dlopen(file, RTLD_NOW | RTLD_LOCAL);
  const char* folders = getenv("KOALA_CUDA_LIBS");
  while (folders && *folders) {
    const int length = (int)strcspn(folders, ":");
    void* found = length > 0 ? open_in(folders, length) : nullptr;
    if (found) return found;
    folders += length + (folders[length] == ':');
  }
  void* found = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
  for (const char* folder : {"/usr/local/cuda/lib64", "/usr/local/cuda-13.0/lib64", "/usr/local/nccl/lib"})
    if (!found) found = open_in(folder, (int)strlen(folder));
  return found;
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
