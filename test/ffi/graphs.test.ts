/** Ops recorded as a graph do, launch after launch, what the same ops do when they are called. The device is a GPU, or the
 *  emulated one, which keeps what is captured and refuses what a capture may not hold (ffi/cuda/emulator_stream.h). */
import { afterAll, describe, expect, test } from "bun:test";
import { dlopen, ptr } from "bun:ffi";
import { Arena } from "../../src/tensor/arena.ts";
import { Device } from "../../src/tensor/device.ts";
import { Graph } from "../../src/tensor/graph.ts";
import { Ops } from "../../src/tensor/ops.ts";
import { joinSharedMemory } from "../../src/tensor/shared_memory.ts";
import { cstring, type Elements, encode, library, onGpu, Random } from "./target.ts";

const [T, V, D, P, M, WIDE, heads] = [3, 40, 48, 32, 20, 1000, { H: 4, G: 2, E: 12 }];

/** A chain that needs what a decoding step needs: indices on the device, scratch of two kinds, a cache, sums in place. */
class Chain {
  readonly device: Device;
  readonly ops: Ops;
  private readonly arena: Arena;
  private readonly tensors;
  private readonly weights;
  private readonly cache;
  private readonly cached: Elements;
  private readonly wide: Arena;
  private readonly wideRows;

  constructor() {
    this.device = Device.open(library);
    this.ops = new Ops(this.device);
    const { device } = this;
    const pageBytes = device.cachePageBytes(P, heads.G, heads.E, "bf16");
    const width = (heads.H + 2 * heads.G) * heads.E;
    this.arena = new Arena(device, "chain", 2 ** 18 + 2 * M * pageBytes);
    this.wide = new Arena(device, "wide", WIDE * D * 8);
    this.wideRows = [0, 1].map(() => this.wide.tensor([WIDE, D], "f32"));
    const take = (shape: number[], dtype: "f32" | "i32" = "f32") => this.arena.tensor(shape, dtype);
    this.tensors = {
      tokens: take([T], "i32"),
      slots: take([T], "i32"),
      starts: take([T + 1], "i32"),
      lengths: take([T], "i32"),
      pages: take([T, M], "i32"),
      table: take([V, D]),
      norm: take([D]),
      x: take([T, D]),
      h: take([T, D]),
      qkv: take([T, width]),
      attended: take([T, D]),
    };
    const random = new Random(5);
    const normals = (n: number) => Float32Array.from(random.normals(n));
    device.upload(this.tensors.table, normals(V * D));
    device.upload(this.tensors.norm, normals(D));
    device.upload(this.tensors.starts, Int32Array.of(0, 1, 2, 3));
    this.weights = [width, D].map((N) => {
      const packed = this.arena.packed(N, D, "bf16");
      device.pack(packed, encode(random.normals(N * D, 0.2), "bf16"), 0, N, "bf16");
      return packed;
    });
    this.cached = encode(random.normals((M * pageBytes) / 2), "bf16");
    const part = (what: string) => this.arena.take(M * pageBytes, what);
    this.cache = { keys: part("keys"), values: part("values"), dtype: "bf16" as const };
  }

  /** What lies where the ops look: other tokens, lengths and pages for each `seed`. */
  fill(seed: number): void {
    const random = new Random(seed);
    const lengths = Int32Array.from({ length: T }, (_, s) => (s === 0 ? 1 : 520) + random.below(60));
    this.device.upload(
      this.tensors.tokens,
      Int32Array.from({ length: T }, () => random.below(V)),
    );
    this.device.upload(this.tensors.lengths, lengths);
    const pages = Int32Array.from({ length: T * M }, () => random.below(M));
    this.device.upload(this.tensors.pages, pages);
    for (const part of [this.cache.keys, this.cache.values])
      this.device.copy(part, ptr(this.cached), this.cached.byteLength);
    const slots = lengths.map((length, s) => pages[s * M + Math.floor((length - 1) / P)]! * P + s);
    this.device.upload(this.tensors.slots, slots);
  }

