/** Finding and loading the native library: from memory, or from a folder that nobody else can write. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { dlopen } from "bun:ffi";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { cachedLibrary, extractLibrary, libraryPath } from "../../src/tensor/library.ts";
import { temporaryFolder } from "../support/temporary.ts";

const built = join(import.meta.dir, "..", "..", "build", "libkoala_cpu.so");
const bytes = Buffer.from("not a library, but bytes");

describe("in the user's cache", () => {
  const before = process.env.XDG_CACHE_HOME;
  let cache = "";
  beforeEach(() => {
    cache = temporaryFolder("cache");
    process.env.XDG_CACHE_HOME = cache;
  });
  afterEach(() => {
    if (before === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = before;
  });

  test("a library is written once, for this user alone", () => {
    const path = cachedLibrary("cpu", bytes);
    expect(readFileSync(path)).toEqual(bytes);
    expect(statSync(path).mode & 0o077).toBe(0);
    expect(cachedLibrary("cpu", bytes)).toBe(path);
    expect(readdirSync(join(cache, "koala", "native")).length).toBe(1);
  });

  test("an altered file of equal size is not loaded but replaced", () => {
    const path = cachedLibrary("cpu", bytes);
    chmodSync(path, 0o700);
    writeFileSync(
      path,
      bytes.map((byte) => byte ^ 1),
    );
    expect(readFileSync(cachedLibrary("cpu", bytes))).toEqual(bytes);
  });

  test("a folder that others can write is refused", () => {
    const folder = join(cache, "koala", "native");
    mkdirSync(folder, { recursive: true });
    chmodSync(folder, 0o777);
    expect(() => cachedLibrary("cpu", bytes)).toThrow(/can be written by others.*chmod 700/);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe.skipIf(!existsSync(built))("the CPU library (skipped until it is built)", () => {
  test("is found in build/", () => {
    expect(libraryPath("cpu")).toBe(built);
  });

  test.skipIf(process.platform !== "linux")(
    "loads from memory without touching the disk (skipped where there is no memfd)",
    () => {
      const path = extractLibrary("cpu", readFileSync(built));
      expect(path).toMatch(/^\/proc\/self\/fd\/\d+$/);
      expect(readFileSync(path).equals(readFileSync(built))).toBe(true);
      const version = { koala_abi_version: { args: [], returns: "i32" } } as const;
      expect(dlopen(path, version).symbols.koala_abi_version()).toBe(
        dlopen(built, version).symbols.koala_abi_version(),
      );
    },
  );
});

test.skipIf(existsSync(built.replace("cpu", "cuda")))(
  "a library that is not there gets a sentence (skipped where CUDA is built)",
  () => {
    expect(() => libraryPath("cuda")).toThrow(
      /libkoala_cuda\.(so|dylib) is not built\. Build it with: bun ffi\/build\.ts/,
    );
  },
);
