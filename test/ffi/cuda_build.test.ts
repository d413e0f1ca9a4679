/** What nvcc makes of the kernels: registers, spills, stack and shared memory against each kernel's written budget; and
 *  what the libraries export and need. A budget is a line of the source: // budget k_name: registers N, shared B */
import { describe, expect, test } from "bun:test";
import { ptr } from "bun:ffi";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { buildCuda, buildEmulator, findNvcc } from "../../ffi/build_gpu.ts";
import { loadNative } from "../../src/tensor/native.ts";

const root = join(import.meta.dir, "..", "..");
const sourceDir = join(root, "ffi", "cuda");
const nvcc = findNvcc();
const minutes = 60_000;

interface Use {
  kernel: string;
  unit: string;
  registers: number;
  shared: number;
  stack: number;
  spills: number;
}

/** What ptxas -v says of each kernel of one unit. */
function usesOf(log: string, unit: string): Use[] {
  return log
    .split(/Compiling entry function /)
    .slice(1)
    .map((text) => {
      const number = (pattern: RegExp): number => Number(pattern.exec(text)?.[1] ?? 0);
      return {
        kernel: kernelName(/^'(\w+)'/.exec(text)![1]!),
        unit,
        registers: number(/Used (\d+) registers/),
        shared: number(/(\d+) bytes smem/),
        stack: number(/(\d+) bytes stack frame/),
        spills: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
      };
    });
}

/** "_ZN..6k_ropeI5bf16E.." -> "k_rope": mangled names are preceded by their length. */
function kernelName(mangled: string): string {
  for (const { index, 0: digits } of mangled.matchAll(/\d+(?=k_)/g)) {
    const start = index + digits.length;
    // The digits of what stands before may run into those of the length.
    for (let skip = 0; skip < digits.length; skip++) {
      const name = mangled.slice(start, start + Number(digits.slice(skip)));
      if (/^k_[a-z0-9_]+$/.test(name) && !/^[a-z0-9_]/.test(mangled.slice(start + name.length))) return name;
    }
  }
  throw new Error(`no kernel name in ${mangled}`);
}

interface Budget {
  registers: number;
  shared: number;
}

function budgetsOf(file: string): Map<string, Budget> {
  const found = readFileSync(file, "utf8").matchAll(/^\/\/ budget (k_\w+): registers (\d+), shared (\d+)$/gm);
  return new Map(
    [...found].map(([, name, registers, shared]) => [name!, { registers: +registers!, shared: +shared! }]),
  );
}

/** Budgets that hold in a unit: its own, then those of the headers. */
function budgetsFor(unit: string): Map<string, Budget> {
  const headers = readdirSync(sourceDir).filter((name) => name.endsWith(".cuh"));
  const files = [...headers.map((name) => join(sourceDir, name)), join(sourceDir, `${unit}.cu`)];
  return new Map(files.flatMap((file) => [...budgetsOf(file)]));
}

