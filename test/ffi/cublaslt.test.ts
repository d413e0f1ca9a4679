/** Products through cuBLASLt, on the emulator with a stand-in that multiplies on the processor (fake_cublaslt.cc): which go
 *  there, how its algorithms are chosen and remembered, and what happens where it is missing, broken or without one. */
import { beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildEmulator, buildMutant } from "../../ffi/build_gpu.ts";
import { temporaryFolder } from "../support/temporary.ts";
import type { Product, Report } from "./cublaslt_products.ts";

const root = join(import.meta.dir, "..", "..");
const dir = temporaryFolder("cublaslt");
const library = join(dir, "library");
const minutes = 60_000;
const compiler = process.env.CXX || "g++";
const skipped = process.arch !== "x64" || Boolean(process.env.KOALA_TEST_LIBRARY) || !Bun.which(compiler);

/** Largest normalised mean square error, as in the op table. */
const tolerance = { f32: 1e-11, bf16: 1e-5 };

interface Run extends Report {
  /** What the library was asked: "propose ...", "check ...", "multiply ALGORITHM rows columns depth beta B". */
  log: string[];
  bits: string[];
}

/** Names without a value are taken away. */
type Environment = Record<string, string | undefined>;

let runs = 0;
const fresh = (): string => join(dir, `cache-${runs++}`, "gemm");

async function started(products: Product[], env: Environment = {}) {
  const log = join(dir, `log-${runs++}`);
  writeFileSync(log, "");
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, "cublaslt_products.ts"), JSON.stringify(products)],
    {
      cwd: root,
      env: {
        ...process.env,
        KOALA_TEST_LIBRARY: "emu",
        KOALA_CUDA_LIBS: library,
        KOALA_GEMM: "auto",
        KOALA_GEMM_CACHE: "off",
        KOALA_FAKE_CUBLASLT_LOG: log,
        ...env,
      },
      stderr: "pipe",
    },
  );
  const [out, err] = await Promise.all([child.stdout, child.stderr].map((pipe) => new Response(pipe).text()));
  return { out: out!, err: err!, log, code: await child.exited };
}

/** Makes products in a process of their own; each equals its formula. */
async function multiply(products: Product[], env: Environment = {}): Promise<Run> {
  const { out, err, log } = await started(products, env);
  if (!out) throw new Error(err);
  const report = JSON.parse(out) as Report;
  report.products.forEach(({ error }, i) => {
    const { kind, dtype } = products[i]!;
    expect(error).toBeLessThan(tolerance[kind === "weights" ? "f32" : dtype]);
  });
  expect(report.products).toHaveLength(products.length);
  const lines = readFileSync(log, "utf8").split("\n").slice(0, -1);
  return { ...report, log: lines, bits: report.products.map(({ bits }) => bits) };
}

/** The sentence of a device that does not open. */
async function refusal(env: Environment): Promise<string> {
  const { code, err } = await started([], env);
  expect(code).not.toBe(0);
  return err;
}

const counted = (log: string[], start: string): number => log.filter((line) => line.startsWith(start)).length;
const [slow, quick, even] = ["multiply fa4e01", "multiply fa4e02", "multiply fa4e03"] as const;

const forward: Product = { kind: "forward", T: 136, N: 64, K: 40, dtype: "f32" };
const weights: Product = { kind: "weights", T: 136, N: 64, K: 40, dtype: "bf16" };

