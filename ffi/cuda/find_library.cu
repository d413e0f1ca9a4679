// Looks for NVIDIA's optional libraries.
#include "find_library.cuh"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

const char TOOLKIT[] = "/usr/local/cuda/lib64", TOOLKITS[] = "/usr/local/cuda-*/lib64";

void* open_in(const char* folder, size_t length, const char* const* names, int count) {
  for (int i = 0; i < count; i++) {
    char path[1024];
    const int n = snprintf(path, sizeof path, "%.*s/%s", (int)length, folder, names[i]);
    if (n >= (int)sizeof path) continue;
    if (void* found = dlopen(path, RTLD_NOW | RTLD_LOCAL)) return found;
  }
  return nullptr;
}

/** cuda-13.0 before cuda-9.2. */
int newest_first(const void* a, const void* b) { return strverscmp(*(const char* const*)b, *(const char* const*)a); }

void* open_in_toolkits(const char* const* names, int count) {
  glob_t folders;
  if (glob(TOOLKITS, GLOB_NOSORT, nullptr, &folders) != 0) return nullptr;
  qsort(folders.gl_pathv, folders.gl_pathc, sizeof(char*), newest_first);
  void* found = nullptr;
  for (size_t i = 0; i < folders.gl_pathc && !found; i++)
    found = open_in(folders.gl_pathv[i], strlen(folders.gl_pathv[i]), names, count);
  globfree(&folders);
  return found;
}

}  // namespace

void* find_library(const char* const* names, int count) {
  const char* folders = getenv("KOALA_CUDA_LIBS");
  while (folders && *folders) {
    const size_t length = strcspn(folders, ":");
    if (length > 0)
      if (void* found = open_in(folders, length, names, count)) return found;
    folders += length + (folders[length] == ':');
  }
  for (int i = 0; i < count; i++)
    if (void* found = dlopen(names[i], RTLD_NOW | RTLD_LOCAL)) return found;
  if (void* found = open_in(TOOLKIT, sizeof TOOLKIT - 1, names, count)) return found;
  return open_in_toolkits(names, count);
}
