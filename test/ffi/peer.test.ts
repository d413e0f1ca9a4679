/** Collectives of GPUs that read each other's memory, emulated: ranks of one GPU, and of several that are peers.
 *  KOALA_TEST_LIBRARY names another library of GPUs to ask: a mutation of the emulator, or cuda. */
import { beforeAll, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { buildEmulator } from "../../ffi/build_gpu.ts";
import { expectBfloat16Sums, expectSums, freshName, type RanksOptions, runRanks } from "./comm_ranks.ts";

const minutes = 60_000;
const given = process.env.KOALA_TEST_LIBRARY;
const library = given && given !== "cpu" ? given : "emu";
const emulated = library !== "cuda";

/** All ranks on one GPU, unless `gpus` names one for each and says which others it sees. */
const ranks = (changes: Partial<RanksOptions> & { seen?: string } = {}): RanksOptions => ({
  name: `peer:${freshName()}`,
  memory: "device",
  env: { KOALA_TEST_LIBRARY: library, KOALA_EMULATOR_GPU: "one" },
  ...changes,
});
const objects = (): string[] => readdirSync("/dev/shm").filter((name) => name.startsWith("koala-test-"));

describe.skipIf(process.arch !== "x64" && emulated)("ranks that read each other's memory (x86-64)", () => {
  beforeAll(async () => {
    if (library === "emu") await buildEmulator({ quiet: true });
  }, 10 * minutes);

  for (const world of [2, 4])
    test(
      `${world} on one GPU get the sums in rank order, bit for bit`,
      () => expectSums(world, ranks()),
      minutes,
    );

  test(
    "3, which share no size evenly, get bfloat16 sums rounded as often as on the CPU",
    async () => {
      await expectBfloat16Sums(3, ranks());
    },
    minutes,
  );

  test("memory of the program goes beside it", () => expectSums(2, ranks({ memory: "host" })), minutes);

  test(
    "pieces of memory of the GPU and of the program take turns",
    async () => {
      const reports = await runRanks(3, "turns", ranks());
      expect(reports.map((report) => report?.error)).toEqual([null, null, null]);
      for (const report of reports) expect(report?.results).toEqual({ wrong: "0" });
    },
    minutes,
  );

  test(
    "no slot is freed while another rank still reads it",
    async () => {
      const reports = await runRanks(4, "hurry", ranks());
      for (const report of reports) expect(report).toMatchObject({ error: null, results: { wrong: "no" } });
    },
    minutes,
  );

  describe("when rank 1 is lost, every other rank gets a sentence at once", () => {
    for (const [scenario, sentence] of [
      ["death", "koala_comm_all_reduce (numbers): rank 1 has ended or closed its communicator."],
      ["close", "koala_comm_all_reduce (numbers): rank 1 has ended or closed its communicator."],
      ["abort", "koala_comm_all_reduce (numbers): rank 1 aborted."],
    ] as const)
      test(scenario, async () => {
        const before = objects();
        const reports = await runRanks(3, scenario, ranks());
        for (const rank of [0, 2]) {
          expect(reports[rank]!.error).toBe(sentence);
          expect(reports[rank]!.waitedMs).toBeLessThan(5000);
        }
        expect(objects().filter((name) => !before.includes(name))).toEqual([]);
      });
  });

  test("different calls, and a rank that stays away, are told", async () => {
    const [different, [waiting, late]] = await Promise.all([
      runRanks(2, "mismatch", ranks()),
      runRanks(2, "silence", ranks()),
    ]);
    const errors = different.map((report) => report!.error);
    expect(errors).toContain(
      "koala_comm_all_reduce (numbers): rank 0 calls all_reduce (numbers) of 50000 (type or root 0), but rank 1 calls all_reduce (numbers) of 49999 (type or root 0).",
    );
    expect(errors).not.toContain(null);
    expect(waiting!.error).toBe("koala_comm_all_reduce (numbers): rank 1 did not come within 0.5 seconds.");
    expect(late!.error).toBe("koala_comm_all_reduce (numbers): rank 0 aborted.");
  });

  describe.skipIf(!emulated)("on several GPUs (emulated)", () => {
    /** Rank r has the GPU r, and sees the others as `peers` of a rank says. */
    const several = (world: number, peers: (rank: number) => string) =>
      ranks({
        envOf: (rank) => ({ KOALA_EMULATOR_GPU: `gpu${rank}`, KOALA_EMULATOR_PEERS: peers(rank) }),
        name: `peer:/koala-test-${crypto.randomUUID()}`,
      });
    const others = (world: number, rank: number) =>
      Array.from({ length: world }, (_, r) => `gpu${r}`).filter((name) => name !== `gpu${rank}`);

    test(
      "that are peers, the bits are the same",
      () =>
        expectBfloat16Sums(
          3,
          several(3, (rank) => others(3, rank).join(",")),
        ),
      minutes,
    );

    test("that are none, all are told at once who cannot read whom", async () => {
      const seen = (rank: number) => (rank === 1 ? "-gpu0" : "gpu1");
      const blind = await openingErrors(several(2, seen));
      const sentence =
        "koala_comm_open: rank 1: The GPU emulated:gpu1 does not read the memory of the GPU emulated:gpu0 of rank 0: they are no peers. KOALA_COMM=memory goes through the host's memory.";
      expect(blind).toEqual([sentence, sentence]);
      const hidden = await openingErrors(several(2, (rank) => (rank === 1 ? "gpu0" : "")));
      expect(hidden[0]).toMatch(
        /^koala_comm_open: rank 0: The GPU emulated:gpu1 of rank 1 is hidden from this process/,
      );
    });

    test("each offers the names of those that it reads", async () => {
      const [offer] = await runRanks(
        1,
        "offer",
        several(1, () => "gpu7,-gpu8"),
      );
      expect(offer).toMatchObject({ device: "emulated:gpu0", peers: ["emulated:gpu0", "emulated:gpu7"] });
    });
  });
});

const openingErrors = async (options: RanksOptions): Promise<string[]> =>
  (await runRanks(2, "sums", options)).map((report) => report?.error ?? "");
