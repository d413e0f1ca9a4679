/** Collectives between the ranks of a run: every rank calls the same ones in the same order.
 *  Always: sums run in rank order, so every rank and every run gets the same bits; a collective that failed has failed
 *  for every rank, and no later one succeeds; with one rank nothing is copied that lies where it should. */
import { ptr, type Pointer } from "bun:ffi";
import type { Device } from "./device.ts";
import { dtypeCode, type Tensor } from "./tensor.ts";

/** A point in a device's work. Shared memory runs a collective before it returns, so its events are past; a device with
 *  streams waits for `after` on its communication stream and returns an event that a reader of the result waits for. */
export interface DeviceEvent {
  wait(): void;
}

export interface CollectiveOptions {
  /** What is reduced or gathered, for messages: "gradient of layer 3". */
  of: string;
  /** The work that makes the input; needed where ops are only enqueued. */
  after?: DeviceEvent | null;
}

export interface Communicator {
  readonly rank: number;
  readonly world: number;
  /** x <- sum over ranks. f32 or f64, as are all sums. */
  allReduce(x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** out <- this rank's part of the sum over ranks of x, which has `world` times as many elements; out may be that part of x. */
  reduceScatter(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** The same with out += : the sum begins with out, so calls in a row add all x one after another, whatever the world. */
  reduceScatterAdd(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** out <- every rank's x in rank order; x may be this rank's part of out. */
  allGather(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent;
  /** x <- x of rank `root`. */
  broadcast(x: Tensor, root: number, options: CollectiveOptions): DeviceEvent;
  /** Every rank's numbers in rank order; all give equally many. Also how ranks agree on a decision. */
  exchange(numbers: Float64Array, options: CollectiveOptions): Float64Array;
  /** Returns when every rank has called it. */
  barrier(options: CollectiveOptions): void;
  /** Makes the current and later collectives of every rank fail at once. */
  abort(): void;
  close(): void;
}

/** A collective failed: another rank is gone, hangs, or gave up. This rank did nothing wrong. */
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

  reduceScatter(out: Tensor, x: Tensor, { of }: CollectiveOptions): DeviceEvent {
    checkSum("reduce-scatter", x, out);
    checkParts("reduce-scatter", of, out, x, 1);
    return this.copy(out, x);
  }

  reduceScatterAdd(out: Tensor, x: Tensor, { of }: CollectiveOptions): DeviceEvent {
    checkSum("reduce-scatter", x, out);
    checkParts("reduce-scatter", of, out, x, 1);
    const { native, handle } = this.device;
    const status = native.koala_axpby(handle, at(out), at(x), x.size, 1, 1, dtypeCode[x.dtype]);
    this.device.check("koala_axpby", status);
    return past;
  }

  allGather(out: Tensor, x: Tensor, { of }: CollectiveOptions): DeviceEvent {
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

  barrier(): void {}
  abort(): void {}
  close(): void {}

  private copy(out: Tensor, x: Tensor): DeviceEvent {
    if (out.data !== x.data) this.device.copy(out.data, x.data, x.bytes);
    return past;
  }
}

export interface SharedMemoryOptions {
  /** The same for all ranks of a run, and never used before: "/koala-..." */
  name: string;
  rank: number;
  world: number;
  /** How long a rank waits for the others before it calls them lost. */
  timeoutSeconds: number;
  /** Told before and after this rank may have to wait for others. */
  onWait?: (waits: boolean) => void;
  /** Bytes of shared memory a rank; longer tensors go through it piece by piece. */
  stagingBytes?: number;
}

/** Ranks of one machine, over a shared memory object. Returns when all have joined. Throws NativeError where one does
 *  not come or the machine has no room. */
export function joinSharedMemory(device: Device, options: SharedMemoryOptions): Communicator {
  return new SharedMemoryCommunicator(device, options);
}

class SharedMemoryCommunicator implements Communicator {
  readonly rank: number;
  readonly world: number;
  private readonly handle: Pointer;
  private readonly timeout: number;
  private readonly onWait: (waits: boolean) => void;

  constructor(
    private readonly device: Device,
    options: SharedMemoryOptions,
  ) {
    const { name, rank, world, timeoutSeconds, stagingBytes = 8 * 2 ** 20, onWait = () => {} } = options;
    [this.rank, this.world, this.timeout, this.onWait] = [rank, world, timeoutSeconds, onWait];
    const out = new BigUint64Array(1);
    const path = new TextEncoder().encode(`${name}\0`);
    const status = device.native.koala_comm_open(
      ptr(out),
      ptr(path),
      rank,
      world,
      stagingBytes,
      timeoutSeconds,
    );
    device.check("koala_comm_open", status);
    this.handle = Number(out[0]) as Pointer;
  }

  allReduce(x: Tensor, options: CollectiveOptions): DeviceEvent {
    checkSum("all-reduce", x);
    const { native } = this.device;
    return this.done(
      "all-reduce",
      options.of,
      native.koala_comm_all_reduce(this.handle, at(x), x.size, dtypeCode[x.dtype], this.ready(options)),
    );
  }

  reduceScatter(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent {
    return this.sumParts(out, x, 0, options);
  }

  reduceScatterAdd(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent {
    return this.sumParts(out, x, 1, options);
  }

  private sumParts(out: Tensor, x: Tensor, accumulate: 0 | 1, options: CollectiveOptions): DeviceEvent {
    checkSum("reduce-scatter", x, out);
    checkParts("reduce-scatter", options.of, out, x, this.world);
    const { native } = this.device;
    const [type, timeout] = [dtypeCode[x.dtype], this.ready(options)];
    return this.done(
      "reduce-scatter",
      options.of,
      native.koala_comm_reduce_scatter(this.handle, at(out), at(x), x.size, accumulate, type, timeout),
    );
  }

  allGather(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent {
    checkParts("all-gather", options.of, x, out, this.world);
    const { native } = this.device;
    return this.done(
      "all-gather",
      options.of,
      native.koala_comm_all_gather(this.handle, at(out), at(x), x.bytes, this.ready(options)),
    );
  }

  broadcast(x: Tensor, root: number, options: CollectiveOptions): DeviceEvent {
    checkRoot(root, this.world);
    const { native } = this.device;
    return this.done(
      "broadcast",
      options.of,
      native.koala_comm_broadcast(this.handle, at(x), x.bytes, root, this.ready(options)),
    );
  }

  exchange(numbers: Float64Array, options: CollectiveOptions): Float64Array {
    const all = new Float64Array(numbers.length * this.world);
    const { native } = this.device;
    const timeout = this.ready(options);
    this.done(
      "exchange",
      options.of,
      native.koala_comm_all_gather(this.handle, ptr(all), ptr(numbers), numbers.byteLength, timeout),
    );
    return all;
  }

  barrier(options: CollectiveOptions): void {
    const { native } = this.device;
    this.done("barrier", options.of, native.koala_comm_barrier(this.handle, this.ready(options)));
  }

  abort(): void {
    this.device.check("koala_comm_abort", this.device.native.koala_comm_abort(this.handle));
  }

  close(): void {
    this.device.check("koala_comm_close", this.device.native.koala_comm_close(this.handle));
  }

  /** Waits for the input; the time limit of the collective that follows. */
  private ready({ after }: CollectiveOptions): number {
    after?.wait();
    this.onWait(true);
    return this.timeout;
  }

  private done(collective: string, of: string, status: number): DeviceEvent {
    this.onWait(false);
    if (status === 0) return past;
    throw new CollectiveError(
      `Rank ${this.rank} of ${this.world}: ${collective} (${of}) failed. ${this.device.native.koala_last_error()}`,
    );
  }
}

const at = (tensor: Tensor): Pointer => tensor.data as Pointer;

function checkSum(collective: string, ...tensors: Tensor[]): void {
  const [first] = tensors;
  const sound = tensors.every(({ dtype }) => dtype === first?.dtype && (dtype === "f32" || dtype === "f64"));
  if (!sound) throw new RangeError(`${collective} of ${tensors.join(" and ")}: sums are f32 or f64`);
}

function checkParts(collective: string, of: string, part: Tensor, whole: Tensor, world: number): void {
  if (part.bytes * world !== whole.bytes)
    throw new RangeError(
      `${collective} (${of}) of ${world} ranks: ${part} is not a ${world}th part of ${whole}`,
    );
}

function checkRoot(root: number, world: number): void {
  if (!Number.isInteger(root) || root < 0 || root >= world)
    throw new RangeError(`broadcast from rank ${root} of ${world}`);
}
