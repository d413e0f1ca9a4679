/** A typed, shaped window on device memory. It owns nothing: memory belongs to an Arena. Row-major. */

export type DType = "f32" | "bf16" | "f64" | "f16" | "i32";
/** Of packed matrices: q8 and q4 are blocks of 32 elements with a scale. */
export type WeightType = DType | "q8" | "q4";
/** Of a key/value cache: f8 is e4m3 with a scale for each token and head. */
export type CacheType = DType | "f8";

/** The codes of enum koala_dtype. */
export const dtypeCode = {
  f32: 0,
  bf16: 1,
  f64: 2,
  f16: 3,
  i32: 4,
  f8: 5,
  q8: 16,
  q4: 17,
} as const satisfies Record<WeightType | CacheType, number>;
export const bytesOf = { f32: 4, bf16: 2, f64: 8, f16: 2, i32: 4 } as const satisfies Record<DType, number>;

export class Tensor {
  /** Elements. */
  readonly size: number;

  /** `data` is a device address; a plain number, because bun:ffi passes numbers fastest. */
  constructor(
    readonly data: number,
    readonly shape: readonly number[],
    readonly dtype: DType,
  ) {
    let size = 1;
    for (const length of shape) size *= length;
    this.size = size;
  }

  get bytes(): number {
    return this.size * bytesOf[this.dtype];
  }

  /** Length of dimension `axis`. */
  dim(axis: number): number {
    return this.shape[axis] ?? 1;
  }

  /** `count` rows from row `first`, as the same memory. */
  rows(count: number, first = 0): Tensor {
    const [rows = 0, ...rest] = this.shape;
    if (first < 0 || first + count > rows) throw new RangeError(`rows ${first}..${first + count} of ${this}`);
    const stride = rows === 0 ? 0 : this.bytes / rows;
    return new Tensor(this.data + first * stride, [count, ...rest], this.dtype);
  }

  /** The same memory in another shape of equal size. */
  reshape(shape: readonly number[]): Tensor {
    const tensor = new Tensor(this.data, shape, this.dtype);
    if (tensor.size !== this.size) throw new RangeError(`${this} reshaped to [${shape.join(",")}]`);
    return tensor;
  }

  toString(): string {
    return `${this.dtype}[${this.shape.join(",")}]`;
  }
}

/** A matrix [N, K] packed for koala_matmul, in the backend's own layout. */
export class PackedMatrix {
  constructor(
    readonly data: number,
    readonly N: number,
    readonly K: number,
    readonly dtype: WeightType,
    readonly bytes: number,
  ) {}

  toString(): string {
    return `packed ${this.dtype}[${this.N},${this.K}]`;
  }
}
