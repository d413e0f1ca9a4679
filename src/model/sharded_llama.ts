/** A Llama of which this rank holds a share (shard.ts): every rank runs the same batch, and after the output and down
 *  projections the ranks' partial products are summed.
 *  Always: sums run in rank order, so hidden states are equal on every rank, bit for bit; a row depends on itself alone, as with
 *  one rank. Biases of summed products are rank 0's. Collectives are asked for by the host, so no graph can record this model. */
import { aligned, Arena } from "../tensor/arena.ts";
import type { Communicator } from "../tensor/communicator.ts";
import type { Device, DeviceEvent } from "../tensor/device.ts";
import { bytesOf, type DType, Tensor } from "../tensor/tensor.ts";
import type { Batch } from "./batch.ts";
import type { LlamaConfig } from "./config.ts";
import { type Attend, Llama, type Place } from "./llama.ts";
import { firstHeadRow, headRows, type Shard, shardConfig } from "./shard.ts";
import type { Block, LlamaWeights } from "./weights.ts";

export interface ShardedLimits {
  maxTokens: number;
  positions: number;
  /** Most rows of logits at once. */
  maxRows: number;
}

export class ShardedLlama extends Llama {
  /** Told the places of the rows whose logits rank 0 wants: the others must be told to call `headOf`. */
  onHead: (places: readonly number[], dtype: DType) => void = () => {};
  readonly shard: Shard;
  private readonly own: Arena;
  /** Partial products [T, D]. */
  private readonly delta: Tensor;
  private readonly picked: Tensor;
  private readonly index: Tensor;
  /** Logits of all ranks, which lie one after another. */
  private readonly gathered: Tensor;
  /** The sum that x still lacks. */
  private pending: { delta: Tensor; over: DeviceEvent } | null = null;
  private hidden: Tensor | null = null;

  constructor(
    device: Device,
    /** Of the whole model. */
    readonly wholeConfig: LlamaConfig,
    weights: LlamaWeights,
    limits: ShardedLimits,
    readonly sums: Communicator,
  ) {
    super(device, shardConfig(wholeConfig, sums), weights, limits);
    this.shard = sums;
    const { maxTokens, maxRows } = limits;
    const { hiddenSize: D } = wholeConfig;
    const places = maxRows * sums.world;
    const width = headRows(wholeConfig, sums.world);
    const widest = this.dtype === "f64" ? "f64" : "f32";
    const bytes = [
      (maxTokens + maxRows) * D * bytesOf[this.dtype] + 64,
      places * 4,
      places * width * bytesOf[widest],
    ];
    const capacity = bytes.reduce((sum, each) => sum + aligned(each), 0);
    this.own = new Arena(device, "shared sums", capacity);
    this.delta = this.own.tensor([maxTokens, D], this.dtype);
    this.picked = this.own.tensor([maxRows, D], this.dtype);
    this.index = this.own.tensor([places], "i32");
    this.gathered = this.own.tensor([places * width], widest);
  }

  override forward(batch: Batch, attend: Attend): Tensor {
    return (this.hidden = super.forward(batch, attend));
  }

  /** On rank 0: the whole logits, of which the others compute their columns when `onHead` has told them to. */
  override head(logits: Tensor, hidden: Tensor, places?: readonly number[]): void {
    this.onHead(places ?? Array.from({ length: hidden.dim(0) }, (_, i) => i), logits.dtype);
    const parts = this.gatherLogits(hidden, logits.dtype);
    this.join(logits, parts);
  }

  /** On the other ranks: their part in `head` of rank 0. */
  headOf(places: Int32Array, dtype: DType): void {
    if (this.hidden === null) throw new Error("logits were asked for before a batch was run");
    const index = this.index.rows(places.length);
    this.device.upload(index, places);
    const picked = this.picked.rows(places.length);
    this.ops.gatherRows(picked, this.hidden, index);
    this.gatherLogits(picked, dtype);
  }

  override close(): void {
    this.own.close();
    super.close();
  }

  protected override norm(h: Tensor, x: Tensor, weight: Tensor): void {
    const { pending } = this;
    if (pending === null) return super.norm(h, x, weight);
    this.pending = null;
    pending.over.wait();
    this.ops.addRmsNorm(h, x, pending.delta, weight, this.config.normEps);
  }

  /** The sum is joined with the next norm. */
  protected override addProduct(_: Tensor, y: Tensor, w: Block, key: "output" | "down", at: Place): void {
    const delta = this.delta.rows(y.dim(0));
    this.ops.matmul(delta, y, w[key], this.sums.rank === 0 ? w[`${key}Bias`] : null);
    this.adapt(delta, y, at.batch, at.layer, key);
    const of = `${key} projection of layer ${at.layer}`;
    this.pending = { delta, over: this.sums.allReduce(delta, { of, after: this.device.workSoFar() }) };
  }

  /** [world, R, width] on every rank. */
  private gatherLogits(hidden: Tensor, dtype: DType): Tensor {
    const { rank, world } = this.sums;
    const [R, width] = [hidden.dim(0), this.weights.head.N];
    const all = new Tensor(this.gathered.data, [world, R, width], dtype);
    const own = all.rows(1, rank).reshape([R, width]);
    this.ops.matmul(own, this.headInput(hidden), this.weights.head);
    this.sums.allGather(all, own, { of: "logits", after: this.device.workSoFar() }).wait();
    return all;
  }

  /** logits [R, V] <- the ranks' columns of each row. */
  private join(logits: Tensor, parts: Tensor): void {
    const [world, R, width] = parts.shape as [number, number, number];
    const rows = parts.reshape([world * R, width]);
    if (world * width === logits.dim(1)) {
      const order = Int32Array.from({ length: R * world }, (_, i) => (i % world) * R + Math.floor(i / world));
      const index = this.index.rows(order.length);
      this.device.upload(index, order);
      return this.ops.gatherRows(logits.reshape([R * world, width]), rows, index);
    }
    // The last ranks' columns overlap: what two have computed is equal.
    const bytes = bytesOf[logits.dtype];
    for (let r = 0; r < R; r++)
      for (let rank = 0; rank < world; rank++) {
        const column = firstHeadRow(this.wholeConfig, { rank, world });
        const to = logits.rows(1, r).data + column * bytes;
        this.device.copy(to, rows.rows(1, rank * R + r).data, width * bytes);
      }
  }
}
