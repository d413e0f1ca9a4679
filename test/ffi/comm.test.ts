/** Ranks in processes of their own: sums in rank order, bit for bit, and an error instead of a hang when one is lost. */
import { describe, expect, test } from "bun:test";
import { ptr } from "bun:ffi";
import { existsSync } from "node:fs";
import { SLOT } from "./comm_rank.ts";
import { expectBfloat16Sums, expectSums, freshName, runRanks } from "./comm_ranks.ts";
import { cstring, native, Target } from "./target.ts";

for (const world of [1, 2, 4])
  test(`${world} ranks get the same sums in rank order, bit for bit`, () => expectSums(world));

test("sums in bfloat16 are rounded once, those that are added to after every rank", () =>
  expectBfloat16Sums(3));

describe("when rank 1 is lost, every other rank gets a sentence at once and does not wait for its timeout", () => {
  for (const [scenario, sentence] of [
    ["death", "koala_comm_all_reduce (numbers): rank 1 has ended or closed its communicator."],
    ["close", "koala_comm_all_reduce (numbers): rank 1 has ended or closed its communicator."],
    ["abort", "koala_comm_all_reduce (numbers): rank 1 aborted."],
  ] as const)
    test(scenario, async () => {
      const reports = await runRanks(3, scenario);
      for (const rank of [0, 2]) {
        expect(reports[rank]!.error).toBe(sentence);
        expect(reports[rank]!.waitedMs).toBeLessThan(5000);
      }
      if (scenario === "death") expect(reports[1]).toBeNull();
      if (scenario === "abort") expect(reports[1]!.error).toBe(sentence);
    });
});

test("ranks that call different collectives are told so", async () => {
  const errors = (await runRanks(2, "mismatch")).map((report) => report!.error);
  expect(errors).toContain(
    "koala_comm_all_reduce (numbers): rank 0 calls all_reduce (numbers) of 50000 (type or root 0), but rank 1 calls all_reduce (numbers) of 49999 (type or root 0).",
  );
  expect(errors).not.toContain(null);
});

test("a rank that stays away is named when the time is over, and finds the others gone when it comes", async () => {
  const [waiting, late] = await runRanks(2, "silence");
  expect(waiting!.error).toBe("koala_comm_all_reduce (numbers): rank 1 did not come within 0.5 seconds.");
  expect(late!.error).toBe("koala_comm_all_reduce (numbers): rank 0 aborted.");
});

describe("opening", () => {
  const out = new BigUint64Array(1);
  const { device } = Target.open({ threads: 1 });
  const open = (name: string, rank: number, world: number, bytes = SLOT, timeout = 0.2) =>
    native.koala_comm_open(ptr(out), device, cstring(name), rank, world, bytes, timeout);
  const error = () => String(native.koala_last_error());

  test("names the rank that is missing and leaves no object behind", () => {
    const name = freshName();
    expect(open(name, 0, 2)).toBe(-1);
    expect(error()).toBe("koala_comm_open: rank 1 did not come within 0.2 seconds.");
    expect(existsSync(`/dev/shm${name}`)).toBe(false);
    expect(open(name, 0, 1)).toBe(0);
    expect(existsSync(`/dev/shm${name}`)).toBe(false);
    expect(native.koala_comm_close(Number(out[0]) as never)).toBe(0);
  });

  test("refuses what cannot be", () => {
    for (const [status, sentence] of [
      [() => open("koala", 0, 1), /"koala" is no name of a shared memory object/],
      [() => open(freshName(), 2, 2), /rank 2 is not one of 2 ranks\./],
      [() => open(freshName(), 0, 65), /65 ranks were asked for; 1 to 64 are possible\./],
      [() => open(freshName(), 0, 1, 100), /a staging slot of 100 bytes; it must have at least 65536\./],
    ] as const) {
      expect(status()).toBe(-1);
      expect(error()).toMatch(sentence);
    }
  });
});
