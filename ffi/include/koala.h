// koala.h - the one contract between TypeScript and native code.
//
// A backend is a shared library that exports every symbol below: libkoala_cpu.so today, libkoala_cuda.so with the
// same file names later. Arguments go device, outputs, inputs, sizes, scalars. Every call returns 0, or a negative
// code whose sentence is koala_last_error() of the calling thread. No call aborts, exits or throws.
//
// Memory belongs to the caller (an Arena). A device keeps scratch of its own that grows to the largest call seen.
// One thread calls into a device at a time.
//
// Sizes: T tokens in the packed batch, S sequences, D model, F hidden, H query heads, G key/value heads, E head dim,
//        V vocabulary, P tokens per cache page, M pages per row of the page table, R rows, N and K of a matrix [N,K].
// Element types: activations (x, y, qkv ...) and vectors (norm weights, biases) have the type `dtype`: f32, bf16 or f64.
//        Matrices, tables and caches name their own type. Sums run in float32 (float64 where dtype is f64).
// Determinism: a result row depends on its own inputs only, bit for bit: never on T, S, its neighbours or threads. One exception:
//        large bf16 products of GPUs go to cuBLASLt where it is found (see koala_matmul), unless KOALA_GEMM=own keeps to this rule.
#pragma once
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct koala_device koala_device;

// Element types. f16 is read (embedding tables, koala_matmul_pack sources), never computed in.
// f8 is for caches only: e4m3 (four bits of exponent, three of mantissa, no infinity) beside a float32 scale for each token and head.
// q8 and q4 are for packed matrices only: blocks of 32 elements of a row with one f16 scale, as GGUF's Q8_0 and Q4_0.
enum koala_dtype { KOALA_F32 = 0, KOALA_BF16 = 1, KOALA_F64 = 2, KOALA_F16 = 3, KOALA_I32 = 4, KOALA_F8 = 5, KOALA_Q8 = 16, KOALA_Q4 = 17 };

// ---- library ----
int32_t koala_abi_version(void);
const char* koala_last_error(void);

// ---- device ----
// Opens processor `ordinal` (cpu: 0) with `threads` compute threads, the caller included (0: one per available core).
int32_t koala_device_open(koala_device** out, int32_t ordinal, int32_t threads);
int32_t koala_device_close(koala_device* dev);
// Writes a JSON object {"name","isa","threads","memory_bytes"} of at most `bytes` bytes, NUL included; a GPU counts its
// multiprocessors as threads, and adds "free_bytes" and "gemm", who makes its large products.
int32_t koala_device_info(koala_device* dev, char* json, int32_t bytes);
// Measures this machine: peaks[0] read bandwidth in GB/s, then GFLOP/s of [1] float32 and [2] bf16 products. About a second.
int32_t koala_device_measure(koala_device* dev, double* peaks);
// While `on`, ops that take scratch compute nothing: they note how much they would take, and return an error.
int32_t koala_device_rehearse(koala_device* dev, int32_t on);
// bytes[0]: memory that the device holds as scratch; bytes[1]: what the ops since koala_device_rehearse(dev, 1) asked for
// together. With `reserve` the device first takes exactly that much, where it holds less.
int32_t koala_device_scratch(koala_device* dev, double* bytes, int32_t reserve);
// From now on the device writes what it does to `record`, 64 bytes that outlive it: f64 1 while an op runs (0 after it), and its
// symbol in char [56]. A record in shared memory tells others what ran when the process was killed. NULL ends it.
int32_t koala_device_record(koala_device* dev, void* record);

// ---- memory (byte counts are doubles: exact to 2^53, and 64-bit integers are slow to pass) ----
// Zeroed memory, 64-byte aligned, on huge pages where there are any.
int32_t koala_memory_alloc(koala_device* dev, void** out, double bytes);
int32_t koala_memory_free(koala_device* dev, void* data, double bytes);
// Host to device, device to host, or within the device.
int32_t koala_memory_copy(koala_device* dev, void* to, const void* from, double bytes);
// Maps a file read-only into host memory. data and bytes are written.
int32_t koala_file_map(void** data, double* bytes, const char* path);
int32_t koala_file_unmap(void* data, double bytes);

