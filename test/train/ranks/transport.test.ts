import { describe, expect, test } from "bun:test";
import { chooseTransport, type Traveller, wishFromEnvironment } from "../../../src/train/ranks/transport.ts";

const objectName = /^\/koala-[0-9a-f-]{36}$/;
const onCpu = { nccl: "", device: "", name: "", peers: [] as string[] };
const onGpu = (device: string, { nccl = "2.30.7", peers = [device] } = {}) => ({
  nccl,
  device,
  name: nccl === "" ? "" : `nccl:${device}`,
  peers,
});
const connected = ["01:00.0", "02:00.0"];

const told = (wish: Traveller["wish"], ...ranks: [string, Traveller["offer"]][]) =>
  chooseTransport(
    // The last rank came first.
    ranks.map(([machine, offer], rank) => ({ rank, machine, wish, offer })).reverse(),
  ) as { name?: string; carried?: string; error?: string };

describe("collectives of one machine go", () => {
  test("through shared memory without GPUs, and nobody needs to be told", () => {
    expect(told("auto", ["a", onCpu], ["a", onCpu])).toEqual({ name: expect.stringMatching(objectName) });
  });

  test("through NCCL where each rank has a GPU, beside shared memory", () => {
    const { name, carried } = told("auto", ["a", onGpu("01:00.0")], ["a", onGpu("02:00.0")]);
    expect(name).toMatch(/^nccl:01:00\.0\/koala-/);
    expect(carried).toBe("Collectives go through NCCL 2.30.7.");
  });

  test("through the GPU's memory where ranks share it", () => {
    const eight = Array.from({ length: 8 }, (): [string, Traveller["offer"]] => ["a", onGpu("01:00.0")]);
    expect(told("auto", ...eight)).toEqual({
      name: expect.stringMatching(/^peer:\/koala-/),
      carried: "Collectives go through the memory of the GPU 01:00.0, which 8 ranks share.",
    });
  });

  test("through memory that peers read without NCCL, or where some share a GPU", () => {
    const offers = connected.map((device) => onGpu(device, { nccl: "", peers: connected }));
    expect(told("auto", ["a", offers[0]!], ["a", offers[1]!])).toEqual({
      name: expect.stringMatching(/^peer:\/koala-/),
      carried:
        "Collectives go through memory that 2 GPUs read from each other (not NCCL: rank 0 has no NCCL).",
    });
    const shared = connected.map((device) => onGpu(device, { peers: connected }));
    const { name } = told("auto", ["a", shared[0]!], ["a", shared[1]!], ["a", shared[1]!]);
    expect(name).toMatch(/^peer:/);
  });

  test.each([
    [onGpu("01:00.0"), onCpu, "rank 1 has no GPU."],
    [
      onGpu("01:00.0", { nccl: "" }),
      onGpu("02:00.0", { nccl: "" }),
      "rank 0 has no NCCL; the GPU 01:00.0 of rank 0 does not read the memory of the GPU 02:00.0 of rank 1.",
    ],
    [
      onGpu("01:00.0", { peers: [] }),
      onGpu("01:00.0", { peers: [] }),
      "ranks 0 and 1 share the GPU 01:00.0; the GPU of rank 0 shows no memory to other processes.",
    ],
  ])("through the machine's memory with %p and %p, and rank 0 is told why", (first, second, reason) => {
    const { name, carried } = told("auto", ["a", first], ["a", second]);
    expect(name).toMatch(objectName);
    expect(carried).toBe(
      `Collectives go through shared memory of this machine, which is slower than memory of GPUs: ${reason} \`koala doctor\` shows what was searched.`,
    );
  });
});

describe("ranks on two machines", () => {
  test("talk through NCCL alone", () => {
    expect(told("auto", ["a", onGpu("01:00.0")], ["b", onGpu("01:00.0")]).name).toBe("nccl:01:00.0");
  });

  test.each([
    [onCpu, onCpu, "rank 0 has no GPU"],
    [onGpu("01:00.0"), { ...onGpu("01:00.0"), nccl: "" }, "rank 1 has no NCCL"],
    [onGpu("01:00.0"), onGpu("01:00.0", { nccl: "2.28.3" }), "rank 0 has NCCL 2.30.7 and rank 1 2.28.3"],
  ])("are told why they cannot with %p and %p", (first, second, obstacle) => {
    expect(told("auto", ["a", first], ["b", second]).error).toBe(
      `Rank 1 runs on b and rank 0 on a, but ${obstacle}; without NCCL, ranks talk through memory of one machine.`,
    );
  });
});

describe("KOALA_COMM", () => {
  const two = connected.map((device): [string, Traveller["offer"]] => [
    "a",
    onGpu(device, { peers: connected }),
  ]);

  test("forces one way, and names what forbids it", () => {
    expect(told("peer", ...two).name).toMatch(/^peer:\/koala-/);
    expect(told("memory", ...two)).toMatchObject({
      name: expect.stringMatching(objectName),
      carried: expect.stringContaining("slower than memory of GPUs: KOALA_COMM asks for it."),
    });
    expect(told("nccl", ["a", onGpu("01:00.0")], ["a", onGpu("01:00.0")]).error).toBe(
      'KOALA_COMM is "nccl", but ranks 0 and 1 share the GPU 01:00.0. Unset it to take what there is.',
    );
    expect(told("peer", ["a", onGpu("01:00.0")], ["b", onGpu("01:00.0")]).error).toBe(
      'KOALA_COMM is "peer", but rank 1 runs on b and rank 0 on a. Unset it to take what there is.',
    );
  });

  test("is one of four words, the same for all", () => {
    expect([wishFromEnvironment(""), wishFromEnvironment("nccl")]).toEqual(["auto", "nccl"]);
    expect(() => wishFromEnvironment("fast")).toThrow(
      'KOALA_COMM is "fast"; there are auto, memory, peer, nccl.',
    );
    const rank = (number: number, wish: Traveller["wish"]) => ({
      rank: number,
      machine: "a",
      wish,
      offer: onCpu,
    });
    expect(chooseTransport([rank(0, "auto"), rank(1, "memory")])).toEqual({
      error: 'KOALA_COMM is "auto" for rank 0 and "memory" for rank 1. Set it alike for all ranks.',
    });
  });
});
