/** Ranks in processes of their own: sums in rank order, bit for bit, and an error instead of a hang when one is lost. */
import { describe, expect, test } from "bun:test";
import { ptr } from "bun:ffi";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { contribution, fromBfloat16, SIZES, SLOT, toBfloat16, type RankReport } from "./comm_rank.ts";
import { cstring, native } from "./target.ts";

const freshName = () => `/koala-test-${crypto.randomUUID()}`;

/** Starts the ranks of a world and returns their reports; null for one that was killed. */
async function runRanks(world: number, scenario: string, name = freshName()): Promise<(RankReport | null)[]> {
  const ranks = Array.from({ length: world }, (_, rank) =>
    Bun.spawn(
      [process.execPath, join(import.meta.dir, "comm_rank.ts"), name, `${rank}`, `${world}`, scenario],
      { stdout: "pipe", stderr: "pipe" },
    ),
  );
  return Promise.all(
    ranks.map(async (child) => {
      const [text, errors] = [
        await new Response(child.stdout).text(),
        await new Response(child.stderr).text(),
      ];
      await child.exited;
      if (child.signalCode) return null;
      if (!text) throw new Error(errors);
      return JSON.parse(text) as RankReport;
    }),
  );
}

/** The sum over ranks 0, 1, 2 ... with a rounding after each. */
function rankSum(world: number, n: number, Numbers: typeof Float32Array | typeof Float64Array) {
  const sum = Numbers.from(contribution(0, n));
  for (let rank = 1; rank < world; rank++) {
    const next = Numbers.from(contribution(rank, n));
    for (let i = 0; i < n; i++) sum[i]! += next[i]!;
  }
  return sum;
}

const base64 = (array: NodeJS.TypedArray) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

for (const world of [1, 2, 4])
  test(`${world} ranks get the same sums in rank order, bit for bit`, async () => {
    const reports = await runRanks(world, "sums");
    for (const n of SIZES)
      for (const [type, Numbers] of [
        ["f32", Float32Array],
        ["f64", Float64Array],
      ] as const) {
        const sum = rankSum(world, n * world, Numbers);
        const root = Numbers.from(contribution(n % world, n * world));
        reports.forEach((report, rank) => {
          expect(report?.error).toBeNull();
          const got = report!.results;
          expect(got[`all_reduce ${type} ${n}`] === base64(sum)).toBe(true);
          expect(got[`reduce_scatter ${type} ${n}`] === base64(sum.slice(rank * n, (rank + 1) * n))).toBe(
            true,
          );
          const added = Numbers.from(contribution(100 + rank, n));
          for (let from = 0; from < world; from++) {
            const brought = Numbers.from(contribution(from, n * world));
            for (let i = 0; i < n; i++) added[i]! += brought[rank * n + i]!;
          }
          expect(got[`reduce_scatter added ${type} ${n}`] === base64(added)).toBe(true);
          expect(got[`all_gather ${type} ${n}`] === base64(sum)).toBe(true);
          expect(got[`broadcast ${type} ${n}`] === base64(root)).toBe(true);
        });
      }
  });

test("sums in bfloat16 are rounded once, those that are added to after every rank", async () => {
  const world = 3;
  const reports = await runRanks(world, "bfloat16");
  for (const n of SIZES) {
    const brought = Array.from({ length: world }, (_, rank) =>
      Float32Array.from(contribution(rank, n * world)),
    );
    const sum = fromBfloat16(toBfloat16(brought[0]!));
    for (const next of brought.slice(1))
      fromBfloat16(toBfloat16(next)).forEach((value, i) => (sum[i]! += value));
    reports.forEach((report, rank) => {
      expect(report?.error).toBeNull();
      expect(report!.results[`all_reduce ${n}`] === base64(toBfloat16(sum))).toBe(true);
      let added = toBfloat16(Float32Array.from(contribution(100 + rank, n)));
      for (const next of brought)
        added = toBfloat16(fromBfloat16(added).map((value, i) => value + next[rank * n + i]!));
      expect(report!.results[`reduce_scatter added ${n}`] === base64(added)).toBe(true);
    });
  }
});

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
  const open = (name: string, rank: number, world: number, bytes = SLOT, timeout = 0.2) =>
    native.koala_comm_open(ptr(out), cstring(name), rank, world, bytes, timeout);
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
