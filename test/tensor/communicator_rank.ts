/** One rank of communicator.test.ts: `bun communicator_rank.ts KIND NAME RANK WORLD SCENARIO`. Prints what it got as JSON. */
import { existsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Arena } from "../../src/tensor/arena.ts";
import { CollectiveError, type Communicator, SoloCommunicator } from "../../src/tensor/communicator.ts";
import { Device } from "../../src/tensor/device.ts";
import { libraryPath } from "../../src/tensor/library.ts";
import { joinSharedMemory } from "../../src/tensor/shared_memory.ts";

export interface Collected {
  allReduce: number[];
  reduceScatter: number[];
  inPlace: number[];
  added: number[];
  allGather: number[];
  gatheredInPlace: number[];
  broadcast: number[];
  exchange: number[];
  /** What onWait was told. */
  waits: (string | null)[];
}

/** What rank `rank` brings: whole numbers, whose sums are exact. */
export const brought = (rank: number, n: number): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => 100 * (rank + 1) + i);

const of = "test numbers";

function collect(communicator: Communicator, device: Device, waits: (string | null)[]): Collected {
  const { rank, world } = communicator;
  const n = 4 * world;
  const about = { of, after: device.workSoFar() };
  const arena = new Arena(device, "test", 1 << 16);
  const filled = (values: Float32Array) => {
    const tensor = arena.tensor([values.length], "f32");
    device.upload(tensor, values);
    return tensor;
  };
  const whole = () => filled(brought(rank, n));
  const numbers = (tensor: ReturnType<typeof filled>) => Array.from(device.download(tensor));

  const reduced = whole();
  communicator.allReduce(reduced, about).wait();
  const part = arena.tensor([4], "f32");
  communicator.reduceScatter(part, whole(), about).wait();
  const mixed = whole();
  communicator.reduceScatter(mixed.rows(4, 4 * rank), mixed, about).wait();
  const sum = filled(brought(rank, 4));
  communicator.reduceScatterAdd(sum, whole(), about).wait();
  const gathered = arena.tensor([n], "f32");
  communicator.allGather(gathered, filled(brought(rank, 4)), about).wait();
  const own = whole();
  communicator.allGather(own, own.rows(4, 4 * rank), about).wait();
  const last = filled(brought(rank, 4));
  communicator.broadcast(last, world - 1, about).wait();
  communicator.barrier({ of });
  return {
    allReduce: numbers(reduced),
    reduceScatter: numbers(part),
    inPlace: numbers(mixed.rows(4, 4 * rank)),
    added: numbers(sum),
    allGather: numbers(gathered),
    gatheredInPlace: numbers(own),
    broadcast: numbers(last),
    exchange: Array.from(communicator.exchange(Float64Array.of(rank + 0.5), { of })),
    waits,
  };
}

export interface Overlapped {
  /** Collectives that were over when rank 0 had computed. */
  over: number;
  computed: number[];
  reduced: number[];
  /** Of a second collective, which was over before anyone waited for it. */
  tookTime: boolean;
  waitedMs: number;
}

/** Rank 1 takes part in a collective only when rank 0 says that it has computed after starting it. */
function overlap(communicator: Communicator, device: Device, flag: string): Overlapped | null {
  const arena = new Arena(device, "test", 1 << 14);
  const [x, y] = [arena.tensor([64], "f32"), arena.tensor([64], "f32")];
  device.upload(x, brought(communicator.rank, 64));
  if (communicator.rank === 1) while (!existsSync(flag)) Bun.sleepSync(2);
  const event = communicator.allReduce(x, { of, after: device.workSoFar() });
  device.upload(y, brought(7, 64));
  const over = communicator.statistics().collectives;
  writeFileSync(flag, "");
  event.wait();
  const numbers = (tensor: typeof x) => Array.from(device.download(tensor));
  const [computed, reduced] = [numbers(y), numbers(x)];
  const before = communicator.statistics();
  const second = communicator.allReduce(x, { of, after: event });
  while (communicator.statistics().collectives < 2) Bun.sleepSync(1);
  second.wait();
  const after = communicator.statistics();
  if (communicator.rank === 1) return null;
  const waitedMs = after.waitedMs - before.waitedMs;
  return { over, computed, reduced, tookTime: after.busyMs > before.busyMs, waitedMs };
}

/** Rank 0 waits for a rank that has gone; what it is told. */
function lose(communicator: Communicator, device: Device): string {
  if (communicator.rank > 0) process.kill(process.pid, "SIGKILL");
  const tensor = new Arena(device, "test", 4096).tensor([64], "f32");
  try {
    communicator.allReduce(tensor, { of: "gradient of layer 3, step 7", after: device.workSoFar() }).wait();
    return "no error";
  } catch (error) {
    return error instanceof CollectiveError ? error.message : `${String(error)} is no CollectiveError`;
  }
}

if (import.meta.main) {
  const [kind, name = "", rank, world, scenario] = process.argv.slice(2);
  const device = Device.open(libraryPath("cpu"), { threads: 1 });
  const waits: (string | null)[] = [];
  const place = { name, rank: Number(rank), world: Number(world), timeoutSeconds: 20 };
  const communicator =
    kind === "solo"
      ? new SoloCommunicator(device)
      : joinSharedMemory(device, { ...place, onWait: (now) => waits.push(now) });
  const result =
    scenario === "lose"
      ? lose(communicator, device)
      : scenario === "overlap"
        ? overlap(communicator, device, join(tmpdir(), name))
        : collect(communicator, device, waits);
  console.log(JSON.stringify(result));
}
