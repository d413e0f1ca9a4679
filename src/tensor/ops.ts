/** One function a native op: check shapes, call, name the failure. Destination first, as in ffi/include/koala.h, which has the formulas.
 *  Sizes come from shapes, never from the caller; checks are always on (32 ns) because bun:ffi itself checks nothing. */
import type { Pointer } from "bun:ffi";
import type { Device } from "./device.ts";
import { type CacheType, dtypeCode, type PackedMatrix, type Tensor } from "./tensor.ts";

export class ShapeError extends Error {
  override name = "ShapeError";
}

/** Head counts and size of an attention layer. */
export interface Heads {
  /** Query heads. */
  H: number;
  /** Key/value heads. */
  G: number;
  /** Head dim. */
  E: number;
}

/** Where the sequences of a batch lie in the paged cache. */
export interface PagedSequences {
  /** i32 [S+1] */
  starts: Tensor;
  /** i32 [S] */
  lengths: Tensor;
  /** i32 [S, M] */
  pages: Tensor;
  pageSize: number;
}

/** Keys and values of one layer. */
export interface LayerCache {
  keys: number;
  values: number;
  dtype: CacheType;
}

/** Device arrays of koala_sample, one entry a row. */
export interface SampleArrays {
  scalars: Tensor;
  uniform: Tensor;
  historyStarts: Tensor;
  history: Tensor;
  counts: Tensor;
  biasStarts: Tensor;
  biasIds: Tensor;
  biasValues: Tensor;
  maskRows: Tensor;
  mask: Tensor;
}

export class Ops {
  constructor(readonly device: Device) {}

  embed(y: Tensor, table: Tensor, tokens: Tensor): void {
    const [T, D] = matrix("embed", y);
    const [V, width] = matrix("embed", table);
    equal("embed", "table width", width, D);
    equal("embed", "tokens", tokens.size, T);
    const { native, handle } = this.device;
    this.done(
      "koala_embed",
      native.koala_embed(handle, at(y), at(table), at(tokens), T, D, V, code(table), code(y)),
    );
  }

  rmsNorm(y: Tensor, x: Tensor, weight: Tensor, eps: number): void {
    const [T, D] = matrix("rmsNorm", x);
    equal("rmsNorm", "weight", weight.size, D);
    equal("rmsNorm", "output", y.size, x.size);
    same("rmsNorm", x, y, weight);
    const { native, handle } = this.device;
    this.done("koala_rms_norm", native.koala_rms_norm(handle, at(y), at(x), at(weight), T, D, eps, code(x)));
  }

  /** x += delta, then y <- the norm of x. */
  addRmsNorm(y: Tensor, x: Tensor, delta: Tensor, weight: Tensor, eps: number): void {
    const [T, D] = matrix("addRmsNorm", x);
    equal("addRmsNorm", "weight", weight.size, D);
    equal("addRmsNorm", "delta", delta.size, x.size);
    equal("addRmsNorm", "output", y.size, x.size);
    same("addRmsNorm", x, y, delta, weight);
    const { native, handle } = this.device;
    const status = native.koala_add_rms_norm(handle, at(y), at(x), at(delta), at(weight), T, D, eps, code(x));
    this.done("koala_add_rms_norm", status);
  }

  /** In place on the query and key heads of qkv. */
  qkNorm(qkv: Tensor, queryWeight: Tensor, keyWeight: Tensor, heads: Heads, eps: number): void {
    const T = qkvRows("qkNorm", qkv, heads);
    equal("qkNorm", "query weight", queryWeight.size, heads.E);
    equal("qkNorm", "key weight", keyWeight.size, heads.E);
    same("qkNorm", qkv, queryWeight, keyWeight);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    const status = native.koala_qk_norm(
      handle,
      at(qkv),
      at(queryWeight),
      at(keyWeight),
      T,
      H,
      G,
      E,
      eps,
      code(qkv),
    );
    this.done("koala_qk_norm", status);
  }