// ---- graphs: ops recorded once, and run again as one call ----
// From koala_graph_begin to koala_graph_end the ops called on the device are recorded with their arguments and compute nothing.
// The memory they name must stay where it is as long as the graph lives; what lies in it may change. What has to wait for the
// device, or needs more scratch than it holds, fails meanwhile: call the same ops once before. Only GPUs have graphs.
typedef struct koala_graph koala_graph;
int32_t koala_graph_begin(koala_device* dev);
// Ends the recording, also a failed one. With out NULL what was recorded is thrown away.
int32_t koala_graph_end(koala_device* dev, koala_graph** out);
int32_t koala_graph_launch(koala_device* dev, koala_graph* graph);
int32_t koala_graph_close(koala_device* dev, koala_graph* graph);

// ---- matrices: packed once at load into panels of 32 rows (columns of y), read as one stream ----
// Bytes that a packed [N,K] matrix of element type `wtype` (f32, bf16, f64, q8, q4) takes. K of q8 and q4 is a multiple of 32.
int32_t koala_matmul_pack_bytes(koala_device* dev, double* bytes, int32_t N, int32_t K, int32_t wtype);
// Packs rows [row, row + R) of a matrix [N,K] from row-major `weight` [R,K] of type `stype` (f32, bf16, f16, f64).
// q, k and v (or gate and up) packed at their offsets make one matrix. Rounds to nearest even; q8 and q4 quantise as ggml's
// reference does: q8 d = max|w| / 127, q = round(w / d); q4 d = (w of the largest |w|) / -8, q = min(15, (int)(w / d + 8.5)), w = (q - 8) d.
int32_t koala_matmul_pack(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K, int32_t row, int32_t R, int32_t wtype, int32_t stype);
// y[t,n] = sum_k x[t,k] * w[n,k] (+ bias[n], unless bias is NULL) (+ y[t,n], if accumulate)
// With wtype bf16, x is rounded to bf16 first and products are summed in float32. q8 and q4: the same with the matrix of bf16(q * d),
// bit for bit. dtype is f32 or bf16 there.
// On a GPU, KOALA_GEMM=auto (the default) or cublaslt lets cuBLASLt multiply where wtype is bf16, T >= 128 and N, K >= 32. Such a
// product has the same bits from run to run on one machine with the same file of choices (KOALA_GEMM_CACHE, ~/.cache/koala/gemm),
// but a row's may depend on T. Smaller T, as in decoding, and KOALA_GEMM=own: they never do.
int32_t koala_matmul(koala_device* dev, void* y, const void* x, const void* packed, const void* bias, int32_t T, int32_t N, int32_t K, int32_t accumulate, int32_t wtype, int32_t dtype);

