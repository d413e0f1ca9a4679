/** NVIDIA's driver as it answers without any library of ours: is it there, does it work, which devices has it.
 *  Always: no context is made and no memory is taken, so it may be asked while something else uses the devices. */
import { CString, dlopen, type Library, type Pointer, ptr } from "bun:ffi";
import { existsSync, readFileSync } from "node:fs";

export interface CudaDevice {
  ordinal: number;
  name: string;
  memoryBytes: number;
  /** Compute capability times ten: 90 is sm_90. */
  capability: number;
  multiprocessors: number;
  /** Ordinals of the devices whose memory it reads directly. */
  peers: number[];
}

/** `cuda`: the newest CUDA version that the driver runs, as 13000 for 13.0; null where it did not say. */
export type CudaDriver =
  | { state: "absent"; reason: string }
  | { state: "failing"; cuda: number | null; code: number; reason: string }
  | { state: "working"; cuda: number; devices: CudaDevice[] };

/** CUDA version that the CUDA library is built for. */
export const cudaNeeded = 13000;

const declarations = {
  cuInit: { args: ["u32"], returns: "i32" },
  cuDriverGetVersion: { args: ["ptr"], returns: "i32" },
  cuGetErrorString: { args: ["i32", "ptr"], returns: "i32" },
  cuDeviceGetCount: { args: ["ptr"], returns: "i32" },
  cuDeviceGet: { args: ["ptr", "i32"], returns: "i32" },
  cuDeviceGetName: { args: ["ptr", "i32", "i32"], returns: "i32" },
  cuDeviceTotalMem_v2: { args: ["ptr", "i32"], returns: "i32" },
  cuDeviceGetAttribute: { args: ["ptr", "i32", "i32"], returns: "i32" },
  cuDeviceCanAccessPeer: { args: ["ptr", "i32", "i32"], returns: "i32" },
} as const;

type Symbols = Library<typeof declarations>["symbols"];

/** CUdevice_attribute of cuda.h. */
const attribute = { multiprocessors: 16, capabilityMajor: 75, capabilityMinor: 76 } as const;

/** Asks the driver at `path`. Never throws: what is wrong is the answer. */
export function probeCudaDriver(path = "libcuda.so.1"): CudaDriver {
  let library: Library<typeof declarations>;
  try {
    refuseWorkingFolder(path);
    library = dlopen(path, declarations);
  } catch (error) {
    return { state: "absent", reason: (error as Error).message };
  }
  const driver = new Driver(library.symbols);
  try {
    return driver.ask();
  } catch (error) {
    if (!(error instanceof DriverFault)) throw error;
    return { state: "failing", cuda: driver.version(), code: error.code, reason: error.message };
  }
}

/** "580.95.05", as the kernel module says; null where there is none. */
export function kernelDriverVersion(path = "/proc/driver/nvidia/version"): string | null {
  if (!existsSync(path)) return null;
  return (
    /Kernel Module\D*?(?:x86_64|aarch64)?\s+(\d+(?:\.\d+)+)/.exec(readFileSync(path, "utf8"))?.[1] ?? null
  );
}

/** What the loader does not find, Bun's dlopen takes from the working folder, where anyone may have put it. */
export function refuseWorkingFolder(name: string): void {
  if (!name.includes("/") && existsSync(name))
    throw new Error(
      `${name} lies in the working folder and might be loaded from there; run koala in another folder`,
    );
}

class DriverFault extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message);
  }
}

class Driver {
  constructor(private readonly symbols: Symbols) {}

  ask(): CudaDriver {
    this.check("cuInit", this.symbols.cuInit(0));
    const count = this.int("cuDeviceGetCount", (out) => this.symbols.cuDeviceGetCount(out));
    const handles = Array.from({ length: count }, (_, ordinal) =>
      this.int("cuDeviceGet", (out) => this.symbols.cuDeviceGet(out, ordinal)),
    );
    const devices = handles.map((_, ordinal) => this.device(handles, ordinal));
    return { state: "working", cuda: this.version() ?? 0, devices };
  }

  /** Answered before cuInit, and where cuInit fails. */
  version(): number | null {
    const out = new Int32Array(1);
    return this.symbols.cuDriverGetVersion(ptr(out)) === 0 ? (out[0] as number) : null;
  }

  private device(handles: number[], ordinal: number): CudaDevice {
    const { symbols } = this;
    const handle = handles[ordinal] as number;
    const name = new Uint8Array(256);
    this.check("cuDeviceGetName", symbols.cuDeviceGetName(ptr(name), name.length, handle));
    const bytes = new BigUint64Array(1);
    this.check("cuDeviceTotalMem", symbols.cuDeviceTotalMem_v2(ptr(bytes), handle));
    const value = (which: number) =>
      this.int("cuDeviceGetAttribute", (out) => symbols.cuDeviceGetAttribute(out, which, handle));
    const reaches = (other: number) =>
      this.int("cuDeviceCanAccessPeer", (out) => symbols.cuDeviceCanAccessPeer(out, handle, other)) !== 0;
    return {
      ordinal,
      name: new TextDecoder().decode(name.subarray(0, name.indexOf(0))),
      memoryBytes: Number(bytes[0]),
      capability: 10 * value(attribute.capabilityMajor) + value(attribute.capabilityMinor),
      multiprocessors: value(attribute.multiprocessors),
      peers: handles.flatMap((other, peer) => (peer !== ordinal && reaches(other) ? [peer] : [])),
    };
  }

  private int(symbol: string, call: (out: Pointer) => number): number {
    const out = new Int32Array(1);
    this.check(symbol, call(ptr(out)));
    return out[0] as number;
  }

  private check(symbol: string, code: number): void {
    if (code === 0) return;
    const out = new BigUint64Array(1);
    const known = this.symbols.cuGetErrorString(code, ptr(out)) === 0 && out[0] !== 0n;
    const text = known ? String(new CString(Number(out[0]) as Pointer)) : "unknown error";
    throw new DriverFault(code, `${symbol} failed with error ${code} (${text})`);
  }
}
