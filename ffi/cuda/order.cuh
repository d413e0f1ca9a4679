// The descending order of a row of logits, and the search for the end of a prefix of it. One block has one row.
//
// A key is the bits of a logit turned so that keys ascend where logits descend, then the id: larger logit first, lowest
// id among equals. Nothing of size V is sorted: a table of how many tokens (and of what mass) lie before a few edges
// says in which part a prefix ends; a part of more than BUCKET tokens is parted again, a smaller one is gathered and
// sorted. The mass of a token is exp((logit - top) / temperature), summed in double in one fixed order. NaN has no
// place.
#pragma once
#include "kernels.cuh"

constexpr int ROW_WARPS = 16, ROW_THREADS = ROW_WARPS * 32;
constexpr int PARTS = 4;     // of a table
constexpr int BUCKET = 512;  // tokens that are sorted at once
constexpr int BUCKET_SHARE = BUCKET / 32;
constexpr uint64_t LAST_KEY = ~0ull;

DEVICE uint64_t order_key(float logit, int id) {
  const uint32_t u = float_to_bits(logit + 0.f);  // -0 becomes 0: they are equal
  const uint32_t ascending = u >> 31 ? ~u : u | 0x80000000u;
  return (uint64_t)~ascending << 32 | (uint32_t)id;
}
DEVICE int key_id(uint64_t key) { return (int)(uint32_t)key; }
DEVICE float key_logit(uint64_t key) {
  const uint32_t ascending = ~(uint32_t)(key >> 32);
  return bits_to_float(ascending >> 31 ? ascending & 0x7fffffffu : ~ascending);
}

struct LogitRow {
  const float* logits;
  int V;
  float top, temperature;
  DEVICE float mass(float logit) const { return expf((logit == top ? 0.f : logit - top) / temperature); }
};

/** f(logit, id) for the tokens of this thread. */
template <class F> DEVICE void for_own(const LogitRow& row, F&& f) {
  for (int first = threadIdx.x; first < row.V; first += 8 * ROW_THREADS) {
    float l[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int v = first + i * ROW_THREADS;
      l[i] = v < row.V ? row.logits[v] : NAN;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (first + i * ROW_THREADS < row.V) f(l[i], first + i * ROW_THREADS);
  }
}

/** Tokens of the keys edge[0] < key <= edge[i + 1], and their mass. */
struct Table {
  uint64_t edge[PARTS + 1];
  int count[PARTS];
  double mass[PARTS];
};

/** A prefix of the order: its last key, and what it holds. */
struct Prefix {
  uint64_t last;
  int64_t count;
  double mass;
};

/** Shared memory of a block. */
struct OrderMemory {
  Table row, part;  // of the whole row, and of the part that was parted last
  double masses[PARTS][ROW_THREADS];
  int counts[PARTS + 1][ROW_THREADS];
  uint64_t gathered[BUCKET], key[BUCKET];
  float p[BUCKET];
  uint64_t low, high;  // keys of the bucket: low < key <= high
  int size;
  Prefix found;
};

/** Fills `table`, whose edges are set, from the row; `*least_count`: tokens of at least `least` mass, if not null. All
 *  threads call and may read the table when it returns. */
DEVICE void tabulate(const LogitRow& row, OrderMemory& m, Table& table, float least, int* least_count) {
  double mass[PARTS] = {};
  int count[PARTS + 1] = {};
  for_own(row, [&](float logit, int id) {
    const uint64_t key = order_key(logit, id);
    const bool is_number = logit == logit, inside = is_number && key > table.edge[0];
    if (is_number && !(inside && key <= table.edge[PARTS])) return;
    const float p = row.mass(logit);
    count[PARTS] += p >= least;
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
      // A NaN belongs nowhere and spoils the whole mass.
      const bool before = is_number ? key <= table.edge[i + 1] : i == PARTS - 1;
      if (before) mass[i] += p;
      count[i] += is_number && before;
    }
  });
  __syncthreads();
#pragma unroll
  for (int i = 0; i < PARTS; i++) m.masses[i][threadIdx.x] = mass[i];
#pragma unroll
  for (int i = 0; i <= PARTS; i++) m.counts[i][threadIdx.x] = count[i];
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp < PARTS) {
    double sum = 0;
    for (int t = lane; t < ROW_THREADS; t += 32) sum += m.masses[warp][t];
    sum = warp_sum(sum);
    if (lane == 0) table.mass[warp] = sum;
  } else if (warp < 2 * PARTS + 1) {
    int sum = 0;
    for (int t = lane; t < ROW_THREADS; t += 32) sum += m.counts[warp - PARTS][t];
    sum = warp_sum(sum);
    if (lane == 0 && warp < 2 * PARTS) table.count[warp - PARTS] = sum;
    if (lane == 0 && warp == 2 * PARTS && least_count) *least_count = sum;
  }
  __syncthreads();
}

/** The table of the whole row, parted where logits are 2, 6 and 16 temperatures below the top. */
DEVICE void tabulate_row(const LogitRow& row, OrderMemory& m, float least = INFINITY, int* least_count = nullptr) {
  constexpr float reach[PARTS - 1] = {2, 6, 16};
  if (threadIdx.x == 0) {
    m.row.edge[0] = 0, m.row.edge[PARTS] = LAST_KEY;
    for (int i = 1; i < PARTS; i++) {
      const float edge = row.top - reach[i - 1] * row.temperature;
      m.row.edge[i] = edge == edge ? order_key(edge, -1) : LAST_KEY;
    }
    m.low = m.high = 0, m.size = 0;
  }
  __syncthreads();
  tabulate(row, m, m.row, least, least_count);
}