// ---- ops ----
// y[t,d] = table[tokens[t],d]; table is row-major [V,D] of type ttype (f32, bf16, f16, f64)
int32_t koala_embed(koala_device* dev, void* y, const void* table, const int32_t* tokens, int32_t T, int32_t D, int32_t V, int32_t ttype, int32_t dtype);
// y[t,d] = x[t,d] / sqrt(mean_d x[t,d]^2 + eps) * weight[d]
int32_t koala_rms_norm(koala_device* dev, void* y, const void* x, const void* weight, int32_t T, int32_t D, float eps, int32_t dtype);
// x[t,d] += delta[t,d], then y = koala_rms_norm of x: the same bits as the two ops one after the other.
int32_t koala_add_rms_norm(koala_device* dev, void* y, void* x, const void* delta, const void* weight, int32_t T, int32_t D, float eps, int32_t dtype);
// The same norm over each query and key head of qkv [T, (H+2G)*E] in place: weights are [E].
int32_t koala_qk_norm(koala_device* dev, void* qkv, const void* q_weight, const void* k_weight, int32_t T, int32_t H, int32_t G, int32_t E, float eps, int32_t dtype);
// Rotates the query and key heads of qkv in place, half-split: (a, b) = (v[i], v[i+E/2]) becomes (a*c - b*s, b*c + a*s)
// with c, s = table[positions[t], i, 0..1]; table is f32 [positions, E/2, 2].
int32_t koala_rope(koala_device* dev, void* qkv, const float* table, const int32_t* positions, int32_t T, int32_t H, int32_t G, int32_t E, int32_t dtype);
// Bytes of the keys (and likewise of the values) of one page of P tokens (P a multiple of 32) in element type ctype (f32, bf16, f64, f8).
int32_t koala_cache_page_bytes(koala_device* dev, double* bytes, int32_t P, int32_t G, int32_t E, int32_t ctype);
// Stores the key and value heads of qkv at slots[t] = page * P + offset. The layout inside a page is the backend's own.
// f8: a head of a token is stored as e4m3(v / s) with s = max|v| / 448 (1 where all are 0), rounded to nearest even.
int32_t koala_cache_write(koala_device* dev, void* keys, void* values, const void* qkv, const int32_t* slots, int32_t T, int32_t H, int32_t G, int32_t E, int32_t P, int32_t ctype, int32_t dtype);
// Causal attention of packed queries over the paged cache; y is [T, H*E], queries are read from qkv [T, (H+2G)*E].
// Sequence s owns query rows starts[s]..starts[s+1]; its last query is its token lengths[s]-1, and token j lies at page
// pages[s*M + j/P], offset j%P. y = softmax(scale * q.k) v over tokens j <= i, and j > i - window where window > 0.
int32_t koala_attention(koala_device* dev, void* y, const void* qkv, const void* keys, const void* values, const int32_t* starts, const int32_t* lengths, const int32_t* pages, int32_t S, int32_t M, int32_t P, int32_t H, int32_t G, int32_t E, int32_t window, float scale, int32_t ctype, int32_t dtype);
// y[t,f] = silu(gate_up[t,f]) * gate_up[t,F+f], gate_up is [T,2F], silu(a) = a / (1 + exp(-a))
int32_t koala_silu_mul(koala_device* dev, void* y, const void* gate_up, int32_t T, int32_t F, int32_t dtype);
// y[r,:] = x[rows[r],:]
int32_t koala_gather_rows(koala_device* dev, void* y, const void* x, const int32_t* rows, int32_t R, int32_t D, int32_t dtype);
// y[s,d] += sum of x[t,d] over starts[s] <= t < starts[s+1], t ascending; y is f64 [S,D]
int32_t koala_sum_rows(koala_device* dev, double* y, const void* x, const int32_t* starts, int32_t S, int32_t D, int32_t dtype);

// ---- sampling (logits are f32 [R,V]) ----
// Contrastive decoding. For each of C pairs: a = row pairs[c,0], b = row pairs[c,1], strength s and plausibility p of
// scalars (f32 [C,2]). Where softmax(a)[v] >= p * its maximum, a[v] <- a[v] + s * (a[v] - b[v]); every other token keeps
// its order by a, at least 1000 below all of these, so that it comes only where nothing else is allowed. b is read.
// A row is in one pair at most. A NaN or infinity in either makes a[0] NaN: koala_sample then refuses the row.
int32_t koala_contrast(koala_device* dev, float* logits, const int32_t* pairs, const float* scalars, int32_t C, int32_t R, int32_t V);
// Picks ids[r] from row r. In order:
//   1. repetition: history lists the distinct tokens of the sequence so far, counts how often each was generated
//      (0: in the prompt only), for row r at history_starts[r]..history_starts[r+1]. A listed logit l becomes
//      l > 0 ? l / repetition : l * repetition, then minus frequency * count, then minus presence if count > 0.
//   2. bias: logit of bias_ids[i] += bias_values[i], i in bias_starts[r]..bias_starts[r+1].
//   3. mask: where mask_rows[r] >= 0, tokens whose bit is clear in mask[mask_rows[r], v/32] are excluded.
//   4. temperature 0: the largest logit, lowest id among equals. Otherwise logits / temperature, then keep
//      the top_k largest (0: all; ties by lowest id), then of these the smallest set in descending order whose probability
//      reaches top_p, then of these those with probability >= min_p * largest; draw by uniform[r] in [0,1) in
//      descending order of probability (ties by lowest id).
// scalars is f32 [R,7]: temperature, top_p, min_p, repetition, frequency, presence, and top_k as a float.
// A row whose logits hold a NaN, or in which no token is allowed, gets id -1 and harms no other row. Logits are overwritten.
int32_t koala_sample(koala_device* dev, int32_t* ids, float* logits, const float* scalars, const double* uniform, const int32_t* history_starts, const int32_t* history, const int32_t* counts, const int32_t* bias_starts, const int32_t* bias_ids, const float* bias_values, const int32_t* mask_rows, const uint32_t* mask, int32_t R, int32_t V);
// logprobs[r] = log softmax(logits[r])[ids[r]] and the best k: top_ids, top_logprobs [R,k], descending, ties by lowest id.
// ranks[r] = 1 + how many tokens have a larger logit than ids[r]. k may be 0. Equal tokens give equal bits in both lists. ids[r] < 0: 0, rank 0.
int32_t koala_logprobs(koala_device* dev, float* logprobs, int32_t* ranks, int32_t* top_ids, float* top_logprobs, const float* logits, const int32_t* ids, int32_t R, int32_t V, int32_t k);