function tool(...command: string[]): string {
  const { stdout, exitCode, stderr } = Bun.spawnSync(command, { stdout: "pipe", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(stderr.toString());
  return stdout.toString();
}

function headerNames(): string[] {
  const header = readFileSync(join(root, "ffi", "include", "koala.h"), "utf8").replace(/\/\/.*$/gm, "");
  return [...header.matchAll(/^\s*(?:int32_t|const char\*)\s+(koala_\w+)\(/gm)]
    .map(([, name]) => name!)
    .sort();
}

const exported = (library: string): string[] =>
  tool("nm", "-D", "--defined-only", library)
    .trim()
    .split("\n")
    .map((line) => line.split(" ").at(-1)!)
    .sort();

test("kernel names are read from mangled ones", () => {
  expect(kernelName("_ZN67_GLOBAL__N__4d0f__7_rope_cu_6k_ropeIfEEvPT_PKfPKiiiiP6Faults")).toBe("k_rope");
  expect(kernelName("_ZN3abc16k_rms_norm_tilesIdEEvPT_")).toBe("k_rms_norm_tiles");
});

test.skipIf(process.arch !== "x64" || !Bun.which("nm"))(
  "the emulator exports what the header names and nothing else (needs x86-64 and nm)",
  async () => expect(exported(await buildEmulator({ quiet: true }))).toEqual(headerNames()),
  5 * minutes,
);

describe.skipIf(nvcc === null)(`the CUDA library${nvcc === null ? " (nvcc was not found)" : ""}`, () => {
  // Every architecture of the release takes two minutes; a change is checked on one.
  const allArchs = process.env.KOALA_EMULATOR_TESTS === "all";
  const objectDir = join(root, "build", allArchs ? "cuda_release" : "cuda");
  const built = () => buildCuda({ quiet: true, allArchs });
  const uses = (): Use[] =>
    readdirSync(objectDir)
      .filter((name) => name.endsWith(".log"))
      .filter((name) => existsSync(join(sourceDir, name.replace(/\.log$/, ".cu"))))
      .flatMap((name) => usesOf(readFileSync(join(objectDir, name), "utf8"), name.replace(/\.log$/, "")));

  test("compiles", async () => expect(existsSync(await built())).toBe(true), 20 * minutes);

  test("has no kernel that spills registers or keeps a stack frame", () => {
    expect(uses().length).toBeGreaterThan(20);
    expect(uses().filter(({ stack, spills }) => stack > 0 || spills > 0)).toEqual([]);
  });

  test("keeps every kernel within its written budget", () => {
    const over = uses().flatMap(({ kernel, unit, registers, shared }) => {
      const budget = budgetsFor(unit).get(kernel);
      if (!budget)
        return [
          `${unit}.cu: ${kernel} has no budget; it takes ${registers} registers, ${shared} bytes shared`,
        ];
      if (registers <= budget.registers && shared <= budget.shared) return [];
      return [
        `${unit}.cu: ${kernel} takes ${registers} registers and ${shared} bytes of ${JSON.stringify(budget)}`,
      ];
    });
    expect(over).toEqual([]);
  });

  test("has a kernel for every budget", () => {
    const sources = readdirSync(sourceDir).filter((name) => /\.cuh?$/.test(name));
    const named = sources.flatMap((name) => [...budgetsOf(join(sourceDir, name)).keys()]);
    const kernels = new Set(uses().map(({ kernel }) => kernel));
    expect(named.filter((name) => !kernels.has(name))).toEqual([]);
  });

  test.skipIf(!Bun.which("nm"))("exports what the header names and nothing else (needs nm)", async () =>
    expect(exported(await built())).toEqual(headerNames()),
  );

  test.skipIf(!Bun.which("objdump"))(
    "needs libc and libm alone, of glibc 2.34 or older (needs objdump)",
    async () => {
      const library = await built();
      const needed = [...tool("objdump", "-p", library).matchAll(/NEEDED\s+(\S+)/g)].map(([, name]) => name!);
      expect(needed.filter((name) => !/^(libc|libm|ld-linux[-\w]*)\.so/.test(name))).toEqual([]);
      const minors = [...tool("objdump", "-T", library).matchAll(/GLIBC_2\.(\d+)/g)].map(
        ([, minor]) => +minor!,
      );
      expect(Math.max(...minors)).toBeLessThanOrEqual(34);
    },
  );

  test("says in one sentence what a machine without a GPU lacks", async () => {
    const native = loadNative(await built());
    const out = new BigUint64Array(1);
    const status = native.koala_device_open(ptr(out), 0, 0);
    if (status === 0) {
      expect(native.koala_device_close(Number(out[0]) as never)).toBe(0); // this machine has one
      expect(native.koala_device_open(ptr(out), 99, 0)).toBe(-1);
      expect(String(native.koala_last_error())).toMatch(/there is no GPU 99; this machine has \d+/);
    } else {
      expect(String(native.koala_last_error())).toMatch(
        /^(No NVIDIA driver was found|The NVIDIA driver ).*--device cpu|shows no GPU/,
      );
    }
  });
});
