/** Products through cuBLASLt: the host's side on the emulator with a stand-in that multiplies on the processor, and our
 *  prototypes against the real library, which checks descriptions without a GPU. */
import { afterAll, describe, expect, test } from "bun:test";
import { CString, dlopen, type Pointer, ptr } from "bun:ffi";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { buildEmulator } from "../../ffi/build_gpu.ts";
import { findCudaLibraries } from "../../src/tensor/cuda_libraries.ts";

const root = join(import.meta.dir, "..", "..");
const dir = mkdtempSync(join(tmpdir(), "koala-cublaslt-"));
afterAll(() => rmSync(dir, { recursive: true }));
const minutes = 60_000;

function compile(source: string, to: string): void {
  const flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-x", "c++"];
  const { exitCode, stderr } = Bun.spawnSync(["g++", ...flags, source, "-o", to, "-ldl"], { stderr: "pipe" });
  if (exitCode !== 0) throw new Error(stderr.toString());
}

const nested = Boolean(process.env.KOALA_TEST_LIBRARY);
const noEmulator = process.arch !== "x64" || nested || !Bun.which("g++");

test.skipIf(noEmulator)(
  "products are the formula through a library that multiplies as cuBLASLt is described (x86-64 and g++ only)",
  async () => {
    await buildEmulator({ quiet: true });
    compile(join(import.meta.dir, "fake_cublaslt.cc"), join(dir, "libcublasLt.so.13"));
    const run = (libraries: string) => {
      const env = { ...process.env, KOALA_TEST_LIBRARY: "emu", KOALA_TEST_INNER: "1" };
      const own = { KOALA_GEMM: "cublaslt", KOALA_CUDA_LIBS: libraries };
      return Bun.spawnSync([process.execPath, "test", "-t", "matmul T=(130|200)", "test/ffi/ops.test.ts"], {
        cwd: root,
        env: {
          ...env,
          ...own,
        },
        stderr: "pipe",
      });
    };
    const found = run(dir);
    expect(found.stderr.toString()).toMatch(/^ *[1-9]\d* pass$/m);
    expect(found.exitCode).toBe(0);
  },
  5 * minutes,
);

const real = nested ? null : findCudaLibraries({ libraries: process.env.KOALA_CUDA_LIBS })[0]!.found;

describe.skipIf(real === null || !Bun.which("g++"))(
  `the real cuBLASLt${real === null ? " (it was not found: KOALA_CUDA_LIBS names its folder)" : ` ${real.version}`}`,
  () => {
    test("accepts every description that our prototypes make, and refuses a wrong size", () => {
      const library = join(dir, "contract.so");
      compile(join(import.meta.dir, "cublaslt_contract.cc"), library);
      const { symbols } = dlopen(library, {
        contract_failed_step: { args: ["cstring"], returns: "ptr" },
        contract_wrong_size: { args: [], returns: "i32" },
      });
      const folder = Buffer.from(`${dirname(real!.path)}\0`);
      // Without a handle, which wants a GPU, the first step that can fail is the choice of an algorithm.
      const step = new CString(symbols.contract_failed_step(ptr(folder)) as Pointer).toString();
      expect(step).toContain("MatmulAlgoGetHeuristic");
      expect(symbols.contract_wrong_size()).toBe(7); // CUBLAS_STATUS_INVALID_VALUE
    });
  },
);
