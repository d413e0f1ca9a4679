/** NVIDIA's optional libraries: where they are searched, which is found, in which version.
 *  The order is KOALA_CUDA_LIBS, the system's loader, /usr/local/cuda*, then a Python's packages. */
import { dlopen, ptr } from "bun:ffi";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { refuseWorkingFolder } from "./cuda_driver.ts";

export const vendorNames = ["cuBLASLt", "NCCL", "cuDNN"] as const;
export type VendorName = (typeof vendorNames)[number];

export interface LibrarySearch {
  name: VendorName;
  /** The first that could be loaded and told its version. */
  found: { path: string; version: string; place: string } | null;
  /** Files of that name that cannot be used, and why. */
  faults: string[];
}

export interface SearchOptions {
  /** Folders between colons. */
  libraries?: string | undefined;
  /** A Python interpreter, or the folder of an environment or of its packages. */
  python?: string | undefined;
  /** Where toolkits lie as cuda, cuda-13.0, ... */
  toolkits?: string;
}

interface Place {
  /** In words. */
  name: string;
  /** null: the loader searches by itself. */
  folder: string | null;
}

interface Vendor {
  /** Newest first. */
  sonames: string[];
  /** The function that tells the version: it returns it, or writes it to an int. */
  version: { symbol: string; writes: boolean };
}

const vendors: Record<VendorName, Vendor> = {
  cuBLASLt: {
    sonames: ["libcublasLt.so.13", "libcublasLt.so.12"],
    version: { symbol: "cublasLtGetVersion", writes: false },
  },
  NCCL: { sonames: ["libnccl.so.2"], version: { symbol: "ncclGetVersion", writes: true } },
  cuDNN: { sonames: ["libcudnn.so.9"], version: { symbol: "cudnnGetVersion", writes: false } },
};

/** Folders of pip's packages below site-packages: for CUDA 13, then for 12. */
const pipFolders = ["nvidia/cu13/lib", "nvidia/nccl/lib", "nvidia/cudnn/lib", "nvidia/cublas/lib"];

/** Searches every library. Throws UsageError where `python` is neither a folder nor an interpreter that runs. */
export function findCudaLibraries(options: SearchOptions = {}): LibrarySearch[] {
  const places = searchPlaces(options);
  return vendorNames.map((name) => search(name, places));
}

function search(name: VendorName, places: Place[]): LibrarySearch {
  const { sonames, version } = vendors[name];
  const faults: string[] = [];
  for (const place of places)
    for (const soname of sonames) {
      const path = place.folder === null ? soname : join(place.folder, soname);
      if (place.folder !== null && !existsSync(path)) continue;
      try {
        return { name, found: { ...load(path, version), place: place.name }, faults };
      } catch (error) {
        // The loader says the same of what it cannot find and of what it cannot load.
        if (place.folder !== null) faults.push(`${path} cannot be loaded: ${(error as Error).message}`);
      }
    }
  return { name, found: null, faults };
}

function searchPlaces({ libraries, python, toolkits = "/usr/local" }: SearchOptions): Place[] {
  const named = (libraries ?? "").split(":").filter((folder) => folder !== "");
  return [
    ...named.map((folder) => ({ name: "KOALA_CUDA_LIBS", folder })),
    { name: "the system's loader", folder: null },
    ...toolkitFolders(toolkits).map((folder) => ({ name: folder, folder })),
    ...(python === undefined ? [] : packageFolders(python)).flatMap((packages) =>
      pipFolders.map((folder) => ({ name: "Python packages", folder: join(packages, folder) })),
    ),
  ];
}

/** /usr/local/cuda (the chosen one) before cuda-13.0 and its like, newest first. */
function toolkitFolders(parent: string): string[] {
  if (!existsSync(parent)) return [];
  const newestFirst = (a: string, b: string) => b.localeCompare(a, "en", { numeric: true });
  const names = readdirSync(parent).filter((name) => /^cuda(-[\d.]+)?$/.test(name));
  names.sort((a, b) => Number(b === "cuda") - Number(a === "cuda") || newestFirst(a, b));
  return names.map((name) => join(parent, name, "lib64"));
}

/** Every folder that may hold site-packages of `python`. */
function packageFolders(python: string): string[] {
  const resolved = Bun.which(python) ?? python;
  const kind = statSync(resolved, { throwIfNoEntry: false });
  if (kind?.isDirectory()) {
    const inside = [
      ...new Bun.Glob("lib/python3*/{site,dist}-packages").scanSync({ cwd: python, onlyFiles: false }),
    ];
    return [python, ...inside.map((folder) => join(python, folder))];
  }
  const show = "import sys; print('\\n'.join(sys.path))";
  const run = kind === undefined ? null : Bun.spawnSync([resolved, "-c", show], { stderr: "ignore" });
  if (run?.exitCode !== 0)
    throw new UsageError(
      `--python ${python} is neither a folder nor a Python that runs. Name python3, or the folder of an environment.`,
    );
  return run.stdout
    .toString()
    .split("\n")
    .filter((line) => line.startsWith("/"));
}

/** Loads a library for as long as it takes to ask for its version. Throws what the loader says. */
function load(path: string, { symbol, writes }: Vendor["version"]): { path: string; version: string } {
  refuseWorkingFolder(path);
  const library = writes
    ? dlopen(path, { [symbol]: { args: ["ptr"], returns: "i32" } })
    : dlopen(path, { [symbol]: { args: [], returns: "u64" } });
  const call = library.symbols[symbol] as (...args: unknown[]) => number | bigint;
  const out = new Int32Array(1);
  const answer = Number(writes ? call(ptr(out)) : call());
  const from = mappedPath(path);
  library.close();
  if (writes && answer !== 0) throw new Error(`${symbol} failed with ${answer}`);
  return { path: from, version: versionText(writes ? (out[0] as number) : answer) };
}

/** 130100 is 13.1.0: so count cuBLASLt, NCCL since 2.9 and cuDNN since 9. */
const versionText = (version: number): string =>
  `${Math.floor(version / 10000)}.${Math.floor(version / 100) % 100}.${version % 100}`;

/** Where the loader took a library from that was named without a folder. */
function mappedPath(path: string): string {
  if (path.includes("/") || !existsSync("/proc/self/maps")) return path;
  const lines = readFileSync("/proc/self/maps", "utf8").split("\n");
  const line = lines.find((text) => text.includes(`/${path}`));
  return line === undefined ? path : line.slice(line.indexOf("/"));
}
