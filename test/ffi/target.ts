/** A device opened for a test or a bench, and typed arrays in the element types of koala.h.
 *
 *  KOALA_TEST_LIBRARY names the backend: cpu (the default), emu, cuda, or the path of a library that emulates a GPU.
 *  Only tests may hand typed arrays to native code, by the address that at() or ptr() tells: at() keeps them alive until the
 *  target is closed, and for a GPU mirrors.ts copies them to the device and back. */
import { dlopen, type Pointer } from "bun:ffi";
import { buildNative } from "../../ffi/build.ts";
import { buildCuda, buildEmulator, findNvcc } from "../../ffi/build_gpu.ts";
import { libraryPath } from "../../src/tensor/library.ts";
import { loadNative, type Native } from "../../src/tensor/native.ts";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { mirrored, ptr } from "./mirrors.ts";

export { ptr } from "./mirrors.ts";
export type FloatType = "f32" | "bf16" | "f64" | "f16";
export type Elements = Float32Array | Uint16Array | Float64Array;
export type Isa = "portable" | "avx2" | "avx512" | "avx512bf16" | "sm_90";

const backend = process.env.KOALA_TEST_LIBRARY || "cpu";
/** The library under test is that of GPUs, on one or emulated. */
export const onGpu = backend !== "cpu";
/** Why a test is skipped there. */
export const cpuOnly = onGpu ? " (on the CPU only)" : "";
export const ISAS: readonly Isa[] = onGpu ? ["sm_90"] : ["portable", "avx2", "avx512", "avx512bf16"];
export const library = await builtLibrary();
export const native: Native = onGpu ? mirrored(loadNative(library)) : loadNative(library);

// process.env does not reach getenv, which the library reads when a device is opened.
const libc = dlopen("libc.so.6", {
  setenv: { args: ["cstring", "cstring", "i32"], returns: "i32" },
  unsetenv: { args: ["cstring"], returns: "i32" },
}).symbols;

export class Target {
  private readonly kept: NodeJS.TypedArray[] = [];
  private constructor(readonly device: Pointer) {}

  /** Throws the library's sentence where the processor cannot run `isa`. `ownProducts` is KOALA_GEMM=own: a row's bits then
   *  do not depend on T on a GPU either. */
  static open(options: { isa?: Isa | string; threads?: number; ownProducts?: boolean } = {}): Target {
    const out = new BigUint64Array(1);
    if (options.ownProducts) libc.setenv(cstring("KOALA_GEMM"), cstring("own"), 1);
    if (options.isa && !onGpu) libc.setenv(cstring("KOALA_ISA"), cstring(options.isa), 1);
    try {
      check(native.koala_device_open(ptr(out), 0, options.threads ?? 0));
    } finally {
      if (options.isa && !onGpu && process.env.KOALA_ISA === undefined) libc.unsetenv(cstring("KOALA_ISA"));
      if (options.ownProducts) libc.setenv(cstring("KOALA_GEMM"), cstring(process.env.KOALA_GEMM ?? ""), 1);
    }
    return new Target(Number(out[0]) as Pointer);
  }

  close(): void {
    check(native.koala_device_close(this.device));
    this.kept.length = 0;
  }

  info(): { name: string; isa: Isa; threads: number; memory_bytes: number } {
    const text = new Uint8Array(512);
    check(native.koala_device_info(this.device, ptr(text), text.length));
    return JSON.parse(Buffer.from(text.subarray(0, text.indexOf(0))).toString());
  }

  /** The address of an array, or of a byte in it; it stays alive as long as this target. */
  at(array: NodeJS.TypedArray, offset = 0): Pointer {
    this.kept.push(array);
    return ptr(array, offset);
  }

  i32(values: ArrayLike<number>): Pointer {
    return this.at(Int32Array.from(values.length ? Array.from(values) : [0]));
  }

  /** Asks for a size: `ask` writes it to the address that it gets. */
  size(ask: (out: Pointer) => number): number {
    const out = new Float64Array(1);
    check(ask(ptr(out)));
    return out[0]!;
  }

