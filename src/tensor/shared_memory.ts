/** Communicator over a shared memory object of one machine, over memory of its GPUs, or through NCCL between GPUs: the name
 *  says which. A thread of the native library runs its collectives in the order of the calls.
 *  Always: a collective that was not waited for is over before the next `exchange` or `barrier` returns. */
import { ptr, type Pointer } from "bun:ffi";
import {
  checkParts,
  checkRoot,
  checkSum,
  CollectiveError,
  type CollectiveName,
  type CollectiveOptions,
  type Communicator,
  type CommunicatorStatistics,
  isRounded,
} from "./communicator.ts";
import { type Device, type DeviceEvent, QueuedWork } from "./device.ts";
import { dtypeCode, type Tensor } from "./tensor.ts";

export interface SharedMemoryOptions {
  /** The same for all ranks of a run, and never used before: "/koala-...", "peer:/koala-...", rank 0's offer, or the first
   *  behind the last. */
  name: string;
  rank: number;
  world: number;
  /** How long a rank waits for the others before it calls them lost. */
  timeoutSeconds: number;
  /** The same until all have joined (default: timeoutSeconds). */
  joinSeconds?: number;
  /** Told before this rank waits for a collective (its symbol) and after (null). */
  onWait?: (symbol: string | null) => void;
  /** Bytes of shared memory a rank; longer tensors go through it piece by piece. */
  stagingBytes?: number;
}

/** What ranks tell each other before they choose a name: NCCL's version and the GPU, both empty where there is none, a fresh
 *  name of a communicator through NCCL, and the GPUs whose memory this one reads when another process has it. */
export interface CommunicatorOffer {
  nccl: string;
  device: string;
  name: string;
  peers: string[];
}

export function offerOf(device: Device): CommunicatorOffer {
  const text = new Uint8Array(1024);
  const status = device.native.koala_comm_offer(device.handle, ptr(text), text.length);
  device.check("koala_comm_offer", status);
  return JSON.parse(new TextDecoder().decode(text.subarray(0, text.indexOf(0)))) as CommunicatorOffer;
}

/** Returns when all ranks have joined. Throws NativeError where one does not come or the machine has no room. */
export function joinSharedMemory(device: Device, options: SharedMemoryOptions): Communicator {
  return new SharedMemoryCommunicator(device, options);
}

