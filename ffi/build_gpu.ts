/** Compiles ffi/cuda twice: for NVIDIA GPUs into build/libkoala_cuda.so (nvcc), and with the emulator for any x86-64
 *  processor into build/libkoala_emu.so (g++).
 *
 *  Always: both are made of the same sources, incrementally; libkoala_cuda.so needs libc alone when it is loaded. What
 *  ptxas says of each kernel (registers, spills, shared memory) is kept beside its object for test/ffi/cuda_build.test.ts. */
import { existsSync, mkdirSync, realpathSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { isStale, listFiles, readText, replace, run } from "./build.ts";

const root = join(import.meta.dir, "..");
const buildDir = join(root, "build");
const cudaDir = join(root, "ffi", "cuda");

/** Compute capabilities of the release; PTX of the first lets newer GPUs compile for themselves. */
export const RELEASE_ARCHS = [80, 90, 100];

const HOST_FLAGS = [
  "-fPIC",
  "-fvisibility=hidden",
  "-fno-exceptions",
  "-fno-rtti",
  "-fno-threadsafe-statics",
];
const NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler", HOST_FLAGS.join(","), "--compress-mode=size"];
const EMULATOR_FLAGS = [
  ..."-x c++ -DKOALA_EMULATOR -O2 -g1 -std=c++17 -ffp-contract=off -fno-gnu-unique".split(" "),
  ...HOST_FLAGS,
  ..."-Wall -Wextra -Wno-unknown-pragmas".split(" "),
];
const EXPORTS = `-Wl,--version-script,${join(cudaDir, "exports.map")}`;
const ASAN_FLAGS = ["-fsanitize=address", "-fno-omit-frame-pointer"];

interface Build {
  name: string;
  library: string;
  objectDir: string;
  sourceDir: string;
  /** The command that makes an object, without the files. */
  compile: string[];
  /** The command that makes the library of the objects, without the files. */
  link: (objects: string[], to: string) => string[];
}

/** Builds the emulator and returns its path; `asan` finds accesses outside of memory (test/ffi/sanitizer.test.ts). */
export function buildEmulator(options: { quiet?: boolean; asan?: boolean } = {}): Promise<string> {
  const name = options.asan ? "emu_asan" : "emu";
  return build(
    {
      name: options.asan ? "the emulator with ASan" : "the emulator",
      library: join(buildDir, `libkoala_${name}.so`),
      objectDir: join(buildDir, name),
      sourceDir: cudaDir,
      compile: compileEmulator(options.asan),
      link: (objects, to) => linkEmulator(objects, to, options.asan),
    },
    options.quiet,
  );
}

/** Builds the emulator anew with one changed unit of `sourceDir` (a copy of ffi/cuda), for tests of the tests. */
export async function buildMutant(options: {
  sourceDir: string;
  unit: string;
  library: string;
  asan?: boolean;
}): Promise<void> {
  const sound = join(buildDir, options.asan ? "emu_asan" : "emu");
  const object = `${options.library}.o`;
  const source = join(options.sourceDir, `${options.unit}.cu`);
  await run([...compileEmulator(options.asan), "-O1", "-w", "-c", source, "-o", object]);
  const others = listFiles(sound).filter(
    (file) => file.endsWith(".o") && !file.endsWith(`/${options.unit}.o`),
  );
  await run(linkEmulator([...others, object], options.library, options.asan));
}

const gxx = (): string => process.env.CXX || "g++";

const compileEmulator = (asan = false): string[] => [gxx(), ...EMULATOR_FLAGS, ...(asan ? ASAN_FLAGS : [])];

/** With ASan, its runtime comes from the program that loads the library (LD_PRELOAD). */
function linkEmulator(objects: string[], to: string, asan = false): string[] {
  const flags = asan ? ASAN_FLAGS : ["-static-libstdc++", "-static-libgcc", "-Wl,-z,defs"];
  return [gxx(), "-shared", ...objects, "-o", to, "-pthread", "-ldl", EXPORTS, ...flags];
}

/** Builds the GPU's library for this machine's usual card (sm_90) or all of the release. Throws a sentence without nvcc. */
export function buildCuda(options: { quiet?: boolean; allArchs?: boolean } = {}): Promise<string> {
  const nvcc = findNvcc();
  if (!nvcc)
    throw new Error(
      "The CUDA library must be compiled by nvcc of CUDA 13, which was not found on PATH, in CUDA_HOME or in /usr/local/cuda.",
    );
  const archs = options.allArchs ? RELEASE_ARCHS : [90];
  const codes = archs.flatMap((arch) => ["-gencode", `arch=compute_${arch},code=sm_${arch}`]);
  const ptx = options.allArchs ? ["-gencode", `arch=compute_${archs[0]},code=compute_${archs[0]}`] : [];
  return build(
    {
      name: `the CUDA library (sm_${archs.join(", sm_")})`,
      library: join(buildDir, "libkoala_cuda.so"),
      objectDir: join(buildDir, options.allArchs ? "cuda_release" : "cuda"),
      sourceDir: cudaDir,
      compile: [nvcc, ...NVCC_FLAGS, ...codes, ...ptx, "-Xptxas", "-v"],
      link: (objects, to) => [
        "gcc",
        "-shared",
        ...objects,
        "-o",
        to,
        `-L${cudartFolder(nvcc)}`,
        "-lcudart_static",
        "-lpthread",
        "-ldl",
        "-lrt",
        "-Wl,--as-needed",
        "-lm",
        EXPORTS,
        "-Wl,-z,defs",
        "-s",
      ],
    },
    options.quiet,
  );
}

/** Path of nvcc, or null. */
export function findNvcc(): string | null {
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, "/usr/local/cuda"];
  const inHomes = homes.map((home) => home && join(home, "bin", "nvcc"));
  return Bun.which("nvcc") ?? inHomes.find((path) => path && existsSync(path)) ?? null;
}