  /** Packs row-major rows as one matrix [N, K], at `copies` places. */
  pack(
    weight: Elements,
    stype: FloatType,
    wtype: FloatType | "q8" | "q4",
    N: number,
    K: number,
    copies = 1,
  ): { copies: Pointer[]; release(): void } {
    const bytes = this.size((out) =>
      native.koala_matmul_pack_bytes(this.device, out, N, K, dtypeCode[wtype]),
    );
    const list = Array.from({ length: copies }, () => this.allocate(bytes));
    for (const packed of list)
      check(
        native.koala_matmul_pack(
          this.device,
          packed,
          ptr(weight),
          N,
          K,
          0,
          N,
          dtypeCode[wtype],
          dtypeCode[stype],
        ),
      );
    return {
      copies: list,
      release: () => list.forEach((packed) => check(native.koala_memory_free(this.device, packed, bytes))),
    };
  }

  allocate(bytes: number): Pointer {
    const out = new BigUint64Array(1);
    check(native.koala_memory_alloc(this.device, ptr(out), bytes));
    return Number(out[0]) as Pointer;
  }
}

function builtLibrary(): Promise<string> {
  switch (backend) {
    case "cpu":
      return buildNative();
    case "emu":
      return buildEmulator({ quiet: true });
    case "cuda":
      // Machines with a GPU often have no compiler: then the library is the one that was brought there.
      return findNvcc() && !process.env.KOALA_PREBUILT
        ? buildCuda({ quiet: true })
        : Promise.resolve(libraryPath("cuda"));
    default:
      return Promise.resolve(backend);
  }
}

/** The instruction sets that this processor runs. */
export function availableIsas(): Isa[] {
  return ISAS.filter((isa) => {
    try {
      Target.open({ isa, threads: 1 }).close();
      return true;
    } catch {
      return false;
    }
  });
}

export function cstring(text: string): NodeJS.TypedArray {
  return Buffer.from(`${text}\0`);
}

/** Throws koala_last_error() where a call failed. */
export function check(code: number): void {
  if (code !== 0) throw new Error(String(native.koala_last_error()));
}

/** xorshift32: the same numbers on every machine. */
export class Random {
  private state: number;
  constructor(seed: number) {
    this.state = (seed * 2654435761) >>> 0 || 1;
    for (let i = 0; i < 8; i++) this.uniform();
  }
  uniform(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x >>> 0;
    return this.state / 4294967296;
  }
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }
  /** About normal: four uniforms, scaled to variance 1. */
  normal(): number {
    return (this.uniform() + this.uniform() + this.uniform() + this.uniform() - 2) * 1.7320508;
  }
  /** n numbers; beyond a million they repeat, for benches. */
  normals(n: number, scale = 1): Float64Array {
    const out = new Float64Array(n);
    const fresh = Math.min(n, 1_000_003);
    for (let i = 0; i < fresh; i++) out[i] = this.normal() * scale;
    for (let i = fresh; i < n; i += fresh) out.copyWithin(i, 0, Math.min(fresh, n - i));
    return out;
  }
}

/** Values in an element type, rounded to nearest even. */
export function encode(values: ArrayLike<number>, type: FloatType): Elements {
  if (type === "f32") return Float32Array.from(values);
  if (type === "f64") return Float64Array.from(values);
  const round = type === "bf16" ? bf16Bits : f16Bits;
  return Uint16Array.from(values, round);
}

export function decode(elements: Elements, type: FloatType): Float64Array {
  if (type === "f32" || type === "f64") return Float64Array.from(elements);
  return Float64Array.from(elements, type === "bf16" ? bf16Value : f16Value);
}

export function zeros(n: number, type: FloatType): Elements {
  return encode(new Float64Array(n), type);
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

function bf16Bits(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0]!;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function bf16Value(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratchFloat[0]!;
}

/** Only for values that f16 holds as normal numbers or zero. */
function f16Bits(value: number): number {
  if (value === 0) return 0;
  const sign = value < 0 ? 0x8000 : 0;
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  const mantissa = Math.round((Math.abs(value) / 2 ** exponent - 1) * 1024);
  return exponent < -14 ? sign : sign + ((exponent + 15) << 10) + mantissa;
}

function f16Value(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const magnitude = exponent ? (1 + (bits & 1023) / 1024) * 2 ** (exponent - 15) : (bits & 1023) * 2 ** -24;
  return bits & 0x8000 ? -magnitude : magnitude;
}