describe.skipIf(skipped)("products through cuBLASLt, emulated (x86-64 and g++ only)", () => {
  beforeAll(async () => {
    await buildEmulator({ quiet: true });
    mkdirSync(library);
    const flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wno-return-type-c-linkage"];
    const to = join(library, "libcublasLt.so.13");
    const made = Bun.spawnSync([compiler, ...flags, join(import.meta.dir, "fake_cublaslt.cc"), "-o", to]);
    if (made.exitCode !== 0) throw new Error(made.stderr.toString());
  }, 10 * minutes);

  test("forward, backward and weight gradients are the formulas, with bias, sums and rounded operands", async () => {
    const products: Product[] = (["f32", "bf16"] as const).flatMap((dtype) => [
      { kind: "forward", T: 130, N: 72, K: 40, dtype, bias: true },
      { kind: "forward", T: 130, N: 72, K: 44, dtype, accumulate: true }, // rows of x are padded
      { kind: "forward", T: 200, N: 40, K: 48, dtype, bias: true, accumulate: true },
      { kind: "dx", T: 131, N: 72, K: 40, dtype },
      { kind: "weights", T: 131, N: 72, K: 40, dtype },
    ]);
    const { gemm, log } = await multiply(products);
    expect(gemm).toBe("cuBLASLt 13.1.0");
    // Gradients of weights are the same product whatever the operands were rounded from.
    expect(counted(log, "propose 8")).toBe(products.length - 1);
    expect(log.filter((line) => line.startsWith(quick)).at(-1)).toBe(`${quick} 40 72 131 beta 1`);
  });

  test("short, narrow and odd products are our own", async () => {
    const { log } = await multiply([
      { ...forward, T: 127 },
      { ...forward, N: 68 },
      { ...forward, N: 24 },
      { ...forward, K: 16 },
      { ...weights, T: 127 },
      { ...weights, N: 68 },
      { ...weights, K: 44 },
    ]);
    expect(log).toEqual([]);
  });

  test("a shape is timed once for all T that round up to the same, and the fastest serves", async () => {
    const products = [130, 150, 192, 130, 193].map((T) => ({ ...forward, T }));
    const { log } = await multiply(products);
    expect(log.filter((line) => line.startsWith("propose"))).toEqual([
      "propose 8 64 130 40",
      "propose 8 64 193 40",
    ]);
    // The slow one is timed, never used: each product's last multiplication is the quick one's.
    for (const T of [150, 192]) {
      expect(counted(log, `${slow} 64 ${T} 40`)).toBe(0);
      expect(counted(log, `${quick} 64 ${T} 40`)).toBe(1);
    }
    expect(log.at(-1)).toStartWith(`${quick} 64 193 40`);
  });

  test("where the chosen algorithm does not fit the rows, the library's first proposal for them does", async () => {
    const products = [136, 131, 144].map((T) => ({ ...forward, T }));
    const { log } = await multiply(products, { KOALA_FAKE_CUBLASLT: "even" });
    const last = (T: number) => log.findLast((line) => line.includes(` 64 ${T} 40 beta`));
    expect([136, 131, 144].map(last)).toEqual([
      `${even} 64 136 40 beta 0`,
      `${slow} 64 131 40 beta 0`,
      `${even} 64 144 40 beta 0`,
    ]);
    expect(log.filter((line) => line.startsWith("propose"))).toEqual([
      "propose 8 64 136 40",
      "propose 1 64 131 40",
    ]);
  });

  test("the workspace is part of the scratch that is rehearsed, and no product takes more", async () => {
    for (const products of [[forward], [weights], [{ ...forward, dtype: "bf16" as const }]]) {
      const { rehearsed, held } = await multiply(products);
      const own = await multiply(products, { KOALA_GEMM: "own" });
      expect(held).toBe(rehearsed);
      expect(rehearsed - own.rehearsed).toBeWithin(32 * 2 ** 20, 32 * 2 ** 20 + 256);
    }
  });

  describe("the file of choices", () => {
    const both = [forward, weights];

    test("spares the next process the timing, and gives it the same bits", async () => {
      const env = { KOALA_GEMM_CACHE: fresh() };
      const first = await multiply(both, env);
      expect(counted(first.log, "propose")).toBe(2);
      // The next one would find another algorithm quicker.
      const next = await multiply(both, { ...env, KOALA_FAKE_CUBLASLT: "even" });
      expect(next.log).toEqual([
        "check fa4e02 64 136 40",
        `${quick} 64 136 40 beta 0`,
        "check fa4e02 40 64 136",
        `${quick} 40 64 136 beta 1`,
      ]);
      expect(next.bits).toEqual(first.bits);
    });

    test("lies in the user's cache folder", async () => {
      const home = fresh();
      const none = { KOALA_GEMM_CACHE: undefined, XDG_CACHE_HOME: undefined };
      await multiply([forward], { ...none, HOME: home });
      expect(readdirSync(join(home, ".cache", "koala", "gemm"))).toContain("Emulated-GPU-sm90-130100.txt");
      const caches = fresh();
      await multiply([forward], { ...none, HOME: home, XDG_CACHE_HOME: caches });
      expect(readdirSync(join(caches, "koala", "gemm"))).toContain("Emulated-GPU-sm90-130100.txt");
    });

    test("is written by ranks at once, who then all have the same choices", async () => {
      const env = { KOALA_GEMM_CACHE: fresh() };
      const shapes = [32, 40, 48].map((K) => ({ ...forward, K }));
      const ranks = await Promise.all([
        multiply(shapes, env),
        multiply([...shapes].reverse(), { ...env, KOALA_FAKE_CUBLASLT: "even" }),
        multiply([weights, ...shapes], env),
      ]);
      const lines = readFileSync(join(env.KOALA_GEMM_CACHE, "Emulated-GPU-sm90-130100.txt"), "utf8").split(
        "\n",
      );
      const choices = lines.slice(1, -1).map((line) => line.split(" "));
      expect(new Set(choices.map((numbers) => numbers.slice(0, 9).join(" "))).size).toBe(4);
      expect(choices).toHaveLength(4);
      const chosen = (K: number) =>
        choices.find((numbers) => numbers[0] === "0" && parseInt(numbers[3]!, 16) === K)![9];
      for (const { log } of ranks)
        for (const K of [32, 40, 48])
          expect(log.findLast((line) => line.endsWith(`64 136 ${K} beta 0`))).toStartWith(
            `multiply ${chosen(K)} `,
          );
      const { log } = await multiply([weights, ...shapes], env);
      expect(counted(log, "propose")).toBe(0);
    });

    test("is as if it were not there where it is damaged, foreign or no file, and made anew", async () => {
      const folder = fresh();
      const env = { KOALA_GEMM_CACHE: folder };
      const file = join(folder, "Emulated-GPU-sm90-130100.txt");
      await multiply([forward], env);
      const sound = readFileSync(file, "utf8");
      const title = sound.slice(0, sound.indexOf("\n") + 1);
      const damages: Record<string, string> = {
        "another algorithm": sound.replace("fa4e02 ", "fa4e05 "),
        "cut off": sound.slice(0, -1),
        "cut off early": sound.slice(0, title.length + 30),
        foreign: sound.replace("Emulated GPU", "Another GPU"),
        "of another version": sound.replace("130100", "120800"),
        binary: `${title}${"\0\xff".repeat(4000)}\n`,
        empty: "",
      };
      for (const text of Object.values(damages)) {
        writeFileSync(file, text);
        const { log } = await multiply([forward], env);
        expect(counted(log, "propose 8")).toBe(1);
        expect(log.at(-1)).toStartWith(quick);
        expect(readFileSync(file, "utf8")).toBe(sound);
      }
      const taken = fresh();
      mkdirSync(join(taken, "Emulated-GPU-sm90-130100.txt"), { recursive: true });
      expect((await multiply([forward], { KOALA_GEMM_CACHE: taken })).log.at(-1)).toStartWith(quick);
      expect(readdirSync(taken).filter((name) => !name.endsWith(".lock"))).toEqual([
        "Emulated-GPU-sm90-130100.txt",
      ]);
    });

    test("is not missed where its folder cannot be made, or it is switched off", async () => {
      for (const folder of ["/dev/null/koala", "off"]) {
        const { log } = await multiply([forward], { KOALA_GEMM_CACHE: folder });
        expect(counted(log, "propose 8")).toBe(1);
      }
    });
  });

  describe("KOALA_GEMM", () => {
    test("own keeps to our kernels, whose rows are the same bits in every batch", async () => {
      const { gemm, log } = await multiply([forward, weights], { KOALA_GEMM: "own" });
      expect([gemm, log]).toEqual(["own kernels", []]);
    });

    test("auto takes our kernels where the library is missing, does not start or has no algorithm", async () => {
      const missing = await multiply([forward], { KOALA_CUDA_LIBS: dir });
      expect(missing.gemm).toBe("own kernels");
      const broken = await multiply([forward], { KOALA_FAKE_CUBLASLT: "broken" });
      expect(broken.gemm).toBe("own kernels, as cuBLASLt 13.1.0 does not start (fake)");
      const without = await multiply([forward, weights, forward], { KOALA_FAKE_CUBLASLT: "none" });
      expect([counted(without.log, "propose"), counted(without.log, "multiply")]).toEqual([4, 0]);
      const own = await multiply([forward, weights, forward], { KOALA_GEMM: "own" });
      expect(without.bits).toEqual(own.bits);
    });

    test("cublaslt insists, and another word is refused", async () => {
      const insisting = { KOALA_GEMM: "cublaslt" };
      expect((await multiply([forward], insisting)).gemm).toBe("cuBLASLt 13.1.0");
      expect(await refusal({ ...insisting, KOALA_CUDA_LIBS: dir })).toContain(
        'KOALA_GEMM is "cublaslt", and cuBLASLt was not found. Name its folder in KOALA_CUDA_LIBS',
      );
      expect(await refusal({ ...insisting, KOALA_FAKE_CUBLASLT: "broken" })).toContain(
        "cuBLASLt does not start (fake).",
      );
      expect(await refusal({ KOALA_GEMM: "cublas" })).toContain(
        'KOALA_GEMM is "cublas", and there are auto, cublaslt and own.',
      );
    });
  });

  test(
    "nothing is timed while the stream records a graph",
    async () => {
      // A stream that always records: the one question about it answered the other way round.
      const sourceDir = join(dir, "recording");
      cpSync(join(root, "ffi"), join(sourceDir, "ffi"), { recursive: true });
      const unit = join(sourceDir, "ffi", "cuda", "cublaslt_device.cu");
      const text = readFileSync(unit, "utf8");
      const changed = text.replace(
        "status == cudaStreamCaptureStatusNone",
        "status != cudaStreamCaptureStatusNone",
      );
      expect(changed).not.toBe(text);
      writeFileSync(unit, changed);
      const emulator = join(dir, "recording.so");
      await buildMutant({
        sourceDir: join(sourceDir, "ffi", "cuda"),
        unit: "cublaslt_device",
        library: emulator,
      });
      const folder = fresh();
      const env = { KOALA_TEST_LIBRARY: emulator, KOALA_GEMM_CACHE: folder };
      const { log } = await multiply([forward, forward], env);
      const first = ["propose 1 64 136 40", `${slow} 64 136 40 beta 0`];
      expect(log).toEqual([...first, ...first]); // and the choice stays open
      await multiply([forward], { KOALA_GEMM_CACHE: folder });
      const settled = await multiply([forward], env);
      expect(settled.log).toEqual(["check fa4e02 64 136 40", `${quick} 64 136 40 beta 0`]);
    },
    5 * minutes,
  );
});
