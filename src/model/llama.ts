/** The LLaMA family: RMSNorm, rotary grouped-query attention, SwiGLU; Mistral's window, Qwen2's biases and Qwen3's head norms are options.
 *  One packed batch in, hidden states out. The block below reads like the paper; weights come from weights.ts. */
import { Arena, aligned } from "../tensor/arena.ts";
import type { Device } from "../tensor/device.ts";
import { type Heads, Ops } from "../tensor/ops.ts";
import { bytesOf, type DType, type Tensor } from "../tensor/tensor.ts";
import type { Batch } from "./batch.ts";
import type { LlamaConfig } from "./config.ts";
import { ropeTable } from "./rope.ts";
import type { Block, LlamaWeights } from "./weights.ts";

/** Attention of one layer: y [T, H*E] from the rotated qkv [T, (H+2G)*E]. Serving reads and writes a paged cache here. */
export type Attend = (y: Tensor, qkv: Tensor, batch: Batch, layer: number) => void;

/** A layer in the run of a batch. */
export interface Place {
  batch: Batch;
  layer: number;
}

export class Llama {
  readonly ops: Ops;
  readonly heads: Heads;
  /** Element type of activations (activationTypeOf in weights.ts); logits are float32, or float64 beside float64. */
  readonly dtype: DType;
  private readonly buffers: Record<"x" | "h" | "qkv" | "attended" | "gateUp" | "gated", Tensor>;
  /** [maxTokens, D] float32 beside bfloat16 activations. */
  private readonly wide: Tensor | null;
  private readonly rope: Tensor;
  private readonly arena: Arena;

  /** `maxTokens` bounds T of one batch; `positions` bounds the length of a sequence. */
  constructor(
    readonly device: Device,
    readonly config: LlamaConfig,
    readonly weights: LlamaWeights,
    limits: { maxTokens: number; positions: number },
  ) {
    this.ops = new Ops(device);
    this.heads = { H: config.headCount, G: config.keyValueHeadCount, E: config.headDim };
    this.dtype = weights.activationType;
    const widths = activationWidths(config);
    const tableBytes = limits.positions * config.headDim * 4;
    const bytes = Object.values(widths).reduce(
      (sum, width) => sum + aligned(limits.maxTokens * width * bytesOf[this.dtype]),
      0,
    );
    const wideBytes = this.dtype === "bf16" ? limits.maxTokens * config.hiddenSize * bytesOf.f32 : 0;
    this.arena = new Arena(device, "activations", bytes + aligned(tableBytes) + aligned(wideBytes));
    this.wide = wideBytes > 0 ? this.arena.tensor([limits.maxTokens, config.hiddenSize], "f32") : null;
    const named = Object.entries(widths).map(([name, width]) => [
      name,
      this.arena.tensor([limits.maxTokens, width], this.dtype),
    ]);
    this.buffers = Object.fromEntries(named) as typeof this.buffers;
    this.rope = this.arena.tensor([limits.positions, config.headDim / 2, 2], "f32");
    device.upload(this.rope, ropeTable(config, limits.positions));
  }

  /** Runs the batch and returns its hidden states [T, D] after the final norm; valid until the next call. */
  forward(batch: Batch, attend: Attend): Tensor {
    const { ops, weights } = this;
    const x = this.buffers.x.rows(batch.T);
    const h = this.buffers.h.rows(batch.T);
    ops.embed(x, weights.embedding, batch.tokens);
    weights.blocks.forEach((block, layer) => this.block(x, block, batch, layer, attend));
    this.norm(h, x, weights.norm);
    return h;
  }

  /** logits [R, V] of the hidden states of R rows, which stood at `_places` (the first R) of what `forward` gave last. */
  head(logits: Tensor, hidden: Tensor, _places?: readonly number[]): void {
    this.ops.matmul(logits, this.headInput(hidden), this.weights.head);
  }

  close(): void {
    this.arena.close();
  }

  /** Hidden states in the logits' type, which a product's input has too: bfloat16 is widened, exactly; valid until the next call. */
  protected headInput(hidden: Tensor): Tensor {
    const wide = this.wide?.rows(hidden.dim(0));
    if (!wide) return hidden;
    this.ops.cast(wide, hidden);
    return wide;
  }

  /** x [T, D] <- x + attention(norm(x)); x <- x + mlp(norm(x)). The products add to x themselves: with the norm that follows,
   *  4 T D elements move, and x is rounded once; a product of its own and addRmsNorm move 5 T D and round twice. */
  private block(x: Tensor, w: Block, batch: Batch, layer: number, attend: Attend): void {
    const { ops, heads, config } = this;
    const { T } = batch;
    const h = this.buffers.h.rows(T);
    const qkv = this.buffers.qkv.rows(T);
    const attended = this.buffers.attended.rows(T);
    const gateUp = this.buffers.gateUp.rows(T);
    const gated = this.buffers.gated.rows(T);

    this.norm(h, x, w.attentionNorm);
    ops.matmul(qkv, h, w.qkv, w.qkvBias);
    this.adapt(qkv, h, batch, layer, "qkv");
    if (w.queryNorm && w.keyNorm) ops.qkNorm(qkv, w.queryNorm, w.keyNorm, heads, config.normEps);
    ops.rope(qkv, this.rope, batch.positions, heads);
    attend(attended, qkv, batch, layer);
    this.addProduct(x, attended, w, "output", { batch, layer });

    this.norm(h, x, w.mlpNorm);
    ops.matmul(gateUp, h, w.gateUp, w.gateUpBias);
    this.adapt(gateUp, h, batch, layer, "gateUp");
    ops.siluMul(gated, gateUp);
    this.addProduct(x, gated, w, "down", { batch, layer });
  }

  /** h <- norm(x), x being what it is with all that was added. */
  protected norm(h: Tensor, x: Tensor, weight: Tensor): void {
    this.ops.rmsNorm(h, x, weight, this.config.normEps);
  }

  /** x += y w^T + bias with the matrix `key`, and what adapters add. */
  protected addProduct(x: Tensor, y: Tensor, w: Block, key: "output" | "down", at: Place): void {
    this.ops.matmul(x, y, w[key], w[`${key}Bias`], true);
    this.adapt(x, y, at.batch, at.layer, key);
  }

  /** y += s B A x in the rows that have an adapter; the others are not touched. */
  protected adapt(y: Tensor, x: Tensor, { adapters }: Batch, layer: number, key: keyof Block): void {
    for (const { weights, first, count } of adapters)
      weights.add(this.ops, y.rows(count, first), x.rows(count, first), layer, key);
  }
}

function activationWidths(config: LlamaConfig) {
  const { hiddenSize: D, intermediateSize: F, headCount: H, keyValueHeadCount: G, headDim: E } = config;
  return { x: D, h: D, qkv: (H + 2 * G) * E, attended: H * E, gateUp: 2 * F, gated: F };
}
