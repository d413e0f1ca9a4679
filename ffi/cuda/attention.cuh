// What all attention kernels share: which rows are whose, which keys they see, where these lie, how work is listed.
//
// Row r of a (sequence, key/value head) is its token r / (H/G), query head g * H/G + r % (H/G): the heads that share
// keys stand in one tile. Keys of a row are the tokens low .. position, taken in tiles at absolute positions. A key
// that a row does not see leaves the row's bits alone, so a row does not depend on those that share its tile.
#pragma once
#include "cache.cuh"
#include "hash.cuh"
#include "kernels.cuh"

constexpr float LOG2_E = 1.44269504f;

/** 2^x to 22 bits. */
DEVICE float exp2_fast(float x) {
#if defined(KOALA_EMULATOR)
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/** Rows of qkv that belong to one sequence, and how many tokens precede them. */
struct Sequence { int first, tokens, past; };

struct Heads {
  int H, G, E;
  int group;                // query heads that share one key/value head
  uint32_t group_fraction;  // 2^32 / group, rounded up
  Heads(int H, int G, int E) : H(H), G(G), E(E), group(H / G), group_fraction(0xffffffffu / (H / G) + 1) {}
  /** row / group without a division; exact for rows below 2^32 / group. */
  DEVICE int token_of(int row) const { return group == 1 ? row : (int)__umulhi((unsigned)row, group_fraction); }
  HOST_DEVICE size_t width() const { return (size_t)(H + 2 * G) * E; }
};

/** Two elements side by side, as tensor cores want them. */
DEVICE uint32_t load_pair(const bf16* p) { return *(const uint32_t*)p; }
DEVICE uint32_t load_pair(const float* p) { return to_bf16x2(p[0], p[1]); }
DEVICE void store_pair(bf16* p, float a, float b) { *(uint32_t*)p = to_bf16x2(a, b); }
DEVICE void store_pair(float* p, float a, float b) { p[0] = a, p[1] = b; }

// ---- where keys lie ----

/** Keys and values in pages (cache.cuh). */
template <class B> struct PagedKeys {
  typedef B Element;
  const B *keys, *values;
  const int32_t* pages;
  int M;
  PageSize size;
  Heads heads;
  POINTERS(keys, values, pages)
  DEVICE size_t stride() const { return (size_t)heads.G * heads.E; }
  /** Token j of sequence s, head g; the tokens up to the next multiple of 32 lie `stride` apart. */
  DEVICE size_t at(int s, int g, int j) const {
    const int index = size.page_of(j), page = pages[(size_t)s * M + index];
    return head_at<B>(page, j - index * size.P, g, size.P, heads.G, heads.E);
  }
  /** Of f8: the scale of token j of `from` (keys or values), those of the next tokens behind it; null elsewhere. */
  DEVICE const float* scales(const B* from, int s, int g, int j) const {
    if constexpr (!Same<B, f8>::value) return nullptr;
    const int index = size.page_of(j), page = pages[(size_t)s * M + index];
    return (const float*)((const char*)from + scale_at(page, j - index * size.P, g, size.P, heads.G, heads.E));
  }
};

/** Keys and values in the rows of qkv. */
template <class T> struct RowKeys {
  typedef T Element;
  const T *keys, *values;
  const int32_t* starts;
  Heads heads;
  POINTERS(keys, values, starts)
  DEVICE size_t stride() const { return heads.width(); }
  DEVICE size_t at(int s, int g, int j) const { return (size_t)(starts[s] + j) * stride() + (size_t)g * heads.E; }
  DEVICE const float* scales(const T*, int, int, int) const { return nullptr; }
};

// ---- splits of keys ----

// Short at first, so that one sequence alone keeps a GPU busy: 1,024 keys of 32 heads are 256 blocks for its 132
// processors. Longer where there are enough of them: each costs its output in scratch, and a step of the joining.
constexpr int FIRST_SPLIT = 128, LATER_SPLITS_FROM = 4096, LATER_SPLIT = 512;
constexpr int FIRST_SPLITS = LATER_SPLITS_FROM / FIRST_SPLIT;

HOST_DEVICE int split_of(int key) {
  return key < LATER_SPLITS_FROM ? key / FIRST_SPLIT : FIRST_SPLITS + (key - LATER_SPLITS_FROM) / LATER_SPLIT;
}
HOST_DEVICE int split_start(int split) {
  return split < FIRST_SPLITS ? split * FIRST_SPLIT : LATER_SPLITS_FROM + (split - FIRST_SPLITS) * LATER_SPLIT;
}
DEVICE bool is_split_start(int key) { return key % (key < LATER_SPLITS_FROM ? FIRST_SPLIT : LATER_SPLIT) == 0; }
static_assert(LATER_SPLITS_FROM % LATER_SPLIT == 0, "later splits begin at multiples of their length");

// ---- which keys a row sees ----

/** Row `index` of a (sequence, key/value head); rows behind the last see nothing. */
struct Row {
  int position, low;  // keys low..position
  int token, head;    // row of qkv and y, query head
  bool exists;
};
DEVICE Row row_of(const Sequence& q, const Heads& heads, int g, int index, int window) {
  const int token = heads.token_of(index), position = q.past + token;
  if (token >= q.tokens) return {-1, 0, 0, 0, false};
  return {position, window > 0 && position >= window ? position - window + 1 : 0, q.first + token,
          g * heads.group + index - token * heads.group, true};
}
/** The last query of a document of L tokens that sees key j. */
DEVICE int last_query(int j, int L, int window) { return window > 0 && j < L - window ? j + window - 1 : L - 1; }

/** Forgetful masking and dropout of a call (koala_document_attention). */
struct Hashing {
  HashKey forget_key;
  const float* forget;
  uint32_t first, drop_seed;
  float drop;
  POINTERS(forget)
};
/** The same for one document. */
struct DocumentHashing {
  HashKey forget_key;
  uint32_t start, hidden, dropped, drop_seed;  // the document's first row in the step; thresholds of the hash
  float kept;
  DEVICE DocumentHashing(const Hashing& h, const int32_t* starts, int s)
      : forget_key(h.forget_key), start(h.first + (uint32_t)starts[s]),
        hidden(h.forget ? hash_threshold(h.forget[s]) : 0), dropped(h.drop > 0 ? hash_threshold(h.drop) : 0),
        drop_seed(h.drop_seed), kept(h.drop > 0 ? (float)(1. / (1. - (double)h.drop)) : 1.f) {}
  DEVICE bool hides(int i, int j) const {
    return hidden && j > 0 && j < i && hash_bits(forget_key, start + i, start + j) < hidden;
  }
  DEVICE HashKey head_key(int head) const { return hash_key(drop_seed, STREAM_ATTENTION, (uint64_t)head); }
  /** What multiplies the weight of key j for query i. */
  DEVICE float keeps(HashKey key, int i, int j) const {
    return dropped && hash_bits(key, start + i, start + j) < dropped ? 0.f : kept;
  }
};

// ---- lists of work ----

/** before[s] = how many items the sequences before s have, s <= S, in shared memory. All threads of a block call. */
template <class Count> DEVICE void list_items(int* before, int S, Count&& count) {
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    int carried = 0;
    for (int s = lane; s - lane < S; s += 32) {
      int sum = s < S ? count(s) : 0;
      for (int d = 1; d < 32; d *= 2) {
        const int lower = shfl(sum, lane >= d ? lane - d : lane);
        if (lane >= d) sum += lower;
      }
      if (s < S) before[s + 1] = carried + sum;
      carried += shfl(sum, 31);
    }
    if (lane == 0) before[0] = 0;
  }
  __syncthreads();
}
/** The sequence that an item belongs to. */
DEVICE int owner_of(const int* before, int S, int item) {
  int low = 0, high = S - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (before[middle] <= item) low = middle;
    else high = middle - 1;
  }
  return low;
}

// ---- parts of a softmax ----

/** Maximum of the scores and sum of exp(score - maximum), of some keys; outputs are not divided by the sum. */
struct Part { float maximum, sum; };

/** Joins `more` to `part`; their outputs are to be multiplied by the two shares and added. `unit`: scale * log2(e). */
DEVICE void join(Part& part, const Part& more, float unit, float* share, float* more_share) {
  const float top = max(part.maximum, more.maximum);
  *share = part.maximum == top ? 1.f : exp2_fast((part.maximum - top) * unit);
  *more_share = more.maximum == top ? 1.f : exp2_fast((more.maximum - top) * unit);
  part = {top, fmaf(more.sum, *more_share, part.sum * *share)};
}
/** a * share + b * more_share, rounded alike wherever it is written. */
DEVICE float blend(float a, float share, float b, float more_share) { return fmaf(b, more_share, a * share); }