/** The folder of libcudart_static.a. */
function cudartFolder(nvcc: string): string {
  const homes = [
    process.env.CUDA_HOME,
    process.env.CUDA_PATH,
    dirname(dirname(realpathSync(nvcc))),
    "/usr/local/cuda",
  ];
  const folders = homes.flatMap((home) =>
    home
      ? ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"].map((name) => join(home, name))
      : [],
  );
  const found = folders.find((folder) => existsSync(join(folder, "libcudart_static.a")));
  if (!found)
    throw new Error(
      `nvcc is ${nvcc}, but its libcudart_static.a was not found; name the toolkit in CUDA_HOME.`,
    );
  return found;
}

async function build(what: Build, quiet = false): Promise<string> {
  const sources = listFiles(what.sourceDir).filter((file) => file.endsWith(".cu"));
  const flags = JSON.stringify([what.compile, what.sourceDir, statSync(import.meta.path).mtimeMs]);
  const flagsFile = join(what.objectDir, "flags");
  if (readText(flagsFile) !== flags) rmSync(what.objectDir, { recursive: true, force: true });
  mkdirSync(what.objectDir, { recursive: true });
  writeFileSync(flagsFile, flags);
  const units = sources.map((source) => ({
    source,
    object: join(what.objectDir, `${source.slice(what.sourceDir.length + 1, -3)}.o`),
    flags: [],
  }));
  const stale = units.filter(isStale);
  const newest = Math.max(...units.map(({ object }) => (existsSync(object) ? statSync(object).mtimeMs : 0)));
  const linked = existsSync(what.library) ? readText(join(what.objectDir, "linked")) : "";
  const link = JSON.stringify([what.library, units.map(({ object }) => object), newest]);
  if (stale.length === 0 && linked === link) return what.library;
  const start = performance.now();
  if (!quiet) console.error(`Building ${what.name} (${stale.length} of ${units.length} files) ...`);
  const queue = [...stale].sort((a, b) => statSync(b.source).size - statSync(a.source).size);
  const work = async () => {
    for (let unit = queue.shift(); unit; unit = queue.shift()) await compile(what.compile, unit);
  };
  await Promise.all([work(), work()]);
  const objects = units.map(({ object }) => object);
  await replace(what.library, (to) => run(what.link(objects, to)));
  const made = Math.max(...objects.map((object) => statSync(object).mtimeMs));
  writeFileSync(join(what.objectDir, "linked"), JSON.stringify([what.library, objects, made]));
  if (!quiet) console.error(`Built ${what.library} in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
  return what.library;
}

/** Makes one object, with what the compiler says beside it. */
async function compile(command: string[], unit: { source: string; object: string }): Promise<void> {
  const { source, object } = unit;
  const begun = new Date();
  let said = "";
  await replace(object, async (to) => {
    said = await run([...command, "-MMD", "-MF", object.replace(/\.o$/, ".d"), "-c", source, "-o", to]);
  });
  writeFileSync(object.replace(/\.o$/, ".log"), said);
  utimesSync(object, begun, begun); // a file that was saved meanwhile is newer than the object
}
