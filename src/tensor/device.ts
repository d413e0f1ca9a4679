/** One processor, its memory and its native library. Only Device and Ops touch native symbols. */
import { ptr, toArrayBuffer, type Pointer } from "bun:ffi";
import { loadNative, type Native } from "./native.ts";
import {
  bytesOf,
  type CacheType,
  dtypeCode,
  type DType,
  PackedMatrix,
  Tensor,
  type WeightType,
} from "./tensor.ts";

export interface DeviceInfo {
  name: string;
  isa: string;
  threads: number;
  memory_bytes: number;
  /** Of a GPU: what it can still give. */
  free_bytes?: number;
  /** Of a GPU: who makes its large products, as "cuBLASLt 13.1.0" or "own kernels". */
  gemm?: string;
}

/** Measured peaks of this machine, in GB/s and GFLOP/s. */
export interface DevicePeaks {
  bandwidth: number;
  float32: number;
  bfloat16: number;
}

type HostArray = Float32Array | Float64Array | Int32Array | Uint32Array | Uint16Array | Uint8Array;

/** A native call failed; the message is the library's own sentence. */
export class NativeError extends Error {
  override name = "NativeError";
  constructor(
    readonly symbol: string,
    native: Native,
  ) {
    super(String(native.koala_last_error()));
  }
}

/** A point in a device's work, or the end of a collective between devices. */
export interface DeviceEvent {
  /** Returns when it has come. Throws CollectiveError where the collective, or one before it, failed. */
  wait(): void;
}

/** Ops of the CPU are over when they return. */
const past: DeviceEvent = { wait() {} };

/** The end of what a GPU was told so far. Whoever queues work behind it on the same device need not wait. */
export class QueuedWork implements DeviceEvent {
  constructor(readonly device: Device) {}

  /** Waits for what was called since as well. */
  wait(): void {
    this.device.waitForOps();
  }
}

export class Device {
  readonly info: DeviceInfo;
  /** Kept alive for the native side. */
  private readonly records: Uint8Array[] = [];
  private readonly word = new Float64Array(1);

  private constructor(
    readonly native: Native,
    readonly handle: Pointer,
  ) {
    this.info = JSON.parse(this.readInfo()) as DeviceInfo;
  }

  /** Opens the library at `libraryPath`. `threads` 0 uses every core this process may run on. */
  static open(libraryPath: string, { ordinal = 0, threads = 0 } = {}): Device {
    const native = loadNative(libraryPath);
    const out = new BigUint64Array(1);
    if (native.koala_device_open(ptr(out), ordinal, threads) !== 0)
      throw new NativeError("koala_device_open", native);
    return new Device(native, Number(out[0]) as Pointer);
  }

  close(): void {
    this.check("koala_device_close", this.native.koala_device_close(this.handle));
  }

  /** For logs: the processor, and on a GPU who makes its products. */
  get description(): string {
    const { name, isa, threads, gemm } = this.info;
    const units = this.readsHostMemory ? "threads" : "multiprocessors";
    return `${name} (${isa}, ${threads} ${units}${gemm === undefined ? "" : `, products by ${gemm}`})`;
  }

  /** Whether ops may read memory of this process: a mapped file, an array. A GPU's may not. */
  get readsHostMemory(): boolean {
    return !this.info.isa.startsWith("sm_");
  }

  /** Whether a GPU answers no more: after some errors every call of a process fails until it ends. */
  get isLost(): boolean {
    try {
      this.readInfo();
      return false;
    } catch {
      return true;
    }
  }

  /** Whether ops can be recorded as a Graph: those of GPUs only. */
  get hasGraphs(): boolean {
    return !this.readsHostMemory;
  }

  /** Bytes that a GPU can still give; null where memory is the machine's. */
  get freeBytes(): number | null {
    return (JSON.parse(this.readInfo()) as DeviceInfo).free_bytes ?? null;
  }

  /** Zeroed memory; an Arena is the only caller. */
  allocate(bytes: number): number {
    const out = new BigUint64Array(1);
    this.check("koala_memory_alloc", this.native.koala_memory_alloc(this.handle, ptr(out), bytes));
    return Number(out[0]);
  }

  free(data: number, bytes: number): void {
    this.check("koala_memory_free", this.native.koala_memory_free(this.handle, data as Pointer, bytes));
  }

  /** Bytes of a packed [N, K] matrix. */
  packBytes(N: number, K: number, dtype: WeightType): number {
    const out = new Float64Array(1);
    this.check(
      "koala_matmul_pack_bytes",
      this.native.koala_matmul_pack_bytes(this.handle, ptr(out), N, K, dtypeCode[dtype]),
    );
    return out[0] as number;
  }

  /** Packs `rows` rows of `source` (row-major, type stype, an array or an address in host memory) as rows row.. of the matrix. */
  pack(matrix: PackedMatrix, source: number | HostArray, row: number, rows: number, stype: DType): void {
    const { data, N, K, dtype } = matrix;
    if (row < 0 || row + rows > N) throw new RangeError(`pack: rows ${row}..${row + rows} of ${matrix}`);
    const status = this.native.koala_matmul_pack(
      this.handle,
      data as Pointer,
      typeof source === "number" ? (source as Pointer) : ptr(source),
      N,
      K,
      row,
      rows,
      dtypeCode[dtype],
      dtypeCode[stype],
    );
    this.check("koala_matmul_pack", status);
  }

  /** Bytes of the keys (or of the values) of one cache page. */
  cachePageBytes(pageSize: number, keyValueHeads: number, headDim: number, dtype: CacheType): number {
    const out = new Float64Array(1);
    const status = this.native.koala_cache_page_bytes(
      this.handle,
      ptr(out),
      pageSize,
      keyValueHeads,
      headDim,
      dtypeCode[dtype],
    );
    this.check("koala_cache_page_bytes", status);
    return out[0] as number;
  }

