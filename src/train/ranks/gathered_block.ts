/** A block of ZeRO stage 3: the rank keeps its share of the weights, and the whole only in a buffer that blocks take in turn.
 *  Always: reading weights that are not gathered, or were gathered before the last update, throws. */
import type { FlatBlock } from "../../model/flat_layout.ts";
import type { DeviceEvent } from "../../tensor/device.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { BlockState } from "../flat_state.ts";

/** Room for the largest of the blocks that share it; `holds` names whose weights lie in it, of which update. */
export class GatherBuffer {
  holds: { block: GatheredBlock; version: number; arrived: DeviceEvent } | null = null;
  constructor(readonly memory: Tensor) {}
}

export class GatheredBlock implements BlockState {
  /** Counts the updates of this block. */
  version = 0;
  /** In use: the buffer must not be taken. */
  held = false;
  readonly layout: FlatBlock;
  readonly gradient: Tensor | null;
  readonly sum: Tensor | null;
  readonly begin: number;
  readonly end: number;
  readonly ownW: Tensor;
  readonly low: Tensor | null;
  readonly m: Tensor | null;
  readonly v: Tensor | null;

  constructor(
    state: Omit<BlockState, "w">,
    private readonly buffer: GatherBuffer,
  ) {
    this.layout = state.layout;
    this.gradient = state.gradient;
    this.sum = state.sum;
    this.begin = state.begin;
    this.end = state.end;
    this.ownW = state.ownW;
    this.low = state.low;
    this.m = state.m;
    this.v = state.v;
  }

  /** The whole weights. */
  get w(): Tensor {
    if (!this.isCurrent || !this.held)
      throw new Error(
        `weights of ${this.layout.name} (update ${this.version}) are read, but not gathered: the buffer holds ${this.content}`,
      );
    return this.buffer.memory.rows(this.layout.size);
  }

  /** Starts the gathering unless the buffer holds the weights as they are; their arrival. */
  gather(start: (whole: Tensor, share: Tensor) => DeviceEvent): DeviceEvent {
    const { holds, memory } = this.buffer;
    if (this.isCurrent && holds) return holds.arrived;
    if (holds?.block.held)
      throw new Error(`gathering ${this.layout.name} would overwrite ${this.content}, which is in use`);
    const arrived = start(memory.rows(this.layout.size), this.ownW);
    this.buffer.holds = { block: this, version: this.version, arrived };
    return arrived;
  }

  /** The share was updated: what was gathered before is old. */
  outdate(): void {
    this.version++;
  }

  /** The same block with weights of its own. */
  whole(w: Tensor): BlockState {
    const { layout, gradient, sum, begin, end, ownW, low, m, v } = this;
    return { layout, w, gradient, sum, begin, end, ownW, low, m, v };
  }

  private get isCurrent(): boolean {
    const { holds } = this.buffer;
    return holds?.block === this && holds.version === this.version;
  }

  private get content(): string {
    const { holds } = this.buffer;
    return holds ? `${holds.block.layout.name} (update ${holds.version})` : "nothing";
  }
}
