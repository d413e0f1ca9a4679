/** Where the native library is: in `build/` of a source tree, or inside the executable.
 *  Always: embedded bytes are loaded from memory (memfd) or from a folder that only this user can write, after a
 *  check of their hash. Bun's own extraction is not used: it loads a file of equal size in TMPDIR unchecked, and
 *  fails where TMPDIR cannot be written. */
import { dlopen, FFIType } from "bun:ffi";
import { createHash } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { isCompiled, rootDirectory } from "../util/self_command.ts";

/** emu is cuda's sources on an emulated GPU, for tests. */
export type LibraryName = "cpu" | "cuda" | "emu";

const suffix = process.platform === "darwin" ? "dylib" : "so";
const loadable = new Map<LibraryName, string>();

/** A path that `dlopen` takes, the same one for every call in this process. */
export function libraryPath(name: LibraryName): string {
  const known = loadable.get(name);
  if (known !== undefined) return known;
  const path = isCompiled ? compiledLibrary(name) : sourceLibrary(name);
  loadable.set(name, path);
  return path;
}

function sourceLibrary(name: LibraryName): string {
  const path = join(rootDirectory, "build", libraryFile(name));
  if (existsSync(path)) return path;
  const flag = name === "cpu" ? "" : ` --${name}`;
  throw new UsageError(`The native library ${path} is not built. Build it with: bun ffi/build.ts${flag}`);
}

function compiledLibrary(name: LibraryName): string {
  const file = libraryFile(name);
  const beside = join(dirname(realpathSync(process.execPath)), file);
  // Device libraries may come separately; the CPU library always matches the executable it was built into.
  if (name !== "cpu" && existsSync(beside)) return beside;
  const embedded = join(rootDirectory, file);
  if (existsSync(embedded)) return extractLibrary(name, readFileSync(embedded));
  throw new UsageError(
    `This executable holds no ${file}, and there is none at ${beside}. Put the library there, or use another device.`,
  );
}

const libraryFile = (name: LibraryName): string => `libkoala_${name}.${suffix}`;

/** Makes library bytes loadable: in memory where Linux allows it, else in the user's cache folder. */
export function extractLibrary(name: LibraryName, bytes: Uint8Array): string {
  const descriptor = process.platform === "linux" ? memoryFile(`koala_${name}`) : -1;
  if (descriptor < 0) return cachedLibrary(name, bytes);
  for (let written = 0; written < bytes.length;) {
    written += writeSync(descriptor, bytes, written, bytes.length - written);
  }
  // Never closed: the path must stay valid for every later dlopen of this process.
  return `/proc/self/fd/${descriptor}`;
}

/** A file that exists in memory only; negative where the kernel or a sandbox refuses. */
function memoryFile(name: string): number {
  if (!existsSync("/proc/self/fd")) return -1;
  const closeOnExec = 1;
  try {
    const libc = dlopen("libc.so.6", {
      memfd_create: { args: [FFIType.cstring, FFIType.u32], returns: FFIType.i32 },
    });
    return libc.symbols.memfd_create(Buffer.from(`${name}\0`), closeOnExec);
  } catch {
    return -1;
  }
}

/** Writes the library to a folder of mode 0700 under its hash, or finds it there unchanged. */
export function cachedLibrary(name: LibraryName, bytes: Uint8Array): string {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  const folder = join(cache, "koala", "native");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { mode, uid } = lstatSync(folder);
  if (uid !== process.getuid?.() || (mode & 0o077) !== 0) {
    throw new UsageError(
      `The folder ${folder} can be written by others, so no native code is loaded from it. Make it yours alone with: chmod 700 ${folder}`,
    );
  }
  const path = join(folder, `${name}-${sha256(bytes)}.${suffix}`);
  if (existsSync(path) && sha256(readFileSync(path)) === sha256(bytes)) return path;
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, bytes, { mode: 0o500 });
  renameSync(temporary, path);
  return path;
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
