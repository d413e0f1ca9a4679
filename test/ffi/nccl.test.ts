/** Collectives of GPUs, emulated: staged through shared memory, and through NCCL. A fake NCCL (fake_nccl.cc) carries bytes
 *  between processes and answers "in progress" as the real one; the real one is asked what it answers without a GPU. */
import { beforeAll, describe, expect, test } from "bun:test";
import { ptr } from "bun:ffi";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { buildEmulator } from "../../ffi/build_gpu.ts";
import { findCudaLibraries } from "../../src/tensor/cuda_libraries.ts";
import { expectBfloat16Sums, expectSums, freshName, type RanksOptions, runRanks } from "./comm_ranks.ts";

const minutes = 60_000;
const compiler = process.env.CXX || "g++";
const fake = join(mkdtempSync(join(tmpdir(), "koala-nccl-")), "libnccl.so.2");
const env = { KOALA_TEST_LIBRARY: "emu", KOALA_NCCL: fake };

/** A name of ranks that meet by NCCL's id, and over shared memory besides. */
function ncclName({ controlled = true } = {}): string {
  const id = Buffer.alloc(128);
  id.write(`/koala-fake-nccl-${crypto.randomUUID()}`);
  return `nccl:${id.toString("hex")}${controlled ? freshName() : ""}`;
}

describe.skipIf(process.arch !== "x64")("collectives of emulated GPUs (needs x86-64)", () => {
  beforeAll(async () => {
    await buildEmulator({ quiet: true });
    const flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Werror"];
    const made = Bun.spawnSync([compiler, ...flags, join(import.meta.dir, "fake_nccl.cc"), "-o", fake]);
    if (made.exitCode !== 0) throw new Error(made.stderr.toString());
  }, 10 * minutes);

  describe("ranks with memory of GPUs get the bits that ranks on the CPU get", () => {
    const transports: [string, () => RanksOptions][] = [
      ["staged through shared memory", () => ({ memory: "device", env })],
      ["staged, from the program's own memory", () => ({ env })],
      ["through NCCL", () => ({ name: ncclName(), memory: "device", env })],
      ["through NCCL alone", () => ({ name: ncclName({ controlled: false }), memory: "device", env })],
      ["of the program's own memory, beside NCCL", () => ({ name: ncclName(), env })],
    ];
    for (const [name, options] of transports) {
      test(name, () => expectSums(3, options()), minutes);
      test(`${name}, in bfloat16`, () => expectBfloat16Sums(3, options()), minutes);
    }
  });

  describe("when rank 1 is lost in the middle of NCCL's work, the others get a sentence and end", () => {
    for (const [scenario, sentence] of [
      ["death", "koala_comm_all_reduce (numbers): rank 1 has ended or closed its communicator."],
      ["abort", "koala_comm_all_reduce (numbers): rank 1 aborted."],
    ] as const)
      test(scenario, async () => {
        const reports = await runRanks(3, scenario, { name: ncclName(), memory: "device", env });
        for (const rank of [0, 2]) {
          expect(reports[rank]!.error).toBe(sentence);
          expect(reports[rank]!.waitedMs).toBeLessThan(10_000);
        }
      });

    test("alone, NCCL's time is over", async () => {
      const options: RanksOptions = { name: ncclName({ controlled: false }), memory: "device", env };
      const [waiting] = await runRanks(2, "silence", options);
      expect(waiting!.error).toBe(
        "koala_comm_all_reduce (numbers): not over within 0.5 seconds; another rank is gone or hangs.",
      );
    });
  });

  test("an error of NCCL is told in its words, and takes the other ranks along", async () => {
    const failing = { ...env, KOALA_FAKE_NCCL_FAILS: "40" };
    const reports = await runRanks(2, "sums", { name: ncclName(), memory: "device", env: failing });
    const errors = reports.map((report) => report!.error);
    expect(errors.join(" ")).toContain("NCCL failed: remote process exited. the fake was told to");
    expect(errors).not.toContain(null);
  });

  describe("a rank offers", () => {
    const offerWith = async (more: Record<string, string>) => {
      const script = join(import.meta.dir, "comm_rank.ts");
      const child = Bun.spawn([process.execPath, script, "-", "0", "1", "offer"], {
        env: { ...process.env, ...env, ...more },
        stderr: "pipe",
      });
      return JSON.parse(await new Response(child.stdout).text()) as Record<string, string>;
    };

    test("NCCL's version, its GPU and an id that is never the same", async () => {
      const [first, second] = [await offerWith({}), await offerWith({})];
      expect(first).toMatchObject({ nccl: "2.30.7", name: expect.stringMatching(/^nccl:[0-9a-f]{256}$/) });
      expect(first.device).not.toBe("");
      expect(first.name).not.toBe(second.name);
    });

    test("the NCCL of a folder in KOALA_CUDA_LIBS, where no file is named", async () => {
      const folders = `/nowhere:${dirname(fake)}`;
      expect(await offerWith({ KOALA_NCCL: "", KOALA_CUDA_LIBS: folders })).toMatchObject({ nccl: "2.30.7" });
    });

    test("nothing where NCCL is switched off or cannot be loaded", async () => {
      for (const KOALA_NCCL of ["off", "/nowhere/libnccl.so.2"])
        expect(await offerWith({ KOALA_NCCL })).toMatchObject({ nccl: "", name: "" });
    });
  });
});

const real = findCudaLibraries({
  libraries: process.env.KOALA_CUDA_LIBS,
  python: Bun.which("python3") ?? undefined,
}).find(({ name }) => name === "NCCL")?.found;

test.skipIf(!real)(
  `NCCL ${real?.version ?? "(not installed: libnccl.so.2)"} takes our prototypes without a GPU`,
  async () => {
    const { dlopen } = await import("bun:ffi");
    const { symbols } = dlopen(real!.path, {
      ncclGetVersion: { args: ["ptr"], returns: "i32" },
      ncclGetUniqueId: { args: ["ptr"], returns: "i32" },
    });
    const version = new Int32Array(1);
    expect(symbols.ncclGetVersion(ptr(version))).toBe(0);
    expect(version[0]).toBeGreaterThanOrEqual(21_400);
    const id = new Uint8Array(128);
    expect(symbols.ncclGetUniqueId(ptr(id))).toBe(0);
    expect(id.some((byte) => byte !== 0)).toBe(true);
  },
);
