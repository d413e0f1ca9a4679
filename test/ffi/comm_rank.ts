/** One rank of comm.test.ts, in a process of its own: `bun comm_rank.ts NAME RANK WORLD SCENARIO MEMORY`. Prints what it got
 *  as JSON. With MEMORY "device" the collectives get copies in the device's memory. */
import { ptr, type Pointer } from "bun:ffi";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { cstring, native, Random, Target } from "./target.ts";

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
const LARGE_SLOT = 2 ** 23;

function call(status: number): void {
  if (status !== 0) throw new Error(String(native.koala_last_error()));
}

const base64 = (array: NodeJS.TypedArray) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

const ticket = new Float64Array(1);
const ticketAt = ptr(ticket);
const label = cstring("numbers");

const onDevice = process.argv[6] === "device";
const target = import.meta.main ? Target.open({ threads: 1 }) : null;
const copies: { array: NodeJS.TypedArray; data: Pointer }[] = [];

/** Where a collective finds the numbers of an array: in it, or in a copy on the device. */
function at(array: NodeJS.TypedArray): Pointer {
  if (!onDevice || target === null) return ptr(array);
  const data = target.allocate(array.byteLength);
  call(native.koala_memory_copy(target.device, data, ptr(array), array.byteLength));
  copies.push({ array, data });
  return data;
}

/** Waits for the collective that `status` is of, and brings back what it made. */
function over(comm: Pointer, status: number): void {
  call(status);
  call(native.koala_comm_wait(comm, ticket[0]!));
  fetchCopies();
}

function fetchCopies(): void {
  for (const { array, data } of copies.splice(0)) {
    call(native.koala_memory_copy(target!.device, ptr(array), data, array.byteLength));
    call(native.koala_memory_free(target!.device, data, array.byteLength));
  }
}

function allReduce(comm: Pointer, x: Float32Array | Float64Array, n = x.length, timeout = LONG): void {
  const type = x instanceof Float64Array ? dtypeCode.f64 : dtypeCode.f32;
  over(comm, native.koala_comm_all_reduce(comm, ticketAt, at(x), n, type, label, timeout));
}

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
      allReduce(comm, sum);
      results[`all_reduce ${type} ${n}`] = base64(sum);
      const part = new Numbers(n);
      const scatter = (out: Float32Array | Float64Array, add: 0 | 1) =>
        native.koala_comm_reduce_scatter(
          comm,
          ticketAt,
          at(out),
          at(mine),
          mine.length,
          add,
          dtypeCode[type],
          label,
          LONG,
        );
      over(comm, scatter(part, 0));
      results[`reduce_scatter ${type} ${n}`] = base64(part);
      const added = Numbers.from(contribution(100 + rank, n));
      over(comm, scatter(added, 1));
      results[`reduce_scatter added ${type} ${n}`] = base64(added);
      const all = new Numbers(n * world);
      over(
        comm,
        native.koala_comm_all_gather(comm, ticketAt, at(all), at(part), part.byteLength, label, LONG),
      );
      results[`all_gather ${type} ${n}`] = base64(all);
      const root = n % world;
      const copy = mine.slice();
      over(comm, native.koala_comm_broadcast(comm, ticketAt, at(copy), copy.byteLength, root, label, LONG));
      results[`broadcast ${type} ${n}`] = base64(copy);
      over(comm, native.koala_comm_barrier(comm, ticketAt, label, LONG));
    }
  return results;
}

/** Sums in bfloat16: of bfloat16, and of float32 added one rank after another. */
function collectBfloat16(comm: Pointer, rank: number, world: number): Record<string, string> {
  const results: Record<string, string> = {};
  for (const n of SIZES) {
    const mine = Float32Array.from(contribution(rank, n * world));
    const bits = toBfloat16(mine);
    over(
      comm,
      native.koala_comm_all_reduce(comm, ticketAt, at(bits), bits.length, dtypeCode.bf16, label, LONG),
    );
    results[`all_reduce ${n}`] = base64(bits);
    const added = toBfloat16(Float32Array.from(contribution(100 + rank, n)));
    const type = dtypeCode.f32;
    over(
      comm,
      native.koala_comm_reduce_scatter(
        comm,
        ticketAt,
        at(added),
        at(mine),
        mine.length,
        2,
        type,
        label,
        LONG,
      ),
    );
    results[`reduce_scatter added ${n}`] = base64(added);
  }
  return results;
}

