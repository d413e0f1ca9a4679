/** The native ops of training, one function each: backward ops mirror the forward ones in Ops, and share its rules
 *  (destination first, sizes from shapes, checks always on). Gradients of activations are written, those of parameters
 *  added; these are f32, or f64 where the activations are. ffi/include/koala.h has the formulas. */
import { ptr, type Pointer } from "bun:ffi";
import type { Device } from "./device.ts";
import { at, code, equal, type Heads, matrix, qkvRows, same, ShapeError } from "./ops.ts";
import type { AdamWState, AdamWStep, AttentionScores, Documents } from "./training_arguments.ts";
import { type DType, dtypeCode, type PackedMatrix, type Tensor } from "./tensor.ts";

export class TrainingOps {
  private readonly sum = new Float64Array(1);
  private readonly scalars = new Float64Array(8);
  // Typed arrays keep their address while this object holds them.
  private readonly sumAt = ptr(this.sum);
  private readonly scalarsAt = ptr(this.scalars);

  constructor(readonly device: Device) {}

  /** Packs the transpose of w [N, K], so that ops.matmul(dx, dy, packed) is dx <- dy w. */
  packTransposed(packed: PackedMatrix, w: Tensor): void {
    const [N, K] = matrix("packTransposed", w);
    equal("packTransposed", `rows of ${packed}`, packed.N, K);
    equal("packTransposed", `columns of ${packed}`, packed.K, N);
    const { native, handle } = this.device;
    const status = native.koala_matmul_pack_transposed(
      handle,
      packed.data as Pointer,
      at(w),
      N,
      K,
      dtypeCode[packed.dtype],
      code(w),
    );
    this.done("koala_matmul_pack_transposed", status);
  }

  /** dw [N, K] += dy^T x, products in `compute`. */
  matmulWeightGradient(dw: Tensor, dy: Tensor, x: Tensor, compute: DType): void {
    const [T, N] = matrix("matmulWeightGradient", dy);
    const [rows, K] = matrix("matmulWeightGradient", x);
    equal("matmulWeightGradient", "rows of x", rows, T);
    equal("matmulWeightGradient", "gradient", dw.size, N * K);
    same("matmulWeightGradient", x, dy);
    sumType("matmulWeightGradient", dw, x);
    const { native, handle } = this.device;
    const status = native.koala_matmul_weight_gradient(
      handle,
      at(dw),
      at(dy),
      at(x),
      T,
      N,
      K,
      dtypeCode[compute],
      code(x),
    );
    this.done("koala_matmul_weight_gradient", status);
  }

  /** db [N] += sum of the rows of dy. */
  biasGradient(db: Tensor, dy: Tensor): void {
    const [T, N] = matrix("biasGradient", dy);
    equal("biasGradient", "gradient", db.size, N);
    sumType("biasGradient", db, dy);
    const { native, handle } = this.device;
    this.done("koala_bias_gradient", native.koala_bias_gradient(handle, at(db), at(dy), T, N, code(dy)));
  }

  /** Adds rows of dy to the rows of their tokens; `order` (i32 [T]) sorts positions by token, stably. */
  embedBackward(dtable: Tensor, dy: Tensor, tokens: Tensor, order: Tensor): void {
    const [T, D] = matrix("embedBackward", dy);
    const [V, width] = matrix("embedBackward", dtable);
    equal("embedBackward", "table width", width, D);
    equal("embedBackward", "tokens", tokens.size, T);
    equal("embedBackward", "order", order.size, T);
    sumType("embedBackward", dtable, dy);
    const { native, handle } = this.device;
    const status = native.koala_embed_backward(
      handle,
      at(dtable),
      at(dy),
      at(tokens),
      at(order),
      T,
      D,
      V,
      code(dy),
    );
    this.done("koala_embed_backward", status);
  }

