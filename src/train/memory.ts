/** Memory that training takes, counted by the code that takes it: every allocation is written once against `Allocator`,
 *  run first on a Sizer (which has no memory) and then on an arena of exactly that size. */
import { aligned, Arena } from "../tensor/arena.ts";
import type { Device } from "../tensor/device.ts";
import { bytesOf, type DType, PackedMatrix, Tensor } from "../tensor/tensor.ts";

export type Allocator = Pick<Arena, "tensor" | "packed"> & { device: Pick<Device, "packBytes"> };

/** Counts bytes; its tensors have shapes and no memory. */
export class Sizer implements Allocator {
  bytes = 0;
  constructor(readonly device: Pick<Device, "packBytes">) {}

  tensor(shape: readonly number[], dtype: DType): Tensor {
    this.bytes += aligned(shape.reduce((a, b) => a * b, bytesOf[dtype]));
    return new Tensor(0, shape, dtype);
  }

  packed(N: number, K: number, dtype: DType): PackedMatrix {
    const bytes = this.device.packBytes(N, K, dtype);
    this.bytes += aligned(bytes);
    return new PackedMatrix(0, N, K, dtype, bytes);
  }
}

/** Bytes that `allocate` takes. */
export function sizeOf(device: Pick<Device, "packBytes">, allocate: (memory: Allocator) => unknown): number {
  const sizer = new Sizer(device);
  allocate(sizer);
  return sizer.bytes;
}

/** One arena of exactly what `allocate` takes, and what it returned. */
export function allocateAll<Result>(
  device: Device,
  name: string,
  allocate: (memory: Allocator) => Result,
): { arena: Arena; memory: Result } {
  const arena = new Arena(device, name, sizeOf(device, allocate));
  return { arena, memory: allocate(arena) };
}

/** tensor <- 0, copied from `zeros`. */
export function clear(device: Pick<Device, "copy">, tensor: Tensor, zeros: Tensor): void {
  const width = bytesOf[tensor.dtype];
  const piece = Math.floor(zeros.bytes / width);
  for (let at = 0; at < tensor.size; at += piece)
    device.copy(tensor.data + at * width, zeros.data, Math.min(piece, tensor.size - at) * width);
}
