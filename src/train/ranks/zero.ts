/** ZeRO (Rajbhandari et al. 2020) over flat blocks: what a rank keeps of weights, gradients and optimizer state, and the
 *  collectives of a step. Stage 0 replicates all; 1 shards the optimizer's state; 2 also the gradients; 3 also the weights.
 *  Always: every rank calls the same hooks in the same order. Stages 2 and 3 add the gradients of micro-batches one after
 *  another, whatever the world; 0 and 1 add those of a rank first, so they agree to rounding. */
import type { Communicator, CollectiveOptions } from "../../tensor/communicator.ts";
import { aligned, Arena } from "../../tensor/arena.ts";
import type { Device } from "../../tensor/device.ts";
import { bytesOf, type Tensor } from "../../tensor/tensor.ts";
import type { BlockState, FlatState } from "../flat_state.ts";
import type { StepHooks } from "../step.ts";
import { faultPoint } from "./fault.ts";
import { GatheredBlock } from "./gathered_block.ts";
import type { ReportPhase } from "./heartbeat.ts";

export interface ZeroOptions {
  /** Weights that are read: the model's. */
  base: FlatState;
  /** What the optimizer updates: the same, or the adapters. */
  trained: FlatState;
  /** Zeros that gradients are cleared from. */
  zeros: Tensor;
  report?: ReportPhase;
}

/** The hooks of `Stepper` and `TrainModel` that make one rank of many out of them. */
export class ZeroHooks implements StepHooks {
  /** For messages and heartbeats. */
  private step = 0;
  private readonly report: ReportPhase;

  constructor(
    private readonly device: Device,
    private readonly communicator: Communicator,
    private readonly options: ZeroOptions,
  ) {
    this.report = options.report ?? (() => {});
  }

  /** Heartbeats and checkpoints count steps from 1. */
  begin(step: number): void {
    this.step = step + 1;
  }

  /** Before a block's weights are read. Stage 3 gathers them, and those of the block that comes next before this one is
   *  computed, so that a communicator with a stream of its own hides the transfer; shared memory gathers on the spot. */
  need(block: number, pass: "forward" | "backward"): void {
    const { blocks } = this.options.base;
    const own = blocks[block];
    this.report(this.step, pass, own?.layout.name);
    if (!(own instanceof GatheredBlock)) return;
    own.gather(this.communicator, this.about("weights", own)).wait();
    const next = blocks[block + (pass === "forward" ? 1 : -1)];
    // Going backwards, the embedding's weights are not read.
    const wanted = pass === "forward" || block > 1;
    if (wanted && next instanceof GatheredBlock) next.gather(this.communicator, this.about("weights", next));
    own.held = true;
  }

  /** The block's weights were read for now. */
  done(block: number): void {
    const own = this.options.base.blocks[block];
    if (own instanceof GatheredBlock) own.held = false;
  }

  /** A trained block's gradient is complete for this micro-batch; sharded sums are added to here. */
  gradient(block: number): void {
    const own = this.trained(block);
    if (this.options.trained.stage < 2 || !own.gradient || !own.sum) return;
    this.report(this.step, "reduce", own.layout.name);
    this.communicator.reduceScatterAdd(own.sum, own.gradient, this.about("gradient", own)).wait();
    clear(this.device, own.gradient, this.options.zeros);
  }

  /** The gradients of all micro-batches of this rank are added up. */
  reduce(block: number): void {
    const own = this.trained(block);
    const { stage } = this.options.trained;
    if (stage >= 2 || !own.gradient || !own.sum) return;
    this.report(this.step, "reduce", own.layout.name);
    if (stage === 0) this.communicator.allReduce(own.gradient, this.about("gradient", own)).wait();
    else this.communicator.reduceScatter(own.sum, own.gradient, this.about("gradient", own)).wait();
  }

  /** Adds the values of all ranks in place, in rank order. */
  sum(values: Float64Array): void {
    this.report(this.step, "sum");
    const all = this.communicator.exchange(values, { of: `sums of step ${this.step}` });
    const n = values.length;
    for (let i = 0; i < n; i++) {
      let total = 0;
      for (let rank = 0; rank < this.communicator.world; rank++) total += all[rank * n + i] as number;
      values[i] = total;
    }
  }

  /** A block's share was updated: the others get it, or gather it when they next need it. */
  gather(block: number): void {
    const own = this.trained(block);
    this.report(this.step, "gather", own.layout.name);
    if (own instanceof GatheredBlock) own.outdate();
    else if (this.options.trained.stage > 0)
      this.communicator.allGather(own.w, own.ownW, this.about("weights", own)).wait();
  }

  /** Lets rank 0 read the whole weights of the base, to export them, until the result is closed. Every rank calls it. */
  gatherAll(): { close(): void } {
    const { base } = this.options;
    const sharded = base.blocks.slice();
    const first = this.communicator.rank === 0 && base.stage === 3;
    const width = bytesOf[base.types.weight];
    const total = base.blocks.reduce((sum, { layout }) => sum + aligned(layout.size * width), 0);
    const arena = new Arena(this.device, "exported weights", first ? total : 0);
    sharded.forEach((block, b) => {
      if (!(block instanceof GatheredBlock)) return;
      this.need(b, "forward");
      if (first) {
        const w = arena.tensor([block.layout.size], base.types.weight);
        this.device.copy(w.data, block.w.data, w.bytes);
        base.blocks[b] = block.whole(w);
      }
      block.held = false;
    });
    const close = () => {
      base.blocks.splice(0, sharded.length, ...sharded);
      arena.close();
    };
    return { close };
  }

  /** Named points of a step: what comes next, for heartbeats, and where tests let a rank die. */
  point(name: "after_reduce" | "after_adamw_before_gather" | "after_step"): void {
    this.report(this.step, name === "after_reduce" ? "adamw" : name === "after_step" ? "data" : "gather");
    faultPoint(name, this.step, this.communicator.rank);
  }

  private trained(block: number): BlockState {
    return this.options.trained.blocks[block] as BlockState;
  }

  private about(what: string, { layout }: BlockState): CollectiveOptions {
    return { of: `${what} of ${layout.name}, step ${this.step}` };
  }
}

function clear(device: Device, tensor: Tensor, zeros: Tensor): void {
  const width = bytesOf[tensor.dtype];
  for (let at = 0; at < tensor.size; at += zeros.size)
    device.copy(tensor.data + at * width, zeros.data, Math.min(zeros.size, tensor.size - at) * width);
}