  /** y <- x w^T (+ bias); with `accumulate`, y += x w^T (+ bias). */
  matmul(y: Tensor, x: Tensor, w: PackedMatrix, bias: Tensor | null = null, accumulate = false): void {
    const [T, K] = matrix("matmul", x);
    equal("matmul", `columns of x for ${w}`, K, w.K);
    equal("matmul", "output rows", y.dim(0), T);
    equal("matmul", `output columns for ${w}`, y.dim(1), w.N);
    same("matmul", x, y);
    if (bias) {
      equal("matmul", "bias", bias.size, w.N);
      same("matmul", x, bias);
    }
    const { native, handle } = this.device;
    const status = native.koala_matmul(
      handle,
      at(y),
      at(x),
      w.data as Pointer,
      bias ? at(bias) : null,
      T,
      w.N,
      w.K,
      accumulate ? 1 : 0,
      dtypeCode[w.dtype],
      code(x),
    );
    this.done("koala_matmul", status);
  }

  /** In place on the query and key heads of qkv; table is f32 [positions, E/2, 2]. */
  rope(qkv: Tensor, table: Tensor, positions: Tensor, heads: Heads): void {
    const T = qkvRows("rope", qkv, heads);
    equal("rope", "positions", positions.size, T);
    equal("rope", "table width", table.dim(1) * table.dim(2), heads.E);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    this.done(
      "koala_rope",
      native.koala_rope(handle, at(qkv), at(table), at(positions), T, H, G, E, code(qkv)),
    );
  }

  cacheWrite(cache: LayerCache, qkv: Tensor, slots: Tensor, heads: Heads, pageSize: number): void {
    const T = qkvRows("cacheWrite", qkv, heads);
    equal("cacheWrite", "slots", slots.size, T);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    const status = native.koala_cache_write(
      handle,
      cache.keys as Pointer,
      cache.values as Pointer,
      at(qkv),
      at(slots),
      T,
      H,
      G,
      E,
      pageSize,
      dtypeCode[cache.dtype],
      code(qkv),
    );
    this.done("koala_cache_write", status);
  }

  /** Causal attention over the paged cache; window 0 sees all. */
  attention(
    y: Tensor,
    qkv: Tensor,
    cache: LayerCache,
    sequences: PagedSequences,
    heads: Heads,
    window: number,
    scale: number,
  ): void {
    const T = qkvRows("attention", qkv, heads);
    const [S, M] = matrix("attention", sequences.pages);
    equal("attention", "output", y.size, T * heads.H * heads.E);
    equal("attention", "starts", sequences.starts.size, S + 1);
    equal("attention", "lengths", sequences.lengths.size, S);
    same("attention", qkv, y);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    const status = native.koala_attention(
      handle,
      at(y),
      at(qkv),
      cache.keys as Pointer,
      cache.values as Pointer,
      at(sequences.starts),
      at(sequences.lengths),
      at(sequences.pages),
      S,
      M,
      sequences.pageSize,
      H,
      G,
      E,
      window,
      scale,
      dtypeCode[cache.dtype],
      code(qkv),
    );
    this.done("koala_attention", status);
  }

  /** y <- silu(gate) * up, gateUp is [T, 2F] with the gate first. */
  siluMul(y: Tensor, gateUp: Tensor): void {
    const [T, F] = matrix("siluMul", y);
    equal("siluMul", "input", gateUp.size, T * 2 * F);
    same("siluMul", y, gateUp);
    const { native, handle } = this.device;
    this.done("koala_silu_mul", native.koala_silu_mul(handle, at(y), at(gateUp), T, F, code(y)));
  }

  gatherRows(y: Tensor, x: Tensor, rows: Tensor): void {
    const [R, D] = matrix("gatherRows", y);
    equal("gatherRows", "rows", rows.size, R);
    equal("gatherRows", "width", x.dim(1), D);
    same("gatherRows", x, y);
    const { native, handle } = this.device;
    this.done("koala_gather_rows", native.koala_gather_rows(handle, at(y), at(x), at(rows), R, D, code(x)));
  }

