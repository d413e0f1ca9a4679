/** Random inputs on a device beside their values on the host, rounded as the device holds them. */
import { aligned, Arena } from "../../src/tensor/arena.ts";
import { bfloat16ToFloat32, float32ToBfloat16 } from "../../src/tensor/convert.ts";
import type { Device } from "../../src/tensor/device.ts";
import { bytesOf, type DType, type PackedMatrix, type Tensor } from "../../src/tensor/tensor.ts";
import { randomBits } from "../random_model.ts";

export type FloatType = "f32" | "bf16";

export class OpMemory {
  private readonly arenas: Arena[] = [];
  private readonly mark: Tensor;
  private state = 1;

  constructor(readonly device: Device) {
    this.mark = this.tensor([1], "i32");
  }

  /** Uniform in [-1, 1). */
  random(shape: number[], dtype: FloatType): { tensor: Tensor; values: Float32Array } {
    const tensor = this.tensor(shape, dtype);
    const values = this.numbers(tensor.size);
    if (dtype === "f32") this.device.upload(tensor, values);
    else this.device.upload(tensor, float32ToBfloat16(values));
    return { tensor, values: dtype === "f32" ? values : rounded(values) };
  }

  /** A packed bfloat16 matrix and its values row-major. */
  matrix(N: number, K: number): { packed: PackedMatrix; values: Float32Array } {
    const packed = this.arena(this.device.packBytes(N, K, "bf16")).packed(N, K, "bf16");
    const bits = new Uint16Array(randomBits(N * K).buffer);
    this.device.pack(packed, bits, 0, N, "bf16");
    return { packed, values: bfloat16ToFloat32(bits) };
  }

  ints(values: number[]): Tensor {
    const tensor = this.tensor([values.length], "i32");
    this.device.upload(tensor, Int32Array.from(values));
    return tensor;
  }

  /** Full of NaN, so that what an op does not write is seen. */
  output(shape: number[], dtype: FloatType): Tensor {
    const tensor = this.tensor(shape, dtype);
    const nan =
      dtype === "f32" ? new Float32Array(tensor.size).fill(NaN) : new Uint16Array(tensor.size).fill(0xffff);
    this.device.upload(tensor, nan);
    return tensor;
  }

  bytes(count: number): number {
    return this.arena(count).take(count, "bytes");
  }

  read(tensor: Tensor): Float32Array {
    const values = this.device.download(tensor);
    return tensor.dtype === "bf16" ? bfloat16ToFloat32(values as Uint16Array) : (values as Float32Array);
  }

  /** Returns when everything called so far is done. */
  wait(): void {
    this.device.download(this.mark);
  }

  close(): void {
    for (const arena of this.arenas) arena.close();
  }

  private tensor(shape: number[], dtype: DType): Tensor {
    return this.arena(shape.reduce((a, b) => a * b, bytesOf[dtype])).tensor(shape, dtype);
  }

  private arena(bytes: number): Arena {
    const arena = new Arena(this.device, "op", aligned(bytes));
    this.arenas.push(arena);
    return arena;
  }

  private numbers(count: number): Float32Array {
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      this.state = (Math.imul(this.state, 1664525) + 1013904223) | 0;
      values[i] = this.state / 2 ** 31;
    }
    return values;
  }
}

export const rounded = (values: Float32Array): Float32Array => bfloat16ToFloat32(float32ToBfloat16(values));