  /** dx <- (or, with `accumulate`, +=) the gradient of x; dweight += that of the weight. dx may be dy. */
  rmsNormBackward(
    dx: Tensor,
    dweight: Tensor,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: number,
    accumulate = false,
  ): void {
    const [T, D] = matrix("rmsNormBackward", x);
    equal("rmsNormBackward", "weight", weight.size, D);
    equal("rmsNormBackward", "weight gradient", dweight.size, D);
    equal("rmsNormBackward", "gradient", dy.size, x.size);
    equal("rmsNormBackward", "output", dx.size, x.size);
    same("rmsNormBackward", x, dx, dy, weight);
    sumType("rmsNormBackward", dweight, x);
    const { native, handle } = this.device;
    const status = native.koala_rms_norm_backward(
      handle,
      at(dx),
      at(dweight),
      at(dy),
      at(x),
      at(weight),
      T,
      D,
      eps,
      accumulate ? 1 : 0,
      code(x),
    );
    this.done("koala_rms_norm_backward", status);
  }

  /** In place on the query and key heads of dqkv; qkv is what ops.qkNorm was given. */
  qkNormBackward(
    dqkv: Tensor,
    gradients: { query: Tensor; key: Tensor },
    qkv: Tensor,
    weights: { query: Tensor; key: Tensor },
    heads: Heads,
    eps: number,
  ): void {
    const T = qkvRows("qkNormBackward", qkv, heads);
    equal("qkNormBackward", "gradient", dqkv.size, qkv.size);
    for (const weight of [gradients.query, gradients.key, weights.query, weights.key])
      equal("qkNormBackward", "weight", weight.size, heads.E);
    same("qkNormBackward", qkv, dqkv, weights.query, weights.key);
    sumType("qkNormBackward", gradients.query, qkv);
    sumType("qkNormBackward", gradients.key, qkv);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    const status = native.koala_qk_norm_backward(
      handle,
      at(dqkv),
      at(gradients.query),
      at(gradients.key),
      at(qkv),
      at(weights.query),
      at(weights.key),
      T,
      H,
      G,
      E,
      eps,
      code(qkv),
    );
    this.done("koala_qk_norm_backward", status);
  }

  /** In place on the query and key heads of dqkv; table is f32 [positions, E/2, 2]. */
  ropeBackward(dqkv: Tensor, table: Tensor, positions: Tensor, heads: Heads): void {
    const T = qkvRows("ropeBackward", dqkv, heads);
    equal("ropeBackward", "positions", positions.size, T);
    equal("ropeBackward", "table width", table.dim(1) * table.dim(2), heads.E);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    this.done(
      "koala_rope_backward",
      native.koala_rope_backward(handle, at(dqkv), at(table), at(positions), T, H, G, E, code(dqkv)),
    );
  }

  /** Causal attention inside each document; lse [T, H] is kept for the backward pass. */
  documentAttention(
    y: Tensor,
    lse: Tensor,
    qkv: Tensor,
    documents: Documents,
    heads: Heads,
    scores: AttentionScores,
  ): void {
    const S = documentCount("documentAttention", qkv, lse, y, documents, heads);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    const status = native.koala_document_attention(
      handle,
      at(y),
      at(lse),
      at(qkv),
      at(documents.starts),
      documents.forget ? at(documents.forget) : null,
      S,
      H,
      G,
      E,
      scores.window,
      documents.first ?? 0,
      documents.seed | 0,
      (scores.drop?.seed ?? 0) | 0,
      scores.drop?.probability ?? 0,
      scores.scale,
      code(qkv),
    );
    this.done("koala_document_attention", status);
  }

