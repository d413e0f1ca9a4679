// Reads and writes the file of choices.
//
// After the title each line is one choice: the nine numbers of LtKey, the eight words of the algorithm and a sum over the
// line, in hexadecimal. A file is written beside its place and renamed, under a lock that nobody is waited for longer than
// a second: then the choice serves this process alone.
#include "gemm_cache.cuh"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

constexpr int LINE = 400;
constexpr int LOCK_TRIES = 200, LOCK_PAUSE_US = 5000;
constexpr int NUMBERS = sizeof(LtKey) / sizeof(int32_t);

/** FNV-1a */
uint64_t sum_of(const char* text) {
  uint64_t sum = 0xcbf29ce484222325u;
  for (; *text; text++) sum = (sum ^ (unsigned char)*text) * 0x100000001b3u;
  return sum;
}

/** The key's numbers with a blank behind each. */
int print_key(char* line, const LtKey& key) {
  int32_t numbers[NUMBERS];
  memcpy(numbers, &key, sizeof key);
  int n = 0;
  for (int32_t number : numbers) n += snprintf(line + n, LINE - n, "%x ", (unsigned)number);
  return n;
}

void print_line(char* line, const LtKey& key, const LtAlgorithm& choice) {
  int n = print_key(line, key);
  for (uint64_t word : choice.words) n += snprintf(line + n, LINE - n, "%llx ", (unsigned long long)word);
  snprintf(line + n, LINE - n, "%llx\n", (unsigned long long)sum_of(line));
}

/** Whether a line says what its sum says. */
bool is_sound(const char* line) {
  const char* last = strrchr(line, ' ');
  if (!last || !strchr(last, '\n')) return false;
  char text[LINE];
  const size_t n = (size_t)(last + 1 - line);
  memcpy(text, line, n);
  text[n] = 0;
  return strtoull(last, nullptr, 16) == sum_of(text);
}

/** Calls f(line) for each sound line of the file until it returns true. */
template <class F> bool any_line(const GemmCache& cache, F&& f) {
  FILE* file = cache.path[0] ? fopen(cache.path, "re") : nullptr;
  if (!file) return false;
  char line[LINE];
  const size_t n = strlen(cache.title);
  bool found = false;
  if (fgets(line, sizeof line, file) && strncmp(line, cache.title, n) == 0 && line[n] == '\n')
    while (!found && fgets(line, sizeof line, file)) found = is_sound(line) && f((const char*)line);
  fclose(file);
  return found;
}

/** The folder and all above it. */
void make_folders(char* path) {
  for (char* at = path + 1; *at; at++)
    if (*at == '/') {
      *at = 0;
      mkdir(path, 0777);
      *at = '/';
    }
}

/** An open file that is locked, or -1. */
int lock(const GemmCache& cache) {
  char path[sizeof cache.path + 8];
  snprintf(path, sizeof path, "%s.lock", cache.path);
  const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) return -1;
  for (int i = 0; i < LOCK_TRIES; i++) {
    if (flock(file, LOCK_EX | LOCK_NB) == 0) return file;
    if (errno != EWOULDBLOCK && errno != EINTR) break;
    usleep(LOCK_PAUSE_US);
  }
  close(file);
  return -1;
}

/** The file anew, with one line more. */
void rewrite(const GemmCache& cache, const char* line) {
  char beside[sizeof cache.path + 24];
  snprintf(beside, sizeof beside, "%s.%ld", cache.path, (long)getpid());
  FILE* file = fopen(beside, "we");
  if (!file) return;
  bool written = fprintf(file, "%s\n", cache.title) > 0;
  any_line(cache, [&](const char* old) {
    written = fputs(old, file) >= 0 && written;
    return false;
  });
  written = fputs(line, file) >= 0 && written;
  written = fclose(file) == 0 && written;
  if (!written || rename(beside, cache.path) != 0) unlink(beside);
}

}  // namespace

void gemm_cache_open(GemmCache* cache, const char* gpu, int architecture, size_t version) {
  snprintf(cache->title, sizeof cache->title, "koala products 1: %.256s, sm_%d, cuBLASLt %zu", gpu, architecture, version);
  cache->path[0] = 0;
  const char *named = getenv("KOALA_GEMM_CACHE"), *caches = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (named && strcmp(named, "off") == 0) return;
  char folder[800], name[257];
  int n = 0;
  // A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification).
  if (named && *named) n = snprintf(folder, sizeof folder, "%s", named);
  else if (caches && *caches == '/') n = snprintf(folder, sizeof folder, "%s/koala/gemm", caches);
  else if (home && *home == '/') n = snprintf(folder, sizeof folder, "%s/.cache/koala/gemm", home);
  if (n <= 0 || n >= (int)sizeof folder) return;
  snprintf(name, sizeof name, "%s", gpu);
  for (char* c = name; *c; c++)
    if (!(*c >= '0' && *c <= '9') && !(*c >= 'A' && *c <= 'Z') && !(*c >= 'a' && *c <= 'z')) *c = '-';
  snprintf(cache->path, sizeof cache->path, "%s/%s-sm%d-%zu.txt", folder, name, architecture, version);
}

bool gemm_cache_find(const GemmCache& cache, const LtKey& key, LtAlgorithm* found) {
  char wanted[LINE];
  const int n = print_key(wanted, key);
  return any_line(cache, [&](const char* line) {
    if (strncmp(line, wanted, n) != 0) return false;
    char* at = (char*)line + n;
    for (uint64_t& word : found->words) word = strtoull(at, &at, 16);
    return true;
  });
}

void gemm_cache_keep(const GemmCache& cache, const LtKey& key, LtAlgorithm* choice) {
  if (!cache.path[0]) return;
  char path[sizeof cache.path], line[LINE];
  memcpy(path, cache.path, sizeof path);
  make_folders(path);
  const int file = lock(cache);
  if (file < 0) return;
  if (!gemm_cache_find(cache, key, choice)) {
    print_line(line, key, *choice);
    rewrite(cache, line);
  }
  close(file);
}
