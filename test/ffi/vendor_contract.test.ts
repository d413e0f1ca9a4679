/** Our prototypes of NVIDIA's libraries against their headers, and against the real cuBLASLt, which plans products without
 *  a GPU until it needs one. */
import { describe, expect, test } from "bun:test";
import { CString, dlopen, type Pointer, ptr } from "bun:ffi";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { findCudaLibraries, type VendorName } from "../../src/tensor/cuda_libraries.ts";
import { temporaryFolder } from "../support/temporary.ts";

const dir = temporaryFolder("vendors");
const compiler = process.env.CXX || "g++";
const nested = Boolean(process.env.KOALA_TEST_LIBRARY);

function compile(source: string, to: string, flags: string[] = []): void {
  const all = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w", ...flags, "-x", "c++"];
  const made = Bun.spawnSync([compiler, ...all, join(import.meta.dir, source), "-o", to, "-ldl"]);
  if (made.exitCode !== 0) throw new Error(made.stderr.toString());
}

const found = new Map(
  (nested || !Bun.which(compiler)
    ? []
    : findCudaLibraries({ libraries: process.env.KOALA_CUDA_LIBS, python: Bun.which("python3") ?? undefined })
  ).flatMap(({ name, found: at }) => (at === null ? [] : [[name, at] as const])),
);

const toolkit = [process.env.CUDA_HOME, process.env.CUDA_PATH, "/usr/local/cuda"]
  .flatMap((home) => (home ? [join(home, "include")] : []))
  .find((folder) => existsSync(join(folder, "cuda_runtime.h")));

/** The folder of a library's header: beside it in a Python's package, or the toolkit's. */
function headersOf(name: VendorName, header: string): string | null {
  const at = found.get(name)?.path;
  const folders = at?.includes("/") ? [join(dirname(dirname(at)), "include"), "/usr/include"] : [];
  return folders.find((folder) => existsSync(join(folder, header))) ?? null;
}

for (const [name, header] of [
  ["cuBLASLt", "cublasLt.h"],
  ["NCCL", "nccl.h"],
] as const) {
  const headers = headersOf(name, header);
  const absent = headers === null ? header : toolkit === undefined ? "the CUDA toolkit's headers" : null;
  test.skipIf(absent !== null)(
    `our prototypes and numbers are those of ${header}${absent === null ? "" : ` (not found: ${absent}; KOALA_CUDA_LIBS names the library's folder)`}`,
    () =>
      compile("vendor_headers.cc", join(dir, `${header}.so`), [
        `-D${name.toUpperCase()}`,
        `-I${headers}`,
        `-I${toolkit}`,
      ]),
  );
}

const real = found.get("cuBLASLt");

describe.skipIf(real === undefined)(
  `the real cuBLASLt${real === undefined ? " (it was not found: KOALA_CUDA_LIBS names its folder)" : ` ${real.version}`}`,
  () => {
    const load = () => {
      const library = join(dir, "contract.so");
      if (!existsSync(library)) compile("cublaslt_contract.cc", library);
      return dlopen(library, {
        contract_failed_step: { args: ["cstring", "i32"], returns: "ptr" },
        contract_wrong_sizes: { args: ["ptr"], returns: "void" },
      }).symbols;
    };
    const folder = Buffer.from(`${real && dirname(real.path)}\0`);

    test.each([
      ["forward product", 0],
      ["weight gradient", 1],
    ])("accepts every description of a %s, up to the step that needs a GPU", (_, kind) => {
      const step = new CString(load().contract_failed_step(ptr(folder), kind) as Pointer).toString();
      expect(step).toBe("MatmulAlgoGetHeuristic");
    });

    test("refuses values of a wrong size", () => {
      const { contract_failed_step, contract_wrong_sizes } = load();
      contract_failed_step(ptr(folder), 0); // finds the library
      const statuses = new Int32Array(3);
      contract_wrong_sizes(ptr(statuses));
      expect([...statuses]).toEqual([7, 7, 7]); // CUBLAS_STATUS_INVALID_VALUE
    });
  },
);