  /** dqkv from dy and what documentAttention was given and gave. */
  documentAttentionBackward(
    dqkv: Tensor,
    dy: Tensor,
    forward: { y: Tensor; lse: Tensor; qkv: Tensor },
    documents: Documents,
    heads: Heads,
    scores: AttentionScores,
  ): void {
    const { y, lse, qkv } = forward;
    const S = documentCount("documentAttentionBackward", qkv, lse, y, documents, heads);
    equal("documentAttentionBackward", "gradient", dy.size, y.size);
    equal("documentAttentionBackward", "output", dqkv.size, qkv.size);
    same("documentAttentionBackward", qkv, dqkv, dy);
    const { H, G, E } = heads;
    const { native, handle } = this.device;
    const status = native.koala_document_attention_backward(
      handle,
      at(dqkv),
      at(dy),
      at(y),
      at(lse),
      at(qkv),
      at(documents.starts),
      documents.forget ? at(documents.forget) : null,
      S,
      H,
      G,
      E,
      scores.window,
      documents.first ?? 0,
      documents.seed | 0,
      (scores.drop?.seed ?? 0) | 0,
      scores.drop?.probability ?? 0,
      scores.scale,
      code(qkv),
    );
    this.done("koala_document_attention_backward", status);
  }

  /** dgateUp [T, 2F] from dy [T, F] and gateUp. */
  siluMulBackward(dgateUp: Tensor, dy: Tensor, gateUp: Tensor): void {
    const [T, F] = matrix("siluMulBackward", dy);
    equal("siluMulBackward", "input", gateUp.size, T * 2 * F);
    equal("siluMulBackward", "output", dgateUp.size, T * 2 * F);
    same("siluMulBackward", dy, gateUp, dgateUp);
    const { native, handle } = this.device;
    this.done(
      "koala_silu_mul_backward",
      native.koala_silu_mul_backward(handle, at(dgateUp), at(dy), at(gateUp), T, F, code(dy)),
    );
  }

  /** y <- x with elements dropped with probability p, by their number (from `offset`) and seed. Its own backward. */
  dropout(y: Tensor, x: Tensor, offset: number, seed: number, p: number): void {
    equal("dropout", "output", y.size, x.size);
    same("dropout", x, y);
    const { native, handle } = this.device;
    this.done(
      "koala_dropout",
      native.koala_dropout(handle, at(y), at(x), offset, x.size, seed | 0, p, code(x)),
    );
  }

  /** y <- a x + b y; with b 0, y is not read. */
  axpby(y: Tensor, x: Tensor, a: number, b: number): void {
    equal("axpby", "output", y.size, x.size);
    same("axpby", x, y);
    const { native, handle } = this.device;
    this.done("koala_axpby", native.koala_axpby(handle, at(y), at(x), x.size, a, b, code(x)));
  }

  /** sum <- sum + x, rounded to nearest even where sum is bf16; x is f32. */
  accumulate(sum: Tensor, x: Tensor): void {
    equal("accumulate", "sum", sum.size, x.size);
    if (x.dtype !== "f32") throw new ShapeError(`accumulate: ${x} is added, expected f32`);
    const { native, handle } = this.device;
    this.done("koala_accumulate", native.koala_accumulate(handle, at(sum), at(x), x.size, code(sum)));
  }

  /** y (f32) <- N(0, std^2): the numbers of stream `seed` from number `offset` (even) on. */
  fillNormal(y: Tensor, offset: number, seed: number, std: number): void {
    if (y.dtype !== "f32") throw new ShapeError(`fillNormal: ${y}, expected f32`);
    const { native, handle } = this.device;
    this.done("koala_fill_normal", native.koala_fill_normal(handle, at(y), y.size, offset, seed, std));
  }

  /** logprobs[r] and lse[r] of logits [R, V]; a target of -1 gives 0. */
  crossEntropy(logprobs: Tensor, lse: Tensor, logits: Tensor, targets: Tensor): void {
    const [R, V] = matrix("crossEntropy", logits);
    for (const list of [logprobs, lse, targets]) equal("crossEntropy", "rows", list.size, R);
    sumType("crossEntropy", logprobs, logits);
    sumType("crossEntropy", lse, logits);
    const { native, handle } = this.device;
    const status = native.koala_cross_entropy(
      handle,
      at(logprobs),
      at(lse),
      at(logits),
      at(targets),
      R,
      V,
      code(logits),
    );
    this.done("koala_cross_entropy", status);
  }

