/** One rank of communicator.test.ts: `bun communicator_rank.ts KIND NAME RANK WORLD SCENARIO`. Prints what it got as JSON. */
import { Arena } from "../../src/tensor/arena.ts";
import {
  CollectiveError,
  type Communicator,
  joinSharedMemory,
  SoloCommunicator,
} from "../../src/tensor/communicator.ts";
import { Device } from "../../src/tensor/device.ts";
import { libraryPath } from "../../src/tensor/library.ts";

export interface Collected {
  allReduce: number[];
  reduceScatter: number[];
  inPlace: number[];
  added: number[];
  allGather: number[];
  gatheredInPlace: number[];
  broadcast: number[];
  exchange: number[];
  /** Whether onWait was told in pairs. */
  waits: boolean[];
}

/** What rank `rank` brings: whole numbers, whose sums are exact. */
export const brought = (rank: number, n: number): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => 100 * (rank + 1) + i);

const of = "test numbers";

function collect(communicator: Communicator, device: Device, waits: boolean[]): Collected {
  const { rank, world } = communicator;
  const n = 4 * world;
  const arena = new Arena(device, "test", 1 << 16);
  const filled = (values: Float32Array) => {
    const tensor = arena.tensor([values.length], "f32");
    device.upload(tensor, values);
    return tensor;
  };
  const whole = () => filled(brought(rank, n));
  const numbers = (tensor: ReturnType<typeof filled>) => Array.from(device.download(tensor));

  const reduced = whole();
  communicator.allReduce(reduced, { of }).wait();
  const part = arena.tensor([4], "f32");
  communicator.reduceScatter(part, whole(), { of }).wait();
  const mixed = whole();
  communicator.reduceScatter(mixed.rows(4, 4 * rank), mixed, { of }).wait();
  const sum = filled(brought(rank, 4));
  communicator.reduceScatterAdd(sum, whole(), { of }).wait();
  const gathered = arena.tensor([n], "f32");
  communicator.allGather(gathered, filled(brought(rank, 4)), { of }).wait();
  const own = whole();
  communicator.allGather(own, own.rows(4, 4 * rank), { of }).wait();
  const last = filled(brought(rank, 4));
  communicator.broadcast(last, world - 1, { of }).wait();
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

/** Rank 0 waits for a rank that has gone; what it is told. */
function lose(communicator: Communicator, device: Device): string {
  if (communicator.rank > 0) process.kill(process.pid, "SIGKILL");
  const tensor = new Arena(device, "test", 4096).tensor([64], "f32");
  try {
    communicator.allReduce(tensor, { of: "gradient of layer 3, step 7" });
    return "no error";
  } catch (error) {
    return error instanceof CollectiveError ? error.message : `${String(error)} is no CollectiveError`;
  }
}

if (import.meta.main) {
  const [kind, name = "", rank, world, scenario] = process.argv.slice(2);
  const device = Device.open(libraryPath("cpu"), { threads: 1 });
  const waits: boolean[] = [];
  const place = { name, rank: Number(rank), world: Number(world), timeoutSeconds: 20 };
  const communicator =
    kind === "solo"
      ? new SoloCommunicator(device)
      : joinSharedMemory(device, { ...place, onWait: (now) => waits.push(now) });
  const result = scenario === "lose" ? lose(communicator, device) : collect(communicator, device, waits);
  console.log(JSON.stringify(result));
}
