import { describe, expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { Arena } from "../../src/tensor/arena.ts";
import { SoloCommunicator } from "../../src/tensor/communicator.ts";
import { Device, QueuedWork } from "../../src/tensor/device.ts";
import { libraryPath } from "../../src/tensor/library.ts";
import { joinSharedMemory } from "../../src/tensor/shared_memory.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { brought, type Collected, type Overlapped } from "./communicator_rank.ts";

/** Starts the ranks; what each printed, null for one that was killed. */
async function ranks<Result>(kind: string, world: number, scenario: string): Promise<(Result | null)[]> {
  const name = `/koala-test-${crypto.randomUUID()}`;
  const script = join(import.meta.dir, "communicator_rank.ts");
  const children = Array.from({ length: world }, (_, rank) =>
    Bun.spawn([process.execPath, script, kind, name, String(rank), String(world), scenario], {
      stdio: ["ignore", "pipe", "inherit"],
    }),
  );
  return Promise.all(
    children.map(async ({ stdout, exited }) => {
      const text = await new Response(stdout).text();
      await exited;
      return text === "" ? null : (JSON.parse(text) as Result);
    }),
  );
}

test.each([
  ["solo", 1],
  ["shared memory", 1],
  ["shared memory", 3],
])("a communicator of kind %s and %i ranks gives every rank what the formulas say", async (kind, world) => {
  const results = await ranks<Collected>(kind, world, "collect");
  const each = Array.from({ length: world }, (_, rank) => rank);
  const sum = brought(0, 4 * world).map((_, i) =>
    each.reduce((total, rank) => total + brought(rank, 4 * world)[i]!, 0),
  );
  const pieces = each.flatMap((rank) => [...brought(rank, 4)]);
  results.forEach((got, rank) => {
    const part = sum.subarray(4 * rank, 4 * rank + 4);
    expect(got).toMatchObject({
      allReduce: [...sum],
      reduceScatter: [...part],
      inPlace: [...part],
      added: Array.from(part, (value, i) => value + brought(rank, 4)[i]!),
      allGather: pieces,
      gatheredInPlace: each.flatMap((other) => [
        ...brought(other, 4 * world).subarray(4 * other, 4 * other + 4),
      ]),
      broadcast: [...brought(world - 1, 4)],
      exchange: each.map((other) => other + 0.5),
    });
    // Each says which collective it waits for, and when it is over.
    const waited = [
      ..."all_reduce reduce_scatter reduce_scatter reduce_scatter all_gather all_gather broadcast".split(" "),
      ..."barrier all_gather".split(" "),
    ];
    expect(got?.waits).toEqual(
      kind === "solo" ? [] : waited.flatMap((collective) => [`koala_comm_${collective}`, null]),
    );
  });
});

test("a rank computes while a collective waits for the others, and is told how long it took and how long it waited", async () => {
  const [first] = await ranks<Overlapped>("shared memory", 2, "overlap");
  expect(first).toEqual({
    over: 0,
    computed: [...brought(7, 64)],
    reduced: Array.from(brought(0, 64), (value, i) => value + brought(1, 64)[i]!),
    tookTime: true,
    waitedMs: 0,
  });
});

test("a rank that is left alone is told by which, in which collective and over what", async () => {
  const [survivor, dead] = await ranks<string>("shared memory", 2, "lose");
  expect(dead).toBeNull();
  expect(survivor).toBe(
    "Rank 0 of 2: koala_comm_all_reduce (gradient of layer 3, step 7): rank 1 has ended or closed its communicator.",
  );
});

describe("what no collective can do is an error before it is tried", () => {
  const communicator = new SoloCommunicator(Device.open(libraryPath("cpu"), { threads: 1 }));
  const tensor = (size: number, dtype: "f32" | "f16") => new Tensor(0, [size], dtype);
  const of = "x";

  test("sums of float16", () => {
    expect(() => communicator.allReduce(tensor(4, "f16"))).toThrow(
      "all-reduce of f16[4]: sums are f32, bf16 or f64, of one type",
    );
  });
  test("parts that do not make the whole", () => {
    expect(() => communicator.reduceScatter(tensor(3, "f32"), tensor(4, "f32"), { of })).toThrow(
      "reduce-scatter (x) of 1 ranks: f32[3] is not a 1th part of f32[4]",
    );
    expect(() => communicator.allGather(tensor(4, "f32"), tensor(3, "f32"), { of })).toThrow("f32[3] is not");
  });
  test("a broadcast from nobody", () => {
    expect(() => communicator.broadcast(tensor(4, "f32"), 1)).toThrow("broadcast from rank 1 of 1");
  });
});

test("a collective waits on the host for another device's work, and not for its own device's, which it follows by an event", () => {
  const [device, other] = [0, 1].map(() => Device.open(libraryPath("cpu"), { threads: 1 })) as [
    Device,
    Device,
  ];
  const name = `/koala-test-${crypto.randomUUID()}`;
  const communicator = joinSharedMemory(device, { name, rank: 0, world: 1, timeoutSeconds: 5 });
  const waits = spyOn(QueuedWork.prototype, "wait");
  const arena = new Arena(device, "sum", 64);
  const x = arena.tensor([4], "f32");
  communicator.allReduce(x, { of: "own", after: new QueuedWork(device) }).wait();
  expect(waits).not.toHaveBeenCalled();
  communicator.allReduce(x, { of: "other", after: new QueuedWork(other) }).wait();
  expect(waits).toHaveBeenCalledTimes(1);
  waits.mockRestore();
  communicator.close();
  arena.close();
  for (const each of [device, other]) each.close();
});