  /** logits <- weights[r] * (softmax - one hot), in place. */
  crossEntropyBackward(logits: Tensor, lse: Tensor, weights: Tensor, targets: Tensor): void {
    const [R, V] = matrix("crossEntropyBackward", logits);
    for (const list of [lse, weights, targets]) equal("crossEntropyBackward", "rows", list.size, R);
    sumType("crossEntropyBackward", lse, logits);
    sumType("crossEntropyBackward", weights, logits);
    const { native, handle } = this.device;
    const status = native.koala_cross_entropy_backward(
      handle,
      at(logits),
      at(lse),
      at(weights),
      at(targets),
      R,
      V,
      code(logits),
    );
    this.done("koala_cross_entropy_backward", status);
  }

  /** Sum of squares in double, in one fixed order; not finite if any element is not. */
  sumSquares(x: Tensor): number {
    const { native, handle } = this.device;
    this.done("koala_sum_squares", native.koala_sum_squares(handle, this.sumAt, at(x), x.size, code(x)));
    return this.sum[0] as number;
  }

  /** One AdamW step; `index` is the number of the first parameter in the whole model (it seeds the rounding). */
  adamw(state: AdamWState, g: Tensor, step: AdamWStep, index: number): void {
    const { w, low, m, v } = state;
    for (const part of low ? [w, low, m, v] : [w, m, v]) equal("adamw", "state", part.size, g.size);
    if (low) same("adamw", m, v, w);
    else same("adamw", g, w, m, v);
    if (low && m.dtype !== "bf16") throw new ShapeError(`adamw: ${m} beside low halves, expected bf16`);
    const { lr, beta1, beta2, eps, decay, scale } = step;
    this.scalars.set([lr, beta1, beta2, eps, decay, scale, step.step, step.seed]);
    const { native, handle } = this.device;
    const status = native.koala_adamw(
      handle,
      at(w),
      low ? at(low) : null,
      at(m),
      at(v),
      at(g),
      g.size,
      this.scalarsAt,
      index,
      low ? 1 : 0,
      code(g),
    );
    this.done("koala_adamw", status);
  }

  /** Splits float32 masters into bf16 weights and their low halves, losing nothing. */
  masterSplit(w: Tensor, low: Tensor, master: Tensor): void {
    const n = splitSize("masterSplit", w, low, master);
    const { native, handle } = this.device;
    this.done("koala_master_split", native.koala_master_split(handle, at(w), at(low), at(master), n));
  }

  masterJoin(master: Tensor, w: Tensor, low: Tensor): void {
    const n = splitSize("masterJoin", w, low, master);
    const { native, handle } = this.device;
    this.done("koala_master_join", native.koala_master_join(handle, at(master), at(w), at(low), n));
  }

  private done(symbol: string, status: number): void {
    if (status !== 0) this.device.check(symbol, status);
  }
}

/** Parameter gradients and row sums are f32, or f64 beside f64 activations. */
function sumType(op: string, sum: Tensor, activations: Tensor): void {
  const want = activations.dtype === "f64" ? "f64" : "f32";
  if (sum.dtype !== want) throw new ShapeError(`${op}: ${sum} beside ${activations}, expected ${want}`);
}

function documentCount(
  op: string,
  qkv: Tensor,
  lse: Tensor,
  y: Tensor,
  documents: Documents,
  heads: Heads,
): number {
  const T = qkvRows(op, qkv, heads);
  const S = documents.starts.size - 1;
  equal(op, "output of attention", y.size, T * heads.H * heads.E);
  equal(op, "lse", lse.size, T * heads.H);
  if (S < 0) throw new ShapeError(`${op}: starts is empty`);
  if (documents.forget) equal(op, "forget", documents.forget.size, S);
  same(op, qkv, y);
  sumType(op, lse, qkv);
  return S;
}

function splitSize(op: string, w: Tensor, low: Tensor, master: Tensor): number {
  equal(op, "weights", w.size, master.size);
  equal(op, "low halves", low.size, master.size);
  same(op, w, low);
  if (w.dtype !== "bf16" || master.dtype !== "f32")
    throw new ShapeError(`${op}: ${w} and ${master}, expected bf16 and f32`);
  return master.size;
}