// ---- training: backward ops mirror the forward ones; gradients of activations are written, those of parameters added ----
// Parameters and their gradients lie row-major in flat blocks. Parameter gradients are float32 (f64 where dtype is f64).
// Sums over tokens run in ascending t in one fixed order, so results do not depend on threads.
//
// Packs the transpose of row-major weight [N,K] (type stype) as a matrix [K,N]: dx = dy w is koala_matmul of dy with it.
int32_t koala_matmul_pack_transposed(koala_device* dev, void* packed, const void* weight, int32_t N, int32_t K, int32_t wtype, int32_t stype);
// dw[n,k] += sum_t dy[t,n] * x[t,k]; dw is row-major. ctype bf16 rounds dy and x to bf16 first and sums in float32.
// Large ones may be cuBLASLt's on a GPU, like koala_matmul's.
int32_t koala_matmul_weight_gradient(koala_device* dev, void* dw, const void* dy, const void* x, int32_t T, int32_t N, int32_t K, int32_t ctype, int32_t dtype);
// db[n] += sum_t dy[t,n]
int32_t koala_bias_gradient(koala_device* dev, void* db, const void* dy, int32_t T, int32_t N, int32_t dtype);
// dtable[tokens[order[i]],:] += dy[order[i],:], i ascending; order sorts the positions by token, stably.
int32_t koala_embed_backward(koala_device* dev, void* dtable, const void* dy, const int32_t* tokens, const int32_t* order, int32_t T, int32_t D, int32_t V, int32_t dtype);
// With r = 1/sqrt(mean x^2 + eps): dx[t,:] (+)= r * (dy*w - x * r^2 * mean(dy*w*x)), dweight[d] += sum_t dy[t,d] * x[t,d] * r
int32_t koala_rms_norm_backward(koala_device* dev, void* dx, void* dweight, const void* dy, const void* x, const void* weight, int32_t T, int32_t D, float eps, int32_t accumulate, int32_t dtype);
// The same for koala_qk_norm: dqkv (gradient of its output) becomes the gradient of its input in place; qkv is its input.
int32_t koala_qk_norm_backward(koala_device* dev, void* dqkv, void* dq_weight, void* dk_weight, const void* qkv, const void* q_weight, const void* k_weight, int32_t T, int32_t H, int32_t G, int32_t E, float eps, int32_t dtype);
// Rotates the query and key heads of dqkv back, in place: the transpose of koala_rope.
int32_t koala_rope_backward(koala_device* dev, void* dqkv, const float* table, const int32_t* positions, int32_t T, int32_t H, int32_t G, int32_t E, int32_t dtype);
// Causal attention of S documents laid end to end (document s is rows starts[s]..starts[s+1]), no cache. y [T,H*E],
// lse [T,H] = log sum exp of the scaled scores (f32; f64 where dtype is f64). forget: NULL, or f32 [S]: key j of document s is
// hidden from query i with probability forget[s] (0 < j < i only; forgetful causal masking), decided by a hash of
// (seed, first + row of i, first + row of j), for all heads alike: `first` counts the rows of the optimizer step before this
// batch, so that how a step is cut into batches changes nothing. drop: each probability becomes 0 with probability drop, else
// p / (1 - drop), decided by a hash of (drop_seed, head, first + row of i, first + row of j); lse is that of before.
int32_t koala_document_attention(koala_device* dev, void* y, void* lse, const void* qkv, const int32_t* starts, const float* forget, int32_t S, int32_t H, int32_t G, int32_t E, int32_t window, int32_t first, int32_t seed, int32_t drop_seed, float drop, float scale, int32_t dtype);
// dqkv [T,(H+2G)*E] from dy and what forward saw and gave.
int32_t koala_document_attention_backward(koala_device* dev, void* dqkv, const void* dy, const void* y, const void* lse, const void* qkv, const int32_t* starts, const float* forget, int32_t S, int32_t H, int32_t G, int32_t E, int32_t window, int32_t first, int32_t seed, int32_t drop_seed, float drop, float scale, int32_t dtype);
// dgate_up from dy and gate_up
int32_t koala_silu_mul_backward(koala_device* dev, void* dgate_up, const void* dy, const void* gate_up, int32_t T, int32_t F, int32_t dtype);
// y[i] = x[i] * keep(i) / (1 - p), keep(i) a hash of (seed, offset + i) with probability 1 - p. Its own backward. y may be x.
int32_t koala_dropout(koala_device* dev, void* y, const void* x, double offset, int32_t n, int32_t seed, float p, int32_t dtype);
// y[i] = a * x[i] + b * y[i]
int32_t koala_axpby(koala_device* dev, void* y, const void* x, double n, double a, double b, int32_t dtype);
// sum[i] += x[i], added in float32; a bf16 sum is rounded to nearest even. stype: f32 or bf16.
int32_t koala_accumulate(koala_device* dev, void* sum, const float* x, double n, int32_t stype);
// y[i] = z(offset + i), offset even: (z(j), z(j+1)) = std * sqrt(-2 log(1 - u(j))) * (cos, sin)(2 pi u(j+1)) for even j (Box and
// Muller), computed in double; u(j) is the draw j of the stream `seed` of Philox4x32-10 as in src/util/rng.ts.
int32_t koala_fill_normal(koala_device* dev, float* y, double n, double offset, double seed, double std);
// to[i] = from[i] in another element type (f32, bf16, f64; f16 as a source), nearest even
int32_t koala_cast(koala_device* dev, void* to, const void* from, double n, int32_t to_type, int32_t from_type);
// logprobs[r] = log softmax(logits[r])[targets[r]], lse[r] = log sum exp(logits[r]); a target of -1 gives 0. logits are [R,V] of type dtype;
// logprobs and lse are f32 (f64 where dtype is f64).
int32_t koala_cross_entropy(koala_device* dev, void* logprobs, void* lse, const void* logits, const int32_t* targets, int32_t R, int32_t V, int32_t dtype);
// logits[r,v] becomes weights[r] * (softmax(logits[r])[v] - (v == targets[r])); rows with target -1 become 0. weights have lse's type.
int32_t koala_cross_entropy_backward(koala_device* dev, void* logits, const void* lse, const void* weights, const int32_t* targets, int32_t R, int32_t V, int32_t dtype);
// sum[0] = sum of squares of x[0..n) in double, in one fixed order; not finite if any x is not.
int32_t koala_sum_squares(koala_device* dev, double* sum, const void* x, double n, int32_t dtype);
// AdamW on n parameters of a flat block (Loshchilov & Hutter 2019), step counted from 1, gradient scaled first:
//   g *= scale; m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2; w -= lr * (m/(1-b1^step) / (sqrt(v/(1-b2^step)) + eps) + decay*w)
// scalars is f64 [8]: lr, b1, b2, eps, decay, scale, step, seed. Modes of `precision`:
//   0: w, m, v are f32 (f64 where dtype is f64), low is NULL.
//   1: w is bf16 and low the 16 low bits of its float32 master, bit-exact: bits = ((w - (low >> 15)) << 16) | low (uint16 arithmetic);
//      m, v are bf16, rounded stochastically by a hash of (seed, step, index). dtype (of g) is f32 or bf16.
int32_t koala_adamw(koala_device* dev, void* w, void* low, void* m, void* v, const void* g, double n, const double* scalars, double index, int32_t precision, int32_t dtype);
// Splits float32 masters into bf16 w and low (precision 1 above), and back.
int32_t koala_master_split(koala_device* dev, void* w, void* low, const float* master, double n);
int32_t koala_master_join(koala_device* dev, float* master, const void* w, const void* low, double n);