  readonly run = (): void => {
    const { ops, cache } = this;
    const { tokens, slots, starts, lengths, pages, table, norm, x, h, qkv, attended } = this.tensors;
    const [into, out] = this.weights;
    ops.embed(x, table, tokens);
    ops.rmsNorm(h, x, norm, 1e-5);
    ops.matmul(qkv, h, into!);
    ops.cacheWrite(cache, qkv, slots, heads, P);
    ops.attention(attended, qkv, cache, { starts, lengths, pages, pageSize: P }, heads, 0, 0.3);
    ops.matmul(x, attended, out!, null, true);
  };

  /** Hidden states after `act` on the inputs of `seed`. */
  result(seed: number, act: () => void): Float32Array {
    this.fill(seed);
    act();
    return this.device.download(this.tensors.x) as Float32Array;
  }

  /** A product whose operand takes more scratch than the chain. */
  readonly runWide = (): void => {
    const [y, x] = this.wideRows;
    this.ops.matmul(y!, x!, this.weights[1]!);
  };

  upload(token: number): void {
    this.device.upload(
      this.tensors.tokens,
      Int32Array.from({ length: T }, () => token),
    );
  }

  /** Another op that checks tokens, with a smaller vocabulary. */
  readonly embedFew = (): void =>
    this.ops.embed(this.tensors.h, this.tensors.table.rows(2), this.tensors.tokens);

  get output() {
    return this.tensors.x;
  }

  close(): void {
    this.arena.close();
    this.wide.close();
    this.device.close();
  }
}

const setenv = dlopen("libc.so.6", { setenv: { args: ["cstring", "cstring", "i32"], returns: "i32" } })
  .symbols.setenv;

