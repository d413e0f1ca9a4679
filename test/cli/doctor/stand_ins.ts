/** Shared libraries that answer as NVIDIA's do, compiled for a test into a folder of its own. */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";

/** Compiles driver_stand_in.c as `folder`/libcuda.so.1 and returns its path. */
export function standInDriver(folder: string, definitions: Record<string, number> = {}): string {
  const flags = Object.entries(definitions).map(([name, value]) => `-D${name}=${value}`);
  const path = join(folder, "libcuda.so.1");
  compile(path, [...flags, join(import.meta.dir, "driver_stand_in.c")]);
  return path;
}

/** A library with one function that tells its version as NVIDIA's library of that name does. */
export function standInLibrary(path: string, version: number): string {
  const functions: Record<string, string> = {
    "libcublasLt.so": `unsigned long cublasLtGetVersion(void) { return ${version}; }`,
    "libcudnn.so": `unsigned long cudnnGetVersion(void) { return ${version}; }`,
    "libnccl.so": `int ncclGetVersion(int* version) { *version = ${version}; return ${version === 0 ? 3 : 0}; }`,
  };
  const name = Object.keys(functions).find((stem) => path.includes(stem)) as string;
  compile(path, ["-"], functions[name]);
  return path;
}

function compile(path: string, args: string[], source = ""): void {
  mkdirSync(dirname(path), { recursive: true });
  const run = Bun.spawnSync(["g++", "-x", "c", "-shared", "-fPIC", "-o", path, ...args], {
    stdin: Buffer.from(source),
    stderr: "pipe",
  });
  if (run.exitCode !== 0) throw new Error(`g++ could not make ${path}: ${run.stderr.toString()}`);
}
