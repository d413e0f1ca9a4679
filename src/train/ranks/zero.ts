/** ZeRO (Rajbhandari et al. 2020) over flat blocks: what a rank keeps of weights, gradients and optimizer state, and the
 *  collectives of a step. Stage 0 replicates all; 1 shards the optimizer's state; 2 also the gradients; 3 also the weights.
 *  Always: every rank calls the same hooks in the same order; collectives run beside the computation, and nothing is read,
 *  written or freed that one still uses. Stages 2 and 3 add the gradients of micro-batches one after another, whatever the
 *  world; 0 and 1 add those of a rank first, so they agree to rounding. */
import { CollectiveError, type CollectiveOptions, type Communicator } from "../../tensor/communicator.ts";
import { aligned, Arena } from "../../tensor/arena.ts";
import type { Device, DeviceEvent } from "../../tensor/device.ts";
import { bytesOf, type Tensor } from "../../tensor/tensor.ts";
import type { BlockState, FlatState } from "../flat_state.ts";
import { clear } from "../memory.ts";
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
  private isLastMicroBatch = false;
  /** Reductions whose end was not waited for, by trained block, in the order of their start. */
  private readonly reductions = new Map<number, DeviceEvent>();
  private gathers: DeviceEvent[] = [];
  /** The collective that was started last: the others are over before it. */
  private latest: DeviceEvent | null = null;
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

  microBatch(last: boolean): void {
    this.isLastMicroBatch = last;
  }

  /** Before a block's weights are read. Stage 3 gathers them, and starts to gather those of the block that comes next, which
   *  arrive while this one is computed. */
  need(block: number, pass: "forward" | "backward"): void {
    const { blocks } = this.options.base;
    const own = blocks[block];
    this.report(this.step, pass, own?.layout.name);
    // Backward begins: it writes to the memory of gradients that may still be reduced.
    if (pass === "backward" && block === blocks.length - 1) this.finishMicroBatch();
    if (!(own instanceof GatheredBlock)) return;
    const arrived = this.gatherWeights(own);
    const next = blocks[block + (pass === "forward" ? 1 : -1)];
    // Going backwards, the embedding's weights are not read.
    const wanted = pass === "forward" || block > 1;
    if (wanted && next instanceof GatheredBlock) this.gatherWeights(next);
    arrived.wait();
    own.held = true;
  }

  /** The block's weights were read for now. */
  done(block: number): void {
    const own = this.options.base.blocks[block];
    if (own instanceof GatheredBlock) own.held = false;
  }

  /** A trained block's gradient is complete for this micro-batch. Its reduction runs while the next block's is computed: in
   *  stages 2 and 3 for every micro-batch, which adds to the sharded sum, else once a step. */
  gradient(block: number): void {
    if (this.options.trained.stage < 2) {
      if (this.isLastMicroBatch) this.startReduction(block);
      return;
    }
    this.startReduction(block);
    // The block before the last one shares its memory with the next.
    for (const earlier of this.reductions.keys()) if (earlier !== block) this.finishReduction(earlier);
  }

  /** Returns when the gradient is reduced over the ranks. */
  reduce(block: number): void {
    if (this.options.trained.stage < 2 && !this.reductions.has(block)) this.startReduction(block);
    this.report(this.step, "reduce", this.trained(block).layout.name);
    this.finishReduction(block);
  }

  private startReduction(block: number): void {
    const own = this.trained(block);
    const { stage } = this.options.trained;
    const { sum } = own;
    // Sums that ranks keep in bfloat16 are added in float32, and rounded once.
    const gradient = stage < 2 ? (own.accumulated ?? own.gradient) : own.gradient;
    if (!gradient || !sum) return;
    const about = this.about("gradient", own);
    const event =
      stage === 0
        ? this.communicator.allReduce(gradient, about)
        : stage === 1
          ? this.communicator.reduceScatter(sum, gradient, about)
          : this.communicator.reduceScatterAdd(sum, gradient, about);
    this.reductions.set(block, this.started(event));
  }

  private finishReduction(block: number): void {
    this.reductions.get(block)?.wait();
    if (!this.reductions.delete(block) || this.options.trained.stage < 2) return;
    const { gradient } = this.trained(block);
    if (gradient) clear(this.device, gradient, this.options.zeros);
  }

  private finishMicroBatch(): void {
    for (const block of this.reductions.keys()) this.finishReduction(block);
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

  /** A block's share was updated: the others get it while the next block is, or gather it when they next need it. */
  gather(block: number): void {
    const own = this.trained(block);
    const { blocks, stage } = this.options.trained;
    if (own instanceof GatheredBlock) own.outdate();
    else if (stage > 0) {
      const event = this.communicator.allGather(own.w, own.ownW, this.about("weights", own));
      this.gathers.push(this.started(event));
    }
    this.report(this.step, "adamw", blocks[block + 1]?.layout.name);
  }

  /** Returns when every rank has what was updated. */
  gathered(): void {
    this.report(this.step, "gather");
    for (const event of this.gathers) event.wait();
    this.gathers = [];
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

  /** Returns when no collective uses this rank's memory any more, so that it can be freed. */
  close(): void {
    try {
      this.latest?.wait();
    } catch (error) {
      // It is over all the same; whoever needed its result was told.
      if (!(error instanceof CollectiveError)) throw error;
    }
  }

  private gatherWeights(block: GatheredBlock): DeviceEvent {
    const about = this.about("weights", block);
    return block.gather((whole, share) => this.started(this.communicator.allGather(whole, share, about)));
  }

  private started(event: DeviceEvent): DeviceEvent {
    return (this.latest = event);
  }

  private trained(block: number): BlockState {
    return this.options.trained.blocks[block] as BlockState;
  }

  private about(what: string, { layout }: BlockState): CollectiveOptions {
    return { of: `${what} of ${layout.name}, step ${this.step}`, after: this.device.workSoFar() };
  }
}