  /** The same numbers in another element type. */
  cast(to: Tensor, from: Tensor): void {
    equal("cast", "output", to.size, from.size);
    const { native, handle } = this.device;
    this.done("koala_cast", native.koala_cast(handle, at(to), at(from), from.size, code(to), code(from)));
  }

  /** y (f64 [S, D]) += rows of x summed per range of starts. */
  sumRows(y: Tensor, x: Tensor, starts: Tensor): void {
    const [S, D] = matrix("sumRows", y);
    equal("sumRows", "width", x.dim(1), D);
    equal("sumRows", "starts", starts.size, S + 1);
    const { native, handle } = this.device;
    this.done("koala_sum_rows", native.koala_sum_rows(handle, at(y), at(x), at(starts), S, D, code(x)));
  }

  /** Pushes rows of logits (f32 [R, V]) away from others: pairs i32 [C, 2], scalars f32 [C, 2] strength and plausibility. */
  contrast(logits: Tensor, pairs: Tensor, scalars: Tensor): void {
    const [R, V] = matrix("contrast", logits);
    equal("contrast", "scalars", scalars.size, pairs.size);
    const { native, handle } = this.device;
    const C = pairs.size / 2;
    const status = native.koala_contrast(handle, at(logits), at(pairs), at(scalars), C, R, V);
    this.done("koala_contrast", status);
  }

  /** Picks one id a row; overwrites logits (f32 [R, V]). */
  sample(ids: Tensor, logits: Tensor, a: SampleArrays): void {
    const [R, V] = matrix("sample", logits);
    equal("sample", "ids", ids.size, R);
    equal("sample", "scalars", a.scalars.size, R * 7);
    equal("sample", "uniform", a.uniform.size, R);
    const { native, handle } = this.device;
    const status = native.koala_sample(
      handle,
      at(ids),
      at(logits),
      at(a.scalars),
      at(a.uniform),
      at(a.historyStarts),
      at(a.history),
      at(a.counts),
      at(a.biasStarts),
      at(a.biasIds),
      at(a.biasValues),
      at(a.maskRows),
      at(a.mask),
      R,
      V,
    );
    this.done("koala_sample", status);
  }

  /** Log-probabilities of `ids` and of the k best tokens a row. */
  logprobs(
    out: { logprobs: Tensor; ranks: Tensor; topIds: Tensor; topLogprobs: Tensor },
    logits: Tensor,
    ids: Tensor,
    k: number,
  ): void {
    const [R, V] = matrix("logprobs", logits);
    equal("logprobs", "ids", ids.size, R);
    if (out.topIds.size < R * k || out.topLogprobs.size < R * k)
      throw new ShapeError(`logprobs: ${out.topIds} is too small for ${R} x ${k}`);
    const { native, handle } = this.device;
    const status = native.koala_logprobs(
      handle,
      at(out.logprobs),
      at(out.ranks),
      at(out.topIds),
      at(out.topLogprobs),
      at(logits),
      at(ids),
      R,
      V,
      k,
    );
    this.done("koala_logprobs", status);
  }

  private done(symbol: string, status: number): void {
    if (status !== 0) this.device.check(symbol, status);
  }
}

export const at = (tensor: Tensor) => tensor.data as Pointer;
export const code = (tensor: Tensor) => dtypeCode[tensor.dtype];

export function matrix(op: string, tensor: Tensor): [number, number] {
  if (tensor.shape.length !== 2) throw new ShapeError(`${op}: ${tensor} is not a matrix`);
  return tensor.shape as [number, number];
}

export function equal(op: string, what: string, got: number, want: number): void {
  if (got !== want) throw new ShapeError(`${op}: ${what} is ${got}, expected ${want}`);
}

export function same(op: string, first: Tensor, ...others: Tensor[]): void {
  for (const other of others) {
    if (other.dtype !== first.dtype) throw new ShapeError(`${op}: ${other} beside ${first}`);
  }
}

export function qkvRows(op: string, qkv: Tensor, { H, G, E }: Heads): number {
  const [T, width] = matrix(op, qkv);
  equal(op, "width of qkv", width, (H + 2 * G) * E);
  return T;
}