  /** Host array to tensor: the first `count` elements (default: all that `from` has). */
  upload(to: Tensor, from: HostArray, count = from.length): void {
    const bytes = count * from.BYTES_PER_ELEMENT;
    if (bytes > to.bytes || from.BYTES_PER_ELEMENT !== bytesOf[to.dtype]) {
      throw new RangeError(`upload of ${count} x ${from.BYTES_PER_ELEMENT} bytes into ${to}`);
    }
    if (bytes > 0) this.copy(to.data, ptr(from), bytes);
  }

  /** Tensor to a fresh host array. bf16 and f16 come as raw bits. */
  download(from: Tensor): Float32Array | Float64Array | Int32Array | Uint16Array {
    const to = hostArray(from.dtype, from.size);
    this.downloadTo(to, from);
    return to;
  }

  downloadTo(to: HostArray, from: Tensor): void {
    if (to.byteLength < from.bytes) throw new RangeError(`download of ${from} into ${to.byteLength} bytes`);
    if (from.bytes > 0) this.copy(ptr(to), from.data, from.bytes);
  }

  copy(to: number, from: number, bytes: number): void {
    this.check(
      "koala_memory_copy",
      this.native.koala_memory_copy(this.handle, to as Pointer, from as Pointer, bytes),
    );
  }

  /** From now on the device writes what it runs to `record` (koala_device_record), which must live as long as it does. */
  recordOps(record: Uint8Array): void {
    if (record.byteLength !== 64) throw new RangeError(`a record of ${record.byteLength} bytes`);
    this.check("koala_device_record", this.native.koala_device_record(this.handle, ptr(record)));
    this.records.push(record);
  }

  /** Bytes of scratch that the device takes for `calls`, ops that take some: they are called, and compute nothing. Their
   *  tensors need no memory. With `reserve` it is taken at once, so that no op has to later. */
  scratch(calls: readonly (() => void)[], reserve: boolean): number {
    const bytes = new Float64Array(2);
    this.check("koala_device_rehearse", this.native.koala_device_rehearse(this.handle, 1));
    try {
      for (const call of calls) rehearse(call);
    } finally {
      this.check("koala_device_rehearse", this.native.koala_device_rehearse(this.handle, 0));
    }
    this.check(
      "koala_device_scratch",
      this.native.koala_device_scratch(this.handle, ptr(bytes), reserve ? 1 : 0),
    );
    return bytes[1] as number;
  }

  /** Bytes of scratch that the device holds. */
  get scratchBytes(): number {
    const bytes = new Float64Array(2);
    this.check("koala_device_scratch", this.native.koala_device_scratch(this.handle, ptr(bytes), 0));
    return bytes[0] as number;
  }

  /** The end of all ops that were called so far. */
  workSoFar(): DeviceEvent {
    return this.readsHostMemory ? past : new QueuedWork(this);
  }

  /** Returns when no op runs any more. Throws NativeError where one failed that nobody waited for yet. */
  waitForOps(): void {
    // A copy to the host comes after everything that the device was told.
    this.copy(ptr(this.word), ptr(this.word), this.word.byteLength);
  }

  /** Takes about a second. */
  measure(): DevicePeaks {
    const peaks = new Float64Array(3);
    this.check("koala_device_measure", this.native.koala_device_measure(this.handle, ptr(peaks)));
    const [bandwidth = 0, float32 = 0, bfloat16 = 0] = peaks;
    return { bandwidth, float32, bfloat16 };
  }

  check(symbol: string, status: number): void {
    if (status !== 0) throw new NativeError(symbol, this.native);
  }

  private readInfo(): string {
    const text = new Uint8Array(1024);
    this.check("koala_device_info", this.native.koala_device_info(this.handle, ptr(text), text.length));
    return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
  }
}

/** A file mapped read-only into host memory, for packing weights from it without a copy. */
export class MappedFile {
  private constructor(
    private readonly device: Device,
    readonly data: number,
    readonly bytes: number,
  ) {}

  static open(device: Device, path: string): MappedFile {
    const data = new BigUint64Array(1);
    const bytes = new Float64Array(1);
    const name = new TextEncoder().encode(`${path}\0`);
    device.check("koala_file_map", device.native.koala_file_map(ptr(data), ptr(bytes), ptr(name)));
    return new MappedFile(device, Number(data[0]), bytes[0] as number);
  }

  /** The mapped bytes begin..end, as a view of the mapping (valid until close). */
  view(begin: number, end: number): Uint8Array {
    return new Uint8Array(toArrayBuffer(this.data as Pointer, begin, end - begin));
  }

  close(): void {
    this.device.check(
      "koala_file_unmap",
      this.device.native.koala_file_unmap(this.data as Pointer, this.bytes),
    );
  }
}

/** An op that is rehearsed ends with an error of its own. */
function rehearse(call: () => void): void {
  try {
    call();
  } catch (error) {
    if (error instanceof NativeError && error.message.includes("rehearsing")) return;
    throw error;
  }
  throw new Error(`an op that takes no scratch was rehearsed: ${call}`);
}

function hostArray(dtype: DType, size: number): Float32Array | Float64Array | Int32Array | Uint16Array {
  switch (dtype) {
    case "f32":
      return new Float32Array(size);
    case "f64":
      return new Float64Array(size);
    case "i32":
      return new Int32Array(size);
    case "bf16":
    case "f16":
      return new Uint16Array(size);
    default:
      return dtype satisfies never;
  }
}
