// Files mapped read-only into host memory, for every backend: weights are packed from them without a copy.
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int32_t koala_file_map(void** data, double* bytes, const char* path) {
  REQUIRE_POINTER("file_map", data);
  REQUIRE_POINTER("file_map", bytes);
  REQUIRE_POINTER("file_map", path);
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  REQUIRE(file >= 0, "Cannot open %s: %s.", path, strerror(errno));
  struct stat status;
  const bool known = fstat(file, &status) == 0, regular = known && S_ISREG(status.st_mode);
  if (!regular || status.st_size == 0) {
    close(file);
    return fail("Cannot map %s: %s.", path, !known ? strerror(errno) : !regular ? "it is not a file" : "it is empty");
  }
  void* mapped = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  close(file);
  REQUIRE(mapped != MAP_FAILED, "Cannot map %s: %s.", path, strerror(error));
  madvise(mapped, status.st_size, MADV_WILLNEED);  // weights are read once, soon, and mostly in order
  *data = mapped;
  *bytes = (double)status.st_size;
  return 0;
}

int32_t koala_file_unmap(void* data, double bytes) {
  REQUIRE_POINTER("file_unmap", data);
  REQUIRE(is_byte_count(bytes) && bytes > 0, "koala_file_unmap: %g is not the size of a mapped file.", bytes);
  REQUIRE(munmap(data, (size_t)bytes) == 0, "koala_file_unmap: %s.", strerror(errno));
  return 0;
}