/** Gathers the keys low < key <= high, at most BUCKET, and sorts them with their masses. */
DEVICE void gather(const LogitRow& row, OrderMemory& m, uint64_t low, uint64_t high) {
  if (m.low == low && m.high == high) return;
  int count = 0;
  auto own = [&](auto&& f) {
    for_own(row, [&](float logit, int id) {
      const uint64_t key = order_key(logit, id);
      if (logit == logit && key > low && key <= high) f(key);
    });
  };
  own([&](uint64_t) { count++; });
  m.counts[0][threadIdx.x] = count;
  __syncthreads();
  if (threadIdx.x < 32) {  // counts become places
    const int lane = threadIdx.x;
    int* part = m.counts[0] + lane * (ROW_THREADS / 32);
    int sum = 0, place = 0;
    for (int i = 0; i < ROW_THREADS / 32; i++) sum += part[i];
    for (int i = 0; i < 32; i++) {
      const int other = shfl(sum, i);
      if (i < lane) place += other;
    }
    for (int i = 0; i < ROW_THREADS / 32; i++) {
      const int n = part[i];
      part[i] = place;
      place += n;
    }
    if (lane == 31) m.size = min(place, BUCKET), m.low = low, m.high = high;
  }
  __syncthreads();
  int place = m.counts[0][threadIdx.x];
  own([&](uint64_t key) {
    if (place < BUCKET) m.gathered[place] = key;
    place++;
  });
  __syncthreads();
  for (int i = threadIdx.x; i < m.size; i += ROW_THREADS) {
    int rank = 0;
    for (int j = 0; j < m.size; j++) rank += m.gathered[j] < m.gathered[i];
    m.key[rank] = m.gathered[i];
    m.p[rank] = row.mass(key_logit(m.gathered[i]));
  }
  __syncthreads();
}

/** What ends a prefix: a mass or a number of tokens that it reaches, or (`beyond`) exceeds. */
struct Target {
  double value;
  bool counts, beyond;
  DEVICE bool reached(int64_t count, double mass) const {
    const double sum = counts ? (double)count : mass;
    return beyond ? sum > value : sum >= value;
  }
};

/** The first part whose end reaches the target; if none does, the last that holds anything that counts. Parts that
 *  begin at `limit` or behind it are left out. `count` and `mass` lie before the table. */
DEVICE int choose_part(const Table& t, const Target& target, uint64_t limit, int64_t count, double mass) {
  int last = 0;
  for (int i = 0; i < PARTS && t.edge[i] < limit; i++) {
    if (target.reached(count + t.count[i], mass + t.mass[i])) return i;
    const bool holds = target.counts ? t.count[i] > (i ? t.count[i - 1] : 0) : t.mass[i] > (i ? t.mass[i - 1] : 0);
    if (holds) last = i;
  }
  return last;
}

/** The end of the prefix inside the bucket, whose tokens follow `count` tokens of `mass`; one warp calls. */
DEVICE void walk(OrderMemory& m, const Target& target, uint64_t limit, int64_t count, double mass) {
  const int lane = threadIdx.x & 31, from = lane * BUCKET_SHARE, to = min(from + BUCKET_SHARE, m.size);
  double own = 0;
  for (int i = from; i < to; i++) own += m.p[i];
  double before = mass;
  for (int i = 0; i < 32; i++) {
    const double other = shfl(own, i);
    if (i < lane) before += other;
  }
  // The first place that reaches the target, and the last one that could be taken where none does.
  int first = BUCKET, last = -1;
  double first_mass = 0, last_mass = 0;
  for (int i = from; i < to && m.key[i] <= limit; i++) {
    before += m.p[i];
    if (m.p[i] > 0 || target.counts) last = i, last_mass = before;
    if (first == BUCKET && target.reached(count + i + 1, before)) first = i, first_mass = before;
  }
  const int reached = -warp_max(-first), possible = warp_max(last);
  const bool some = reached < BUCKET;
  const int i = some ? reached : max(possible, 0);
  if (lane == i / BUCKET_SHARE) m.found = {m.size ? m.key[i] : limit, count + i + 1, some ? first_mass : last_mass};
}

/** The shortest prefix that reaches the target, no longer than `limit`; the table of the row must stand. */
DEVICE Prefix find_prefix(const LogitRow& row, OrderMemory& m, const Target& target, uint64_t limit) {
  const Table* t = &m.row;
  int64_t count = 0;
  double mass = 0;
  for (;;) {
    const int i = choose_part(*t, target, limit, count, mass);
    const uint64_t low = t->edge[i], high = t->edge[i + 1];
    const int before = i ? t->count[i - 1] : 0, size = t->count[i] - before;
    count += before;
    mass += i ? t->mass[i - 1] : 0;
    __syncthreads();  // all have read the table
    if (size <= BUCKET) {
      gather(row, m, low, high);
      break;
    }
    if (threadIdx.x == 0)
      for (int e = 0; e <= PARTS; e++) m.part.edge[e] = e < PARTS ? low + (high - low) / PARTS * e : high;
    __syncthreads();
    tabulate(row, m, m.part, INFINITY, nullptr);
    t = &m.part;
  }
  if (threadIdx.x < 32) walk(m, target, limit, count, mass);
  __syncthreads();
  return m.found;  // the next search has a barrier before it writes there
}