// ---- communicator: ranks over shared memory, memory of GPUs or NCCL; sums run in rank order, so every rank and every run gets the same bits ----
// A collective is run by a thread of the communicator, in the order of the calls: they return at once and write a ticket
// (1, 2, 3 ...) to wait with. Until then the memory belongs to the collective. Its input is made by what the device was told
// to do before the call, or by an earlier collective. Ranks must call the same ones of the same `of` ("gradient of layer 3", at most 95 bytes);
// the sentence of a failure names it. One that failed, by a rank that ended, aborted, differed or did not come within
// timeout_s, fails all later ones of every rank.
typedef struct koala_comm koala_comm;
// Writes what ranks tell each other before they choose a name, a JSON object {"nccl","device","name","peers"}: NCCL's version
// (empty where there is none), the GPU as its bus calls it, a fresh name "nccl:..." of a communicator through NCCL, and the GPUs
// of this host, its own among them, whose memory this one reads when another process has it.
int32_t koala_comm_offer(koala_device* dev, char* json, int32_t bytes);
// Joins `world` ranks under `name`: a shared memory object, "/koala-..."; rank 0's offer, "nccl:..."; or, for GPUs of one host,
// both, one after the other: NCCL moves the bytes, and the object says at once who is lost; or "peer:" and an object: the ranks
// read each other's GPU memory, on one GPU or on several that are peers, as many ranks as there are. bytes is the staging slot of a
// rank. Waits for all. Collectives take memory of `dev` or of the host; NCCL's ranks on several hosts, of `dev` only.
int32_t koala_comm_open(koala_comm** out, koala_device* dev, const char* name, int32_t rank, int32_t world, double bytes, double timeout_s);
// Collectives that nobody waited for are given up.
int32_t koala_comm_close(koala_comm* comm);
// Makes every rank's current and later collectives fail at once.
int32_t koala_comm_abort(koala_comm* comm);
// Returns when the collective of this ticket, and all before it, are over.
int32_t koala_comm_wait(koala_comm* comm, double ticket);
// counts is f64 [3]: collectives that are over (the last one's ticket), nanoseconds that they took (waiting for other ranks
// included), nanoseconds that koala_comm_wait waited for them: the rest ran beside the caller's work.
int32_t koala_comm_statistics(koala_comm* comm, double* counts);
int32_t koala_comm_barrier(koala_comm* comm, double* ticket, const char* of, double timeout_s);
// x[i] = sum over ranks, n elements of f32, f64 or bf16 (summed in float32 and rounded once)
int32_t koala_comm_all_reduce(koala_comm* comm, double* ticket, void* x, double n, int32_t dtype, const char* of, double timeout_s);
// out (n / world elements) = (out +, if accumulate) this rank's part of the sum over ranks of x (n elements, n a multiple of
// world). The sum begins with out: calls that follow each other add all ranks' x one after another, whatever the world.
// accumulate 2: out is bf16 beside f32 x, and the sum is rounded to nearest even after each rank's x.
int32_t koala_comm_reduce_scatter(koala_comm* comm, double* ticket, void* out, const void* x, double n, int32_t accumulate, int32_t dtype, const char* of, double timeout_s);
// out (n * world bytes) = every rank's n bytes, in rank order; a share that lies in its place is not written
int32_t koala_comm_all_gather(koala_comm* comm, double* ticket, void* out, const void* x, double n, const char* of, double timeout_s);
int32_t koala_comm_broadcast(koala_comm* comm, double* ticket, void* x, double n, int32_t root, const char* of, double timeout_s);

#ifdef __cplusplus
}
#endif
