/** Opens a device by the name that users give it: cpu, cuda or cuda:1; emu, a GPU emulated on this processor, is for tests. */
import { UsageError } from "../util/errors.ts";
import { Device, NativeError } from "./device.ts";
import { type LibraryName, libraryPath } from "./library.ts";

/** Whether `name` is one that users may give. */
export const isDeviceName = (name: string): boolean => /^(cpu|cuda(:\d{1,3})?)$/.test(name);

/** The device of one rank: ranks on "cuda" take one GPU each, in order; a GPU that is named is shared. */
export const deviceOfRank = (name: string, localRank: number): string =>
  name === "cuda" ? `cuda:${localRank}` : name;

/** Throws UsageError, with what is missing and a way out, where the device or its library is not there. */
export function openDevice(name: string, { threads = 0 } = {}): Device {
  const [, library, ordinal] = /^(cpu|cuda|emu)(?::(\d{1,3}))?$/.exec(name) ?? [];
  if (library === undefined || (library !== "cuda" && ordinal !== undefined))
    throw new UsageError(`--device ${name} is not known; there are cpu, cuda and, of several GPUs, cuda:1.`);
  try {
    return Device.open(libraryPath(library as LibraryName), { ordinal: Number(ordinal ?? 0), threads });
  } catch (error) {
    if (error instanceof NativeError && library !== "cpu")
      throw new UsageError(`--device ${name}: ${error.message} koala doctor shows what this machine has.`);
    throw error;
  }
}
