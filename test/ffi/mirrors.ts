/** Arrays of the host for a library that works on a GPU: each op gets copies of them in the device's memory, sent before the
 *  call and fetched after it, whatever it returned.
 *
 *  Always: what a kernel is given is memory of the device, so that tests hold on GPUs that do not reach the host's. Arrays of
 *  one buffer lie in one copy, as far apart as in the buffer. Graphs name memory that stays: they are recorded without arrays. */
import { type Pointer, ptr as addressOf } from "bun:ffi";
import { declarations, type Native } from "../../src/tensor/native.ts";

type Call = (...args: unknown[]) => number;

interface Mirror {
  host: Pointer;
  memory: Pointer;
  bytes: number;
}

interface Device {
  mirrors: Map<ArrayBufferLike, Mirror>;
  bytes: number;
}

/** Mirrors that outlive their call are for the next one; beyond this they are freed. */
const bytesMost = 256 << 20;

/** Arguments that the library reads on the host, beside those of the calls that are about memory itself. */
const hostArguments: Record<string, number> = { koala_adamw: 6, koala_matmul_pack: 2 };
const noOp = /^koala_(abi|last|device|memory|file|graph|comm)_|_bytes$/;

let watching = false;
/** By address: what ops may be given. */
const arrays = new Map<number, NodeJS.TypedArray>();
const devices = new Map<number, Device>();
let open = 0;

/** The address of an array, which must stay alive while it is used. */
export function ptr(array: NodeJS.TypedArray, offset = 0): Pointer {
  // Asked for its buffer, a small array moves to where it stays.
  if (!watching || array.buffer.byteLength === 0) return addressOf(array, offset);
  const address = addressOf(array, offset);
  arrays.set(Number(address), array);
  return address;
}

/** The library with ops that take arrays of the host by their addresses, as `ptr` told them. */
export function mirrored(native: Native): Native {
  watching = true;
  const calls = native as unknown as Record<string, Call>;
  const wrapped: Record<string, Call> = { ...calls };
  for (const [name, { args }] of Object.entries(declarations)) {
    if (noOp.test(name)) continue;
    const places = [...args.keys()].filter((i) => i > 0 && args[i] === "ptr" && i !== hostArguments[name]);
    wrapped[name] = (dev, ...rest) => onMirrors(native, calls[name] as Call, places, [dev, ...rest]);
  }
  wrapped.koala_device_open = (...args) => {
    const status = (calls.koala_device_open as Call)(...args);
    if (status === 0) open++;
    return status;
  };
  wrapped.koala_device_close = (dev) => {
    release(native, dev as Pointer);
    devices.delete(Number(dev));
    if (--open === 0) arrays.clear();
    return native.koala_device_close(dev as Pointer);
  };
  return wrapped as unknown as Native;
}

function onMirrors(native: Native, call: Call, places: number[], args: unknown[]): number {
  const dev = args[0] as Pointer | null;
  if (!dev) return call(...args);
  const named = new Set<Mirror>();
  for (const place of places) {
    const array = arrays.get(Number(args[place] ?? 0));
    if (array === undefined) continue;
    const mirror = mirrorOf(native, dev, array.buffer);
    args[place] = Number(mirror.memory) + Number(args[place]) - Number(mirror.host);
    named.add(mirror);
  }
  const status = around(native, dev, named, () => call(...args));
  if (deviceOf(dev).bytes > bytesMost) release(native, dev);
  return status;
}

/** What only a kernel saw comes as the status of fetching. */
function around(native: Native, dev: Pointer, mirrors: Set<Mirror>, call: () => number): number {
  for (const { host, memory, bytes } of mirrors)
    must(native, native.koala_memory_copy(dev, memory, host, bytes));
  let status = call();
  for (const { host, memory, bytes } of mirrors) {
    const fetched = native.koala_memory_copy(dev, host, memory, bytes);
    status ||= fetched;
  }
  return status;
}

function mirrorOf(native: Native, dev: Pointer, buffer: ArrayBufferLike): Mirror {
  const device = deviceOf(dev);
  const known = device.mirrors.get(buffer);
  if (known) return known;
  const bytes = buffer.byteLength;
  const out = new BigUint64Array(1);
  must(native, native.koala_memory_alloc(dev, addressOf(out), bytes));
  const mirror = { host: addressOf(new Uint8Array(buffer)), memory: Number(out[0]) as Pointer, bytes };
  device.mirrors.set(buffer, mirror);
  device.bytes += bytes;
  return mirror;
}

function release(native: Native, dev: Pointer): void {
  const device = deviceOf(dev);
  for (const { memory, bytes } of device.mirrors.values())
    must(native, native.koala_memory_free(dev, memory, bytes));
  device.mirrors.clear();
  device.bytes = 0;
}

function deviceOf(dev: unknown): Device {
  const known = devices.get(Number(dev));
  if (known) return known;
  const device = { mirrors: new Map(), bytes: 0 };
  devices.set(Number(dev), device);
  return device;
}

function must(native: Native, status: number): void {
  if (status !== 0) throw new Error(String(native.koala_last_error()));
}
