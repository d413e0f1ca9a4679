/** The system's promise that this process ends when its parent does, whatever it is doing: also in the middle of a native op,
 *  where no event of the channel between them would be heard. Linux only; nothing happens elsewhere. */
import { dlopen } from "bun:ffi";

const PR_SET_PDEATHSIG = 1;
const SIGKILL = 9;
/** glibc and musl. */
const libraries = ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`];

/** Returns whether the system promised it. A parent that is gone already is not noticed. */
export function dieWithParent(): boolean {
  if (process.platform !== "linux") return false;
  for (const library of libraries) {
    const prctl = prctlOf(library);
    if (prctl !== null) return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) === 0;
  }
  return false;
}

function prctlOf(library: string) {
  try {
    const args = ["i32", "u64", "u64", "u64", "u64"] as const;
    return dlopen(library, { prctl: { args, returns: "i32" } }).symbols.prctl;
  } catch {
    return null; // Not this library: the other one, or none.
  }
}
