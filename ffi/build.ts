/** Compiles the native library: what changed, two files at a time, into build/libkoala_cpu.so.
 *
 *  The ops (and the table that lists them) are compiled once per instruction set, each time in a namespace of its own;
 *  the device chooses one at run time. Objects and library are written beside their place and renamed, so that builds
 *  running at once cannot read each other's halves. `bun ffi/build.ts`, or `await buildNative()`; the GPU's library and
 *  its emulator are built when asked for: `bun ffi/build.ts --cuda [--all-archs] --emu`, see build_gpu.ts. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const sourceDir = join(root, "ffi", "cpu");
const buildDir = join(root, "build");
const objectDir = join(buildDir, "cpu");
const library = join(buildDir, "libkoala_cpu.so");

/** Sources that are compiled once, for any processor; all others are compiled once per instruction set. */
const COMMON = ["comm", "comm_host", "comm_queue", "device", "file_map", "graph", "pool", "record"];

interface InstructionSet {
  name: string;
  level: number;
  flags: string[];
}

const AVX2 = ["-mavx2", "-mfma", "-mf16c"];
const AVX512 = [...AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"];
const X86: InstructionSet[] = [
  { name: "avx2", level: 1, flags: AVX2 },
  { name: "avx512", level: 2, flags: AVX512 },
  { name: "avx512bf16", level: 3, flags: [...AVX512, "-mavx512bf16", "-mavx512vnni"] },
];
const PORTABLE: InstructionSet = { name: "portable", level: 0, flags: ["-DKOALA_EXPORTS"] };

// No contraction: a product and a sum are fused where simd.h says so and nowhere else (equal bits in every path).
const FLAGS = [
  "-std=c++17",
  "-O3",
  "-fPIC",
  "-pthread",
  "-fvisibility=hidden",
  "-fno-exceptions",
  "-fno-rtti",
  "-ffp-contract=off",
  "-fno-math-errno",
  "-Wall",
  "-Wextra",
  "-Wno-psabi",
];
const LINK = [
  "-shared",
  "-pthread",
  "-static-libstdc++",
  "-static-libgcc",
  "-Wl,--exclude-libs,ALL",
  "-Wl,-z,defs",
  "-s",
];

/** One object and what makes it. */
export interface Unit {
  source: string;
  object: string;
  flags: string[];
}

/** Builds what changed and returns the path of the library. Throws one sentence if it cannot. */
export async function buildNative(options: { quiet?: boolean } = {}): Promise<string> {
  const compiler = process.env.CXX || "g++";
  const stamp = fingerprint(compiler);
  const stampFile = join(objectDir, "stamp");
  if (existsSync(library) && readText(stampFile) === stamp) return library;
  if (!Bun.which(compiler)) {
    throw new Error(
      `The native library must be compiled and ${compiler} was not found: install g++ (Debian and Ubuntu: apt install g++), or name a compiler in CXX.`,
    );
  }
  const flagsFile = join(objectDir, "flags");
  if (readText(flagsFile) !== flagsText(compiler)) rmSync(objectDir, { recursive: true, force: true });
  mkdirSync(objectDir, { recursive: true });
  writeFileSync(flagsFile, flagsText(compiler));
  const all = units();
  const stale = all.filter(isStale);
  const start = performance.now();
  if (!options.quiet)
    console.error(`Building the native library (${stale.length} of ${all.length} files) ...`);
  await compile(compiler, stale);
  await replace(library, (to) => run([compiler, ...all.map((unit) => unit.object), ...LINK, "-o", to]));
  writeFileSync(stampFile, stamp);
  if (!options.quiet)
    console.error(`Built build/libkoala_cpu.so in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
  return library;
}

/** Names, sizes and times of everything that the library is made of. */
function fingerprint(compiler: string): string {
  const files = [...listFiles(sourceDir), ...listFiles(join(root, "ffi", "include")), import.meta.path];
  const parts = files.map((file) => {
    const { mtimeMs, size } = statSync(file);
    return `${file} ${size} ${mtimeMs}`;
  });
  return [flagsText(compiler), ...parts].join("\n");
}

function flagsText(compiler: string): string {
  return JSON.stringify([compiler, process.arch, FLAGS, LINK, PORTABLE, X86]);
}

export function listFiles(dir: string): string[] {
  return readdirSync(dir)
    .sort()
    .map((name) => join(dir, name));
}

/** Every object of the library: the large sources first, so that no long one is left for the end. */
function units(): Unit[] {
  const isas = process.arch === "x64" ? [PORTABLE, ...X86] : [PORTABLE];
  const sources = listFiles(sourceDir).filter((file) => file.endsWith(".cc"));
  sources.sort((a, b) => statSync(b).size - statSync(a).size);
  return sources.flatMap((source) => {
    const name = source.slice(sourceDir.length + 1, -3);
    if (COMMON.includes(name)) return [{ source, object: join(objectDir, `${name}.o`), flags: [] }];
    return isas.map((isa) => ({
      source,
      object: join(objectDir, `${name}.${isa.name}.o`),
      flags: [`-DKOALA_NS=${isa.name}`, `-DKOALA_LEVEL=${isa.level}`, ...isa.flags],
    }));
  });
}

/** Whether the object is missing or older than a file it was made from (g++ lists them beside the object). */
export function isStale(unit: Pick<Unit, "object">): boolean {
  const dependencies = readText(unit.object.replace(/\.o$/, ".d"));
  if (!existsSync(unit.object) || dependencies === "") return true;
  const built = statSync(unit.object).mtimeMs;
  const files = dependencies
    .replace(/^[^:]*:/, "")
    .replaceAll("\\\n", " ")
    .split(/\s+/)
    .filter((file) => file.startsWith(root));
  return files.some((file) => !existsSync(file) || statSync(file).mtimeMs > built);
}

async function compile(compiler: string, stale: Unit[]): Promise<void> {
  const queue = [...stale];
  const work = async () => {
    for (let unit = queue.shift(); unit; unit = queue.shift()) {
      const { source, object, flags } = unit;
      const dependencies = object.replace(/\.o$/, ".d");
      const begun = new Date();
      await replace(object, (to) =>
        run([compiler, ...FLAGS, ...flags, "-MMD", "-MF", dependencies, "-c", source, "-o", to]),
      );
      utimesSync(object, begun, begun); // a file that was saved meanwhile is newer than the object
    }
  };
  await Promise.all([work(), work()]);
}

/** Lets `make` write a file under another name and puts it in its place when it is complete. */
export async function replace(file: string, make: (to: string) => Promise<unknown>): Promise<void> {
  const temporary = `${file}.${process.pid}`;
  await make(temporary);
  renameSync(temporary, file);
}

/** Runs a compiler or linker; what it says on stderr. */
export async function run(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe" });
  const [text, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  if (code !== 0)
    throw new Error(
      `The native library does not compile (${command[0]} ended with ${code}):\n${text.trim()}`,
    );
  return text;
}

export function readText(file: string): string {
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}

if (import.meta.main) {
  const asked = new Set(process.argv.slice(2));
  try {
    const unknown = [...asked].find((flag) => !["--cuda", "--all-archs", "--emu"].includes(flag));
    if (unknown) throw new Error(`Unknown flag ${unknown}: bun ffi/build.ts [--cuda [--all-archs]] [--emu]`);
    await buildNative();
    if (asked.has("--emu") || asked.has("--cuda")) {
      const { buildCuda, buildEmulator } = await import("./build_gpu.ts");
      if (asked.has("--emu")) await buildEmulator();
      if (asked.has("--cuda")) await buildCuda({ allArchs: asked.has("--all-archs") });
    }
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exit(1);
  }
}
