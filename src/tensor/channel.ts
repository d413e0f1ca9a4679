/** Whole numbers that rank 0 tells all others, from memory of the host to memory of the host, whatever their devices are.
 *  Always: every rank hears every message, in the order in which they were told. */
import { ptr } from "bun:ffi";
import type { Communicator } from "./communicator.ts";
import { Tensor } from "./tensor.ts";

/** Numbers of the first broadcast: a decode step of some hundred sequences. Longer messages take a second one. */
const envelope = 2048;

export class Channel {
  /** The count of the others, then the message. With a buffer from the start: its address must not change. */
  private numbers = new Int32Array(new ArrayBuffer(4 * envelope));
  private at = ptr(this.numbers);

  /** Its timeout should be none: ranks hear nothing as long as nobody asks. */
  constructor(private readonly communicator: Communicator) {}

  /** On rank 0: `write` fills the message of `count` numbers. */
  tell(count: number, write: (message: Int32Array) => void): void {
    this.reserve(count + 1);
    this.numbers[0] = count;
    write(this.numbers.subarray(1, count + 1));
    this.pass(0, envelope);
    if (count + 1 > envelope) this.pass(envelope, count + 1);
  }

  /** On all others: waits for the next message; valid until the one after it. */
  hear(): Int32Array {
    this.pass(0, envelope);
    const count = this.numbers[0] as number;
    this.reserve(count + 1);
    if (count + 1 > envelope) this.pass(envelope, count + 1);
    return this.numbers.subarray(1, count + 1);
  }

  private pass(begin: number, end: number): void {
    const numbers = new Tensor(this.at + 4 * begin, [end - begin], "i32");
    this.communicator.broadcast(numbers, 0, { of: "what to run", after: ready }).wait();
  }

  private reserve(count: number): void {
    if (count <= this.numbers.length) return;
    const before = this.numbers;
    this.numbers = new Int32Array(new ArrayBuffer(8 * count));
    this.numbers.set(before);
    this.at = ptr(this.numbers);
  }
}

/** Memory of the host is written when it is written. */
const ready = { wait() {} };
