/** Kernels under AddressSanitizer, on the emulator: no op touches what lies outside its arrays, and one that does is reported.
 *  Minutes to build, so only with KOALA_EMULATOR_TESTS=all. */
import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildEmulator, buildMutant } from "../../ffi/build_gpu.ts";

const root = join(import.meta.dir, "..", "..");
const minutes = 60_000;
const asked = process.env.KOALA_EMULATOR_TESTS === "all" && !process.env.KOALA_TEST_LIBRARY;
const runtime =
  asked && Bun.which("gcc") ? Bun.spawnSync(["gcc", "-print-file-name=libasan.so"]).stdout.toString() : "";
const absent = runtime.startsWith("/") ? "" : " (with KOALA_EMULATOR_TESTS=all, gcc and libasan only)";

async function opsOn(library: string, pattern: string): Promise<{ code: number; text: string }> {
  const child = Bun.spawn([process.execPath, "test", "-t", pattern, "test/ffi/ops.test.ts"], {
    cwd: root,
    env: {
      ...process.env,
      ASAN_OPTIONS: "detect_leaks=0:detect_stack_use_after_return=0:handle_segv=0",
      LD_PRELOAD: runtime.trim(),
      KOALA_TEST_LIBRARY: library,
      KOALA_TEST_INNER: "1",
    },
    stdout: "ignore",
    stderr: "pipe",
  });
  const text = await new Response(child.stderr).text();
  return { code: await child.exited, text };
}

describe.skipIf(absent !== "")(`AddressSanitizer${absent}`, () => {
  const dir = mkdtempSync(join(tmpdir(), "koala-sanitizer-"));
  afterAll(() => rmSync(dir, { recursive: true }));

  test(
    "has nothing to say of any op",
    async () => {
      const { code, text } = await opsOn(await buildEmulator({ quiet: true, asan: true }), "");
      expect(text).not.toContain("AddressSanitizer");
      expect(text).toMatch(/^ *[1-9]\d* pass$/m);
      expect(code).toBe(0);
    },
    20 * minutes,
  );

  test(
    "reports a product that adds to a row too many",
    async () => {
      cpSync(join(root, "ffi"), join(dir, "ffi"), { recursive: true });
      const file = join(dir, "ffi", "cuda", "gemm.cuh");
      const sound = readFileSync(file, "utf8");
      const planted = sound.replace("if (t >= p.T || n >= p.N) return;", "if (t > p.T || n >= p.N) return;");
      expect(planted).not.toBe(sound);
      writeFileSync(file, planted);
      const library = join(dir, "mutant.so");
      await buildMutant({ sourceDir: join(dir, "ffi", "cuda"), unit: "matmul", library, asan: true });
      const { code, text } = await opsOn(library, "matmul T=13 N=100 K=172 bf16 x bf16");
      expect(text).toMatch(
        /AddressSanitizer: heap-buffer-overflow[\s\S]*(READ|WRITE) of size[\s\S]*gemm\.cuh/,
      );
      expect(code).not.toBe(0);
    },
    20 * minutes,
  );
});
