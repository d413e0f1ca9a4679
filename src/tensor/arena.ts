/** A block of device memory reserved once and handed out as tensors; the only owner of memory.
 *  Always: 0 <= used <= capacity; nothing is given back before close(). Memory starts as zeros. */
import type { Device } from "./device.ts";
import { bytesOf, type DType, PackedMatrix, Tensor, type WeightType } from "./tensor.ts";

const alignment = 64;

export class Arena {
  used = 0;
  private readonly base: number;

  /** Throws NativeError when the device has not `capacity` bytes. */
  constructor(
    readonly device: Device,
    readonly name: string,
    readonly capacity: number,
  ) {
    this.base = capacity > 0 ? device.allocate(capacity) : 0;
  }

  tensor(shape: readonly number[], dtype: DType): Tensor {
    let size = bytesOf[dtype];
    for (const length of shape) size *= length;
    return new Tensor(this.take(size, `${dtype}[${shape.join(",")}]`), shape, dtype);
  }

  packed(N: number, K: number, dtype: WeightType): PackedMatrix {
    const bytes = this.device.packBytes(N, K, dtype);
    return new PackedMatrix(this.take(bytes, `packed ${dtype}[${N},${K}]`), N, K, dtype, bytes);
  }

  /** `bytes` of raw memory, aligned to a cache line. */
  take(bytes: number, what: string): number {
    const size = aligned(bytes);
    if (this.used + size > this.capacity) {
      throw new Error(
        `arena ${this.name}: ${what} needs ${size} bytes, ${this.capacity - this.used} of ${this.capacity} are left`,
      );
    }
    const at = this.base + this.used;
    this.used += size;
    return at;
  }

  close(): void {
    if (this.base !== 0) this.device.free(this.base, this.capacity);
  }
}

/** `bytes` rounded up to what an arena really hands out. */
export const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;
