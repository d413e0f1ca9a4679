/** Starts the ranks of a test of collectives, and compares what they got with sums in rank order. */
import { expect } from "bun:test";
import { join } from "node:path";
import { contribution, fromBfloat16, SIZES, toBfloat16, type RankReport } from "./comm_rank.ts";

export const freshName = () => `/koala-test-${crypto.randomUUID()}`;

export interface RanksOptions {
  name?: string;
  /** What the collectives get: arrays of the program, or the device's memory. */
  memory?: "host" | "device";
  env?: Record<string, string>;
  /** Of one rank. */
  envOf?: (rank: number) => Record<string, string>;
}

/** Starts the ranks of a world and returns their reports; null for one that was killed. */
export async function runRanks(
  world: number,
  scenario: string,
  { name = freshName(), memory = "host", env = {}, envOf = () => ({}) }: RanksOptions = {},
): Promise<(RankReport | null)[]> {
  const script = join(import.meta.dir, "comm_rank.ts");
  const ranks = Array.from({ length: world }, (_, rank) =>
    Bun.spawn([process.execPath, script, name, `${rank}`, `${world}`, scenario, memory], {
      env: { ...process.env, ...env, ...envOf(rank) },
      stdout: "pipe",
      stderr: "pipe",
    }),
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

/** Every collective of float32 and float64 gave every rank what the formulas say, bit for bit. */
export async function expectSums(world: number, options: RanksOptions = {}): Promise<void> {
  const reports = await runRanks(world, "sums", options);
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
        expect(got[`reduce_scatter ${type} ${n}`] === base64(sum.slice(rank * n, (rank + 1) * n))).toBe(true);
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
}

/** Sums in bfloat16 are rounded once, those that are added to after every rank. */
export async function expectBfloat16Sums(world: number, options: RanksOptions = {}): Promise<void> {
  const reports = await runRanks(world, "bfloat16", options);
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
}
