/** One rank of comm.test.ts, in a process of its own: `bun comm_rank.ts NAME RANK WORLD SCENARIO`. Prints what it got as JSON. */
import { ptr, type Pointer } from "bun:ffi";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { cstring, native, Random } from "./target.ts";

/** Bytes of a staging slot: the smallest, so that a few ten thousand numbers need several pieces. */
export const SLOT = 65536;
export const SIZES = [1, 12, 1000, 40_008];

/** What rank `rank` brings to the collectives of size n. */
export function contribution(rank: number, n: number): Float64Array {
  return new Random(rank * 1000 + n).normals(n, 10 ** (rank % 3));
}

export interface RankReport {
  /** Bytes of each result as base64, by collective and size. */
  results: Record<string, string>;
  error: string | null;
  /** How long the collective that failed had waited. */
  waitedMs: number;
}

const LONG = 30;

function call(status: number): void {
  if (status !== 0) throw new Error(String(native.koala_last_error()));
}

const base64 = (array: NodeJS.TypedArray) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

/** Every collective at every size. */
function collect(comm: Pointer, rank: number, world: number): Record<string, string> {
  const results: Record<string, string> = {};
  for (const n of SIZES)
    for (const [type, Numbers] of [
      ["f32", Float32Array],
      ["f64", Float64Array],
    ] as const) {
      const mine = Numbers.from(contribution(rank, n * world));
      const sum = mine.slice();
      call(native.koala_comm_all_reduce(comm, ptr(sum), sum.length, dtypeCode[type], LONG));
      results[`all_reduce ${type} ${n}`] = base64(sum);
      const part = new Numbers(n);
      call(
        native.koala_comm_reduce_scatter(comm, ptr(part), ptr(mine), mine.length, 0, dtypeCode[type], LONG),
      );
      results[`reduce_scatter ${type} ${n}`] = base64(part);
      const added = Numbers.from(contribution(100 + rank, n));
      call(
        native.koala_comm_reduce_scatter(comm, ptr(added), ptr(mine), mine.length, 1, dtypeCode[type], LONG),
      );
      results[`reduce_scatter added ${type} ${n}`] = base64(added);
      const all = new Numbers(n * world);
      call(native.koala_comm_all_gather(comm, ptr(all), ptr(part), part.byteLength, LONG));
      results[`all_gather ${type} ${n}`] = base64(all);
      const root = n % world;
      const copy = mine.slice();
      call(native.koala_comm_broadcast(comm, ptr(copy), copy.byteLength, root, LONG));
      results[`broadcast ${type} ${n}`] = base64(copy);
      call(native.koala_comm_barrier(comm, LONG));
    }
  return results;
}

/** Waits for the others where one of them never comes; rank 1 is that one. */
async function misbehave(comm: Pointer, rank: number, scenario: string): Promise<void> {
  const x = new Float32Array(50_000).fill(rank);
  call(native.koala_comm_all_reduce(comm, ptr(x), x.length, dtypeCode.f32, LONG));
  if (rank === 1) {
    await Bun.sleep(300);
    if (scenario === "death") process.kill(process.pid, "SIGKILL");
    if (scenario === "abort") call(native.koala_comm_abort(comm));
    if (scenario === "close") {
      call(native.koala_comm_close(comm));
      return;
    }
    if (scenario === "mismatch")
      call(native.koala_comm_all_reduce(comm, ptr(x), x.length - 1, dtypeCode.f32, LONG));
    if (scenario === "silence") await Bun.sleep(700);
  }
  call(
    native.koala_comm_all_reduce(comm, ptr(x), x.length, dtypeCode.f32, scenario === "silence" ? 0.5 : LONG),
  );
}

if (import.meta.main) {
  const [name = "", rank = 0, world = 1, scenario = ""] = [
    process.argv[2],
    Number(process.argv[3]),
    Number(process.argv[4]),
    process.argv[5],
  ];
  const out = new BigUint64Array(1);
  call(native.koala_comm_open(ptr(out), cstring(name), rank, world, SLOT, LONG));
  const comm = Number(out[0]) as Pointer;
  const report: RankReport = { results: {}, error: null, waitedMs: 0 };
  const start = performance.now();
  try {
    if (scenario === "sums") report.results = collect(comm, rank, world);
    else await misbehave(comm, rank, scenario);
    if (scenario !== "close" || rank !== 1) call(native.koala_comm_close(comm));
  } catch (error) {
    report.error = error instanceof Error ? error.message : String(error);
  }
  report.waitedMs = performance.now() - start;
  console.log(JSON.stringify(report));
}
