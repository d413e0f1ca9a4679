/** A few steps of training on another device end where the CPU's end: the GPU's sources, run by the emulator. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import "../support/emulator.ts";
import { koala } from "../support/refusal.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { recipeText, trained, type Trained } from "./device_run.ts";
import { relativeError } from "./support.ts";

const root = temporaryFolder("devices");

describe.skipIf(process.arch !== "x64")("training on an emulated GPU (needs x86-64)", () => {
  test.each([
    ["float32", ['precision="float32"'], 1e-5, 1e-4],
    [
      "bf16 with dropout and recomputation",
      ['precision="bf16"', "dropout.residual=0.1", 'recompute="block"'],
      2e-2,
      2e-2,
    ],
  ] as const)("in %s ends where the CPU's ends", async (_, settings, lossError, weightError) => {
    const cpu = await trained(root, "cpu", [...settings]);
    const emu = await trained(root, "emu", [...settings]);
    expect(cpu.losses).toHaveLength(3);
    emu.losses.forEach((loss, i) => expect(Math.abs(loss - cpu.losses[i]!)).toBeLessThan(lossError));
    expect(relativeError(emu.weights, cpu.weights)).toBeLessThan(weightError);
  });

  const compiler = process.env.CXX || "g++";
  test.skipIf(!Bun.which(compiler))(
    "in bf16 with products through cuBLASLt (a stand-in) ends where the CPU's ends",
    async () => {
      const settings = ['precision="bf16"', "sequence_length=144"];
      const cpu = await trained(root, "cpu", settings);
      const library = join(root, "library");
      mkdirSync(library);
      const source = join(import.meta.dir, "..", "ffi", "fake_cublaslt.cc");
      const to = join(library, "libcublasLt.so.13");
      Bun.spawnSync([compiler, "-std=c++17", "-O2", "-fPIC", "-shared", "-w", source, "-o", to]);
      const log = join(root, "log");
      writeFileSync(log, "");
      // The library's environment is that of a process at its start.
      const child = Bun.spawn(
        [process.execPath, join(import.meta.dir, "device_run.ts"), root, "emu", ...settings],
        {
          env: {
            ...process.env,
            KOALA_GEMM: "cublaslt",
            KOALA_CUDA_LIBS: library,
            KOALA_GEMM_CACHE: join(root, "choices"),
            KOALA_FAKE_CUBLASLT_LOG: log,
          },
          stderr: "pipe",
        },
      );
      const [out, err] = await Promise.all(
        [child.stdout, child.stderr].map((pipe) => new Response(pipe).text()),
      );
      if (!out) throw new Error(err);
      const emu = JSON.parse(out) as Trained;
      expect(emu.losses).toHaveLength(cpu.losses.length);
      emu.losses.forEach((loss, i) => expect(Math.abs(loss - cpu.losses[i]!)).toBeLessThan(2e-2));
      expect(relativeError(emu.weights, cpu.weights)).toBeLessThan(2e-2);
      const products = readFileSync(log, "utf8").split("\n");
      // Of the fused gate and up: forward, what it gives back to its input, and its weights.
      for (const shape of [" 96 T 32 beta 0", " 32 T 96 beta 0", " 32 96 T beta 1"]) {
        const pattern = new RegExp(`^multiply fa4e02${shape.replace("T", "1[34]\\d")}$`);
        expect(products.filter((line) => pattern.test(line)).length).toBeGreaterThan(5);
      }
    },
  );
});

test("a device that is not there is told in one sentence, before anything is written", async () => {
  const recipe = join(root, "recipe.toml");
  await Bun.write(recipe, recipeText);
  const { code, err } = await koala(["train", recipe, "--device", "tpu"]);
  expect([code, err]).toEqual([1, expect.stringContaining("device: must be cpu, cuda")]);
});
