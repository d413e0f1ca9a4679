/** Header, TypeScript declarations and the built library name the same functions with the same arguments. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { buildNative } from "../../ffi/build.ts";
import { ABI_VERSION, declarations, loadNative } from "../../src/tensor/native.ts";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { cpuOnly, library, native, onGpu } from "./target.ts";

const header = readFileSync(new URL("../../ffi/include/koala.h", import.meta.url), "utf8");
const TYPES: Record<string, string> = { int32_t: "i32", float: "f32", double: "f64" };

/** The header's functions as bun:ffi would declare them. */
function headerFunctions(): Record<string, { args: string[]; returns: string }> {
  const found: Record<string, { args: string[]; returns: string }> = {};
  const code = header.replace(/\/\/.*$/gm, "");
  for (const [, returns, name, list] of code.matchAll(
    /^\s*(int32_t|const char\*)\s+(koala_\w+)\(([^)]*)\);/gm,
  )) {
    const args = list === "void" ? [] : list!.split(",").map((arg) => argumentType(arg.trim()));
    found[name!] = { args, returns: returns === "int32_t" ? "i32" : "cstring" };
  }
  return found;
}

function argumentType(text: string): string {
  if (text.startsWith("const char*")) return "cstring";
  if (text.includes("*")) return "ptr";
  const type = TYPES[text.split(" ")[0]!];
  if (!type) throw new Error(`the header has an argument of an unknown type: ${text}`);
  return type;
}

function tool(...command: string[]): string {
  const { stdout, exitCode, stderr } = Bun.spawnSync(command, { stdout: "pipe", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(stderr.toString());
  return stdout.toString();
}

test("the declarations are those of the header", () => {
  const declared: Record<string, { args: string[]; returns: string }> = Object.fromEntries(
    Object.entries(declarations).map(([name, { args, returns }]) => [name, { args: [...args], returns }]),
  );
  expect(declared).toEqual(headerFunctions());
});

test("the element types are those of the header", () => {
  const names = [...header.matchAll(/KOALA_(\w+) = (\d+)/g)].map(([, name, value]) => [
    name!.toLowerCase(),
    Number(value),
  ]);
  expect(Object.fromEntries(names)).toEqual(dtypeCode);
});

describe.skipIf(!Bun.which("nm"))("the library (needs nm)", () => {
  test("exports what the header names and nothing else", () => {
    const exported = tool("nm", "-D", "--defined-only", library)
      .trim()
      .split("\n")
      .map((line) => line.split(" ").at(-1)!);
    expect(exported.sort()).toEqual(Object.keys(headerFunctions()).sort());
  });

  test("needs libc and libm only", () => {
    const needed = tool("objdump", "-p", library)
      .match(/NEEDED\s+\S+/g)!
      .map((line) => line.split(/\s+/)[1]!.split(".so")[0]);
    expect(
      needed.filter((name) => !["libc", "libm", "ld-linux-x86-64", "ld-linux-aarch64"].includes(name!)),
    ).toEqual([]);
  });

  test("no file of one instruction set defines a function that the linker could give to another", () => {
    const dir = join(import.meta.dir, "..", "..", "build", "cpu");
    const objects = readdirSync(dir).filter((name) => /\.(portable|avx\w+)\.o$/.test(name));
    expect(objects.length).toBeGreaterThan(0);
    const files = objects.map((name) => join(dir, name));
    const symbols = tool("nm", "-AC", "--defined-only", ...files).split("\n");
    const weak = symbols.filter((line) => / [WVu] /.test(line)).map((line) => line.slice(dir.length + 1));
    expect(weak.filter((line) => !line.includes(`${line.split(".")[1]}::`))).toEqual([]);
  });
});

test.skipIf(onGpu)(`a fresh library is not built again${cpuOnly}`, async () => {
  const built = statSync(library).mtimeMs;
  const start = performance.now();
  expect(await buildNative()).toBe(library);
  expect(performance.now() - start).toBeLessThan(1000);
  expect(statSync(library).mtimeMs).toBe(built);
});

test("the version is the one that the program needs", () => {
  expect(native.koala_abi_version()).toBe(ABI_VERSION);
});

test("a missing library is named with the command that builds it", () => {
  expect(() => loadNative("/nowhere/libkoala_cpu.so")).toThrow(
    /Cannot load the native library \/nowhere\/libkoala_cpu\.so.*bun ffi\/build\.ts/s,
  );
});