class SharedMemoryCommunicator implements Communicator {
  readonly rank: number;
  readonly world: number;
  private readonly handle: Pointer;
  private readonly timeout: number;
  private readonly onWait: (symbol: string | null) => void;
  // Typed arrays keep their address while this object holds them.
  private readonly ticket = new Float64Array(1);
  private readonly ticketAt = ptr(this.ticket);
  // With a buffer from the start: a view made later would move a small array.
  private readonly label = new Uint8Array(new ArrayBuffer(96));
  private readonly labelText = this.label.subarray(0, 95);
  private readonly labelAt = ptr(this.label);
  private readonly encoder = new TextEncoder();
  /** Collectives up to this ticket are known to be over. */
  private over = 0;

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
      device.handle,
      ptr(path),
      rank,
      world,
      stagingBytes,
      options.joinSeconds ?? timeoutSeconds,
    );
    device.check("koala_comm_open", status);
    this.handle = Number(out[0]) as Pointer;
  }

  allReduce(x: Tensor, { of, after }: CollectiveOptions): DeviceEvent {
    checkSum("all-reduce", x);
    return this.start("koala_comm_all_reduce", of, after, (native, ticket, label) =>
      native.koala_comm_all_reduce(
        this.handle,
        ticket,
        at(x),
        x.size,
        dtypeCode[x.dtype],
        label,
        this.timeout,
      ),
    );
  }

  reduceScatter(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent {
    return this.sumParts(out, x, 0, options);
  }

  reduceScatterAdd(out: Tensor, x: Tensor, options: CollectiveOptions): DeviceEvent {
    return this.sumParts(out, x, isRounded(out, x) ? 2 : 1, options);
  }

  private sumParts(
    out: Tensor,
    x: Tensor,
    accumulate: 0 | 1 | 2,
    { of, after }: CollectiveOptions,
  ): DeviceEvent {
    checkSum("reduce-scatter", x, ...(accumulate === 2 ? [] : [out]));
    checkParts("reduce-scatter", of, out, x, this.world);
    const type = dtypeCode[x.dtype];
    return this.start("koala_comm_reduce_scatter", of, after, (native, ticket, label) =>
      native.koala_comm_reduce_scatter(
        this.handle,
        ticket,
        at(out),
        at(x),
        x.size,
        accumulate,
        type,
        label,
        this.timeout,
      ),
    );
  }

  allGather(out: Tensor, x: Tensor, { of, after }: CollectiveOptions): DeviceEvent {
    checkParts("all-gather", of, x, out, this.world);
    return this.start("koala_comm_all_gather", of, after, (native, ticket, label) =>
      native.koala_comm_all_gather(this.handle, ticket, at(out), at(x), x.bytes, label, this.timeout),
    );
  }

  broadcast(x: Tensor, root: number, { of, after }: CollectiveOptions): DeviceEvent {
    checkRoot(root, this.world);
    return this.start("koala_comm_broadcast", of, after, (native, ticket, label) =>
      native.koala_comm_broadcast(this.handle, ticket, at(x), x.bytes, root, label, this.timeout),
    );
  }

  exchange(numbers: Float64Array, { of }: CollectiveName): Float64Array {
    const all = new Float64Array(numbers.length * this.world);
    const [to, from] = [ptr(all), ptr(numbers)];
    this.start("koala_comm_all_gather", of, null, (native, ticket, label) =>
      native.koala_comm_all_gather(this.handle, ticket, to, from, numbers.byteLength, label, this.timeout),
    ).wait();
    return all;
  }

  barrier({ of }: CollectiveName): void {
    this.start("koala_comm_barrier", of, null, (native, ticket, label) =>
      native.koala_comm_barrier(this.handle, ticket, label, this.timeout),
    ).wait();
  }

  statistics(): CommunicatorStatistics {
    const counts = new Float64Array(3);
    const status = this.device.native.koala_comm_statistics(this.handle, ptr(counts));
    this.device.check("koala_comm_statistics", status);
    const [collectives = 0, busy = 0, waited = 0] = counts;
    return { collectives, busyMs: busy / 1e6, waitedMs: waited / 1e6 };
  }

  abort(): void {
    this.device.check("koala_comm_abort", this.device.native.koala_comm_abort(this.handle));
  }

  close(): void {
    this.device.check("koala_comm_close", this.device.native.koala_comm_close(this.handle));
  }

  /** Asks for a collective once its input is made. */
  private start(
    symbol: string,
    of: string,
    after: DeviceEvent | null,
    call: (native: Device["native"], ticket: Pointer, label: Pointer) => number,
  ): DeviceEvent {
    // Collectives run one after another: of those, the queue itself keeps the order. Behind the ops of its own device it
    // puts them by an event of the device's, so that the host goes on at once.
    const isQueued = after instanceof QueuedWork && after.device === this.device;
    if (!(after instanceof Ticket) && !isQueued) after?.wait();
    const { written } = this.encoder.encodeInto(of, this.labelText);
    this.label[written] = 0;
    this.device.check(symbol, call(this.device.native, this.ticketAt, this.labelAt));
    return new Ticket(symbol, this.ticket[0] as number, this.waitFor);
  }

  private readonly waitFor = (symbol: string, ticket: number): void => {
    if (ticket <= this.over) return;
    const { native } = this.device;
    this.onWait(symbol);
    const status = native.koala_comm_wait(this.handle, ticket);
    this.onWait(null);
    if (status !== 0)
      throw new CollectiveError(`Rank ${this.rank} of ${this.world}: ${native.koala_last_error()}`);
    this.over = ticket;
  };
}

/** The end of a collective. */
class Ticket implements DeviceEvent {
  constructor(
    private readonly symbol: string,
    private readonly number: number,
    private readonly waitFor: (symbol: string, ticket: number) => void,
  ) {}

  wait(): void {
    this.waitFor(this.symbol, this.number);
  }
}

const at = (tensor: Tensor): Pointer => tensor.data as Pointer;