/** The nearer of the two bfloat16 neighbours, the even one where both are as near. */
export function toBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.slice().buffer);
  const near = Uint32Array.from(bits, (word) => word - (word % 65536));
  const far = Uint32Array.from(near, (word) => word + 65536);
  const [toNear, toFar] = [new Float32Array(near.buffer), new Float32Array(far.buffer)];
  return Uint16Array.from(bits, (_, i) => {
    const difference = Math.abs(values[i]! - toNear[i]!) - Math.abs(values[i]! - toFar[i]!);
    const low = near[i]! / 65536;
    return difference < 0 || (difference === 0 && low % 2 === 0) ? low : low + 1;
  });
}

export const fromBfloat16 = (bits: Uint16Array): Float32Array =>
  new Float32Array(Uint32Array.from(bits, (word) => word * 65536).buffer);

/** Small and large sums of the device's memory by turns with those of the program's: how many are wrong. */
function takeTurns(comm: Pointer, rank: number, world: number): Record<string, string> {
  let wrong = 0;
  for (const n of [7, 70_001, 7, 7, 130_000, 70_001, 7]) {
    const inMemory = new Float32Array(n).fill(rank + 1);
    const onDevice = new Float32Array(n).fill(10 * (rank + 1));
    const type = dtypeCode.f32;
    if (n % 2 === 1) {
      call(native.koala_comm_all_reduce(comm, ticketAt, ptr(inMemory), n, type, label, LONG));
      call(native.koala_comm_wait(comm, ticket[0]!));
    }
    allReduce(comm, onDevice);
    const sum = (world * (world + 1)) / 2;
    wrong += onDevice.filter((x) => x !== 10 * sum).length;
    if (n % 2 === 1) wrong += inMemory.filter((x) => x !== sum).length;
  }
  return { wrong: String(wrong) };
}

/** A large broadcast in one piece, after which its root closes at once: whether bytes are wrong. */
function hurry(comm: Pointer, rank: number): Record<string, string> {
  const all = new Uint8Array(2 * LARGE_SLOT).fill(rank + 1);
  call(native.koala_comm_broadcast(comm, ticketAt, at(all), all.length, 0, label, LONG));
  call(native.koala_comm_wait(comm, ticket[0]!));
  call(native.koala_comm_close(comm));
  fetchCopies();
  return { wrong: Buffer.alloc(all.length, 1).equals(all) ? "no" : "some" };
}

/** Waits for the others where one of them never comes; rank 1 is that one. */
async function misbehave(comm: Pointer, rank: number, scenario: string): Promise<void> {
  const x = new Float32Array(50_000).fill(rank);
  allReduce(comm, x);
  if (rank === 1) {
    await Bun.sleep(300);
    if (scenario === "death") process.kill(process.pid, "SIGKILL");
    if (scenario === "abort") call(native.koala_comm_abort(comm));
    if (scenario === "close") {
      call(native.koala_comm_close(comm));
      return;
    }
    if (scenario === "mismatch") allReduce(comm, x, x.length - 1);
    if (scenario === "silence") await Bun.sleep(700);
  }
  allReduce(comm, x, x.length, scenario === "silence" ? 0.5 : LONG);
}

if (import.meta.main) {
  const [name = "", rank = 0, world = 1, scenario = ""] = [
    process.argv[2],
    Number(process.argv[3]),
    Number(process.argv[4]),
    process.argv[5],
  ];
  const out = new BigUint64Array(1);
  if (scenario === "offer") {
    const text = new Uint8Array(1024);
    call(native.koala_comm_offer(target!.device, ptr(text), text.length));
    console.log(Buffer.from(text.subarray(0, text.indexOf(0))).toString());
    process.exit(0);
  }
  const slot = scenario === "hurry" ? LARGE_SLOT : SLOT;
  const report: RankReport = { results: {}, error: null, waitedMs: 0 };
  const start = performance.now();
  try {
    call(native.koala_comm_open(ptr(out), target!.device, cstring(name), rank, world, slot, LONG));
    const comm = Number(out[0]) as Pointer;
    if (scenario === "sums") report.results = collect(comm, rank, world);
    else if (scenario === "hurry") report.results = hurry(comm, rank);
    else if (scenario === "turns") report.results = takeTurns(comm, rank, world);
    else if (scenario === "bfloat16") report.results = collectBfloat16(comm, rank, world);
    else await misbehave(comm, rank, scenario);
    const closed = scenario === "hurry" || (scenario === "close" && rank === 1);
    if (!closed) call(native.koala_comm_close(comm));
  } catch (error) {
    report.error = error instanceof Error ? error.message : String(error);
  }
  report.waitedMs = performance.now() - start;
  console.log(JSON.stringify(report));
}
