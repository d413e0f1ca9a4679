/** Collectives between the ranks of a run: every rank calls the same ones in the same order.
 *  Always: a collective runs beside the caller's work; it names the event that makes its input and returns that of its end,
 *  until which its memory is not to be touched. Sums run in rank order, so every rank and every run gets the same bits. A
 *  collective that failed has failed for every rank, and no later one succeeds. With one rank nothing is copied that lies
 *  where it should. */
import type { Pointer } from "bun:ffi";
import type { Device, DeviceEvent } from "./device.ts";
import { dtypeCode, type Tensor } from "./tensor.ts";

/** What a message, and every other rank, calls a collective: "gradient of layer 3". */
export interface CollectiveName {
  of: string;
}

export interface CollectiveOptions extends CollectiveName {
  /** What makes the input: `device.workSoFar()`, or another collective. Without it, one could send what is not made yet. */
  after: DeviceEvent;
}

/** How a communicator spent its time since it was opened. */
export interface CommunicatorStatistics {
  collectives: number;
  /** Running collectives, other ranks waited for included. */
  busyMs: number;
  /** The part of it during which this rank's own work stood still; the rest ran beside it. */
  waitedMs: number;
}

export interface Communicator {
  readonly rank: number;
  readonly world: number;
  /** x <- sum over ranks: f32, f64, or bf16, which is summed in float32 and rounded once. */
  allReduce(x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** out <- this rank's part of the sum over ranks of x, which has `world` times as many elements; out may be that part of x. */
  reduceScatter(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** The same with out += : the sum begins with out, so calls in a row add all x one after another, whatever the world. A
   *  bfloat16 out beside float32 x is rounded to nearest even after each rank's x. */
  reduceScatterAdd(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** out <- every rank's x in rank order; x may be this rank's part of out. */
  allGather(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** x <- x of rank `root`. */
  broadcast(x: Tensor, root: number, options: CollectiveOptions): DeviceEvent;
  /** Every rank's numbers in rank order; all give equally many. Also how ranks agree on a decision. */
  exchange(numbers: Float64Array, options: CollectiveName): Float64Array;
  /** Returns when every rank has called it. */
  barrier(options: CollectiveName): void;
  statistics(): CommunicatorStatistics;
  /** Makes the current and later collectives of every rank fail at once. */
  abort(): void;
  close(): void;
}

/** A collective failed, which the wait for its event tells: another rank is gone, hangs, or gave up. This rank did nothing wrong. */
export class CollectiveError extends Error {
  override name = "CollectiveError";
}

/** Of collectives that are over when they return. */
const past: DeviceEvent = { wait() {} };

/** A world of one rank. */
export class SoloCommunicator implements Communicator {
  readonly rank = 0;
  readonly world = 1;

  constructor(private readonly device: Device) {}

  allReduce(x: Tensor): DeviceEvent {
    checkSum("all-reduce", x);
    return past;
  }

  reduceScatter(out: Tensor, x: Tensor, { of }: CollectiveName): DeviceEvent {
    checkSum("reduce-scatter", x, out);
    checkParts("reduce-scatter", of, out, x, 1);
    return this.copy(out, x);
  }

  reduceScatterAdd(out: Tensor, x: Tensor, { of }: CollectiveName): DeviceEvent {
    checkSum("reduce-scatter", x, ...(isRounded(out, x) ? [] : [out]));
    checkParts("reduce-scatter", of, out, x, 1);
    const { native, handle } = this.device;
    if (isRounded(out, x)) {
      const status = native.koala_accumulate(handle, at(out), at(x), x.size, dtypeCode[out.dtype]);
      this.device.check("koala_accumulate", status);
      return past;
    }
    const status = native.koala_axpby(handle, at(out), at(x), x.size, 1, 1, dtypeCode[x.dtype]);
    this.device.check("koala_axpby", status);
    return past;
  }

  allGather(out: Tensor, x: Tensor, { of }: CollectiveName): DeviceEvent {
    checkParts("all-gather", of, x, out, 1);
    return this.copy(out, x);
  }

  broadcast(_: Tensor, root: number): DeviceEvent {
    checkRoot(root, 1);
    return past;
  }

  exchange(numbers: Float64Array): Float64Array {
    return numbers.slice();
  }

  statistics(): CommunicatorStatistics {
    return { collectives: 0, busyMs: 0, waitedMs: 0 };
  }

  barrier(): void {}
  abort(): void {}
  close(): void {}

  private copy(out: Tensor, x: Tensor): DeviceEvent {
    if (out.data !== x.data) this.device.copy(out.data, x.data, x.bytes);
    return past;
  }
}

const at = (tensor: Tensor): Pointer => tensor.data as Pointer;

/** Whether x is added to a sum that is kept in bfloat16. */
export const isRounded = (sum: Tensor, x: Tensor): boolean => sum.dtype === "bf16" && x.dtype === "f32";

export function checkSum(collective: string, ...tensors: Tensor[]): void {
  const [first] = tensors;
  const isSummed = ({ dtype }: Tensor) => dtype === "f32" || dtype === "bf16" || dtype === "f64";
  if (!tensors.every((tensor) => isSummed(tensor) && tensor.dtype === first?.dtype))
    throw new RangeError(`${collective} of ${tensors.join(" and ")}: sums are f32, bf16 or f64, of one type`);
}

export function checkParts(collective: string, of: string, part: Tensor, whole: Tensor, world: number): void {
  if (part.size * world !== whole.size)
    throw new RangeError(
      `${collective} (${of}) of ${world} ranks: ${part} is not a ${world}th part of ${whole}`,
    );
}

export function checkRoot(root: number, world: number): void {
  if (!Number.isInteger(root) || root < 0 || root >= world)
    throw new RangeError(`broadcast from rank ${root} of ${world}`);
}