describe.skipIf(!onGpu)("graphs (on a GPU or the emulated one)", () => {
  const chain = onGpu ? new Chain() : (null as never);
  const { device } = chain ?? {};
  afterAll(() => chain.close());

  test("a launch gives the bits of the calls, with inputs that changed since", () => {
    const seeds = [1, 2, 3];
    const called = seeds.map((seed) => chain.result(seed, chain.run));
    const graph = Graph.record(device, chain.run);
    for (const [i, seed] of seeds.entries())
      expect(chain.result(seed, () => graph.launch())).toEqual(called[i]!);
    expect(called[0]).not.toEqual(called[1]!);
    graph.close();
  });

  test("recording computes nothing", () => {
    chain.fill(4);
    const before = chain.result(4, chain.run);
    device.upload(chain.output, new Float32Array(T * D).fill(7));
    const graph = Graph.record(device, chain.run);
    expect(device.download(chain.output)).toEqual(new Float32Array(T * D).fill(7));
    graph.launch();
    expect(device.download(chain.output)).toEqual(before);
    graph.close();
  });

  test("a graph keeps its scratch when the device takes more, until it is closed", () => {
    const called = chain.result(5, chain.run);
    const held = device.scratchBytes;
    const [first, second] = [Graph.record(device, chain.run), Graph.record(device, chain.run)];
    chain.runWide();
    const grown = device.scratchBytes;
    expect(grown).toBeGreaterThan(3 * held);
    const third = Graph.record(device, chain.run);
    for (const graph of [first, second, third]) expect(chain.result(5, () => graph.launch())).toEqual(called);
    first.close();
    expect(device.scratchBytes).toBe(grown);
    expect(chain.result(5, () => second.launch())).toEqual(called);
    second.close();
    expect(device.scratchBytes).toBe(grown - held);
    expect(chain.result(5, () => third.launch())).toEqual(called);
    third.close();
    expect(device.scratchBytes).toBe(grown - held);
  });

  test("what cannot be recorded has its sentence, and leaves a device that works", () => {
    const called = chain.result(6, chain.run);
    const graph = Graph.record(device, chain.run);
    const host = new Float32Array(T * D);
    const communicator = joinSharedMemory(device, {
      name: `/koala-graphs-${process.pid}`,
      rank: 0,
      world: 1,
      timeoutSeconds: 5,
    });
    const refused: [() => void, RegExp][] = [
      [() => chain.fill(1), /records a graph: nothing can wait for it, or be copied to or from the host/],
      [() => device.download(chain.output), /records a graph: nothing can wait for it, or be copied/],
      [() => device.copy(ptr(host), ptr(host), 4), /records a graph: nothing can wait for it/],
      [() => device.workSoFar().wait(), /records a graph: nothing can wait for it/],
      [() => new Arena(device, "more", 64), /koala_memory_alloc: the device records a graph/],
      [() => device.free(chain.output.data, 4), /koala_memory_free: the device records a graph/],
      [
        () => communicator.barrier({ of: "step 1" }),
        /records a graph, and collectives cannot be part of one/,
      ],
      [() => graph.launch(), /koala_graph_launch: the device records a graph, which cannot hold another/],
      [() => graph.close(), /koala_graph_close: the device records a graph/],
      [() => Graph.record(device, chain.run), /koala_graph_begin: the device records a graph already/],
    ];
    for (const [act, sentence] of refused) {
      expect(() => Graph.record(device, act)).toThrow(sentence);
      expect(chain.result(6, chain.run)).toEqual(called);
    }
    expect(chain.result(6, () => graph.launch())).toEqual(called);
    graph.close();
    expect(() => graph.launch()).toThrow(/koala_graph_launch: the device has no such graph/);
    expect(() => graph.close()).toThrow(/koala_graph_close: the device has no such graph/);
    communicator.close();
  });

  test("an op that needs more scratch than there is cannot be recorded before it was called once", () => {
    const fresh = new Chain();
    expect(() => Graph.record(fresh.device, fresh.runWide)).toThrow(
      /records a graph, and an op of it needs 96000 bytes of scratch where \d+ are held: call it once before\./,
    );
    fresh.runWide();
    Graph.record(fresh.device, fresh.runWide).launch();
    fresh.close(); // with a graph that nobody closed
  });

  test("a recording that lacks an op makes no graph", () => {
    const fresh = new Chain();
    const swallow = () => {
      try {
        fresh.runWide();
      } catch {}
    };
    expect(() => Graph.record(fresh.device, swallow)).toThrow(
      /koala_graph_end: an op failed in the recording/,
    );
    const { native, handle } = fresh.device;
    expect(native.koala_graph_end(handle, null)).toBe(-1);
    expect(String(native.koala_last_error())).toMatch(/koala_graph_end: no recording has begun\./);
    fresh.close();
  });

  test("a fault of a launch is named by the op that met it", () => {
    chain.result(8, chain.run);
    const graph = Graph.record(device, chain.run);
    chain.upload(1);
    chain.embedFew();
    chain.upload(V + 2);
    const launch = () => {
      graph.launch();
      device.download(chain.output);
    };
    expect(launch).toThrow(/^koala_embed: token 42 of row \d is outside the vocabulary of 40\.$/);
    chain.upload(9);
    launch();
    expect(() => {
      chain.embedFew();
      device.download(chain.output);
    }).toThrow(/^koala_embed: token 9 of row \d is outside the vocabulary of 2\.$/);
    graph.close();
  });

  test("a device that waits for each op records all the same (KOALA_SYNC=1)", () => {
    setenv(cstring("KOALA_SYNC"), cstring("1"), 1);
    const patient = new Chain();
    setenv(cstring("KOALA_SYNC"), cstring("0"), 1);
    const called = patient.result(9, patient.run);
    const graph = Graph.record(patient.device, patient.run);
    expect(patient.result(9, () => graph.launch())).toEqual(called);
    patient.close();
  });

  test("the record of what runs names the launch", () => {
    const record = new Uint8Array(64);
    chain.result(10, chain.run);
    const graph = Graph.record(device, chain.run);
    device.recordOps(record);
    graph.launch();
    device.native.koala_device_record(device.handle, null);
    const text = new TextDecoder().decode(record.subarray(8));
    expect(text.slice(0, text.indexOf("\0"))).toBe("koala_graph_launch");
    expect(new Float64Array(record.buffer)[0]).toBe(0);
    graph.close();
  });
});

test.skipIf(onGpu)("the CPU has no graphs and says so (on the CPU only)", () => {
  const device = Device.open(library, { threads: 1 });
  expect(device.hasGraphs).toBe(false);
  expect(() => Graph.record(device, () => {})).toThrow(/koala_graph_begin: this device has no graphs/);
  device.close();
});
