/** A rank's place by the variables of torchrun, Slurm, Kubeflow Trainer, LeaderWorkerSet and indexed jobs. */
import { describe, expect, test } from "bun:test";
import {
  firstHost,
  placeFromEnvironment,
  placeVariables,
  threadsOfRank,
} from "../../../src/train/ranks/environment.ts";

describe("a rank's place", () => {
  test("is read from the variables that torchrun sets", () => {
    const torchrun = {
      RANK: "3",
      WORLD_SIZE: "4",
      LOCAL_RANK: "3",
      MASTER_ADDR: "127.0.0.1",
      MASTER_PORT: "29500",
    };
    const place = {
      rank: 3,
      world: 4,
      localRank: 3,
      localWorld: 4,
      address: "127.0.0.1",
      port: 29500,
      hosted: false,
      run: "",
    };
    expect(placeFromEnvironment(torchrun)).toEqual(place);
    // The agent's own store has the port.
    expect(placeFromEnvironment({ ...torchrun, TORCHELASTIC_USE_AGENT_STORE: "True" })?.port).toBe(29501);
    expect(placeFromEnvironment({ ...torchrun, TORCHELASTIC_RUN_ID: "seven" })?.run).toBe("seven");
    expect(placeFromEnvironment({})).toBeNull();
    expect(placeFromEnvironment(placeVariables(1, 2, 77))).toMatchObject({
      rank: 1,
      world: 2,
      port: 77,
      hosted: true,
    });
  });

  test.each([
    [
      { RANK: "0" },
      "The variable WORLD_SIZE is not set and must be a whole number where RANK or WORLD_SIZE is set.",
    ],
    [{ RANK: "x", WORLD_SIZE: "2" }, 'The variable RANK is "x" and must be a whole number'],
    [
      { RANK: "2", WORLD_SIZE: "2", MASTER_PORT: "1" },
      "RANK is 2 and WORLD_SIZE 2; ranks count from 0 to WORLD_SIZE - 1.",
    ],
    [{ RANK: "2", WORLD_SIZE: "16", MASTER_PORT: "1" }, "WORLD_SIZE is 16; at most 8 ranks"],
    [{ RANK: "0", WORLD_SIZE: "2" }, "The variable MASTER_PORT is not set"],
  ])("is refused where %p says nothing clear", (variables, sentence) => {
    expect(() => placeFromEnvironment(variables)).toThrow(sentence);
  });

  test("gets its part of the cores, and at least one", () => {
    expect([threadsOfRank(8, 3), threadsOfRank(2, 4)]).toEqual([2, 1]);
  });
});

describe("schedulers", () => {
  // As `srun --nodes=2 --ntasks=7 env` shows them in task 5, which is the second of the second node.
  const slurm = {
    SLURM_JOB_ID: "4711",
    SLURM_STEP_ID: "2",
    SLURM_PROCID: "5",
    SLURM_LOCALID: "1",
    SLURM_NODEID: "1",
    SLURM_NTASKS: "8",
    SLURM_STEP_NUM_TASKS: "7",
    SLURM_STEP_TASKS_PER_NODE: "4,3",
    SLURM_STEP_NODELIST: "gpu[03-04]",
    SLURM_JOB_NODELIST: "gpu[01-08]",
  };

  test("Slurm's tasks are ranks, and the first node hosts", () => {
    expect(placeFromEnvironment(slurm)).toEqual({
      rank: 5,
      world: 7,
      localRank: 1,
      localWorld: 3,
      address: "gpu03",
      port: 20_000 + ((4711 * 8 + 2) % 10_000),
      hosted: false,
      run: "slurm 4711.2",
    });
    const chosen = { ...slurm, MASTER_ADDR: "10.0.0.7", MASTER_PORT: "4000" };
    expect(placeFromEnvironment(chosen)).toMatchObject({ rank: 5, address: "10.0.0.7", port: 4000 });
    expect(placeFromEnvironment({ ...slurm, SLURM_STEP_TASKS_PER_NODE: "2(x3),1" })?.localWorld).toBe(2);
  });

  test("a batch script of Slurm and a step of one task are no ranks", () => {
    expect(placeFromEnvironment({ ...slurm, SLURM_STEP_ID: undefined })).toBeNull();
    expect(placeFromEnvironment({ ...slurm, SLURM_STEP_ID: "4294967291" })).toBeNull();
    expect(placeFromEnvironment({ ...slurm, SLURM_STEP_NUM_TASKS: "1" })).toBeNull();
  });

  test.each([
    ["node7", "node7"],
    ["gpu[03-05,9],cpu1", "gpu03"],
    ["a1,b2", "a1"],
    ["rack[1-2]n[01-16]", "rack1n01"],
    ["x[7,9]-ib", "x7-ib"],
  ])("the first host of %p is %p", (nodes, host) => expect(firstHost(nodes)).toBe(host));

  test("a node of Kubeflow Trainer with one process is a rank", () => {
    const env = {
      PET_NNODES: "2",
      PET_NPROC_PER_NODE: "1",
      PET_NODE_RANK: "1",
      PET_MASTER_ADDR: "run-node-0-0.run",
      PET_MASTER_PORT: "29400",
    };
    expect(placeFromEnvironment(env)).toMatchObject({
      rank: 1,
      world: 2,
      localRank: 0,
      localWorld: 1,
      address: "run-node-0-0.run",
      port: 29_400,
    });
    expect(() => placeFromEnvironment({ ...env, PET_NPROC_PER_NODE: "8" })).toThrow(
      'PET_NPROC_PER_NODE is "8", and this process is not started by torchrun.',
    );
    // torchrun, told by the same variables, has started this process.
    const torchrun = { ...env, PET_NPROC_PER_NODE: "2", RANK: "3", WORLD_SIZE: "4", MASTER_PORT: "1" };
    expect(placeFromEnvironment(torchrun)).toMatchObject({ rank: 3, world: 4, port: 1 });
  });

  test("a pod of a LeaderWorkerSet is a rank, and the leader hosts", () => {
    const env = { LWS_LEADER_ADDRESS: "lws-0.lws.ns", LWS_GROUP_SIZE: "4", LWS_WORKER_INDEX: "2" };
    expect(placeFromEnvironment(env)).toMatchObject({
      rank: 2,
      world: 4,
      localWorld: 1,
      address: "lws-0.lws.ns",
      port: 29_500,
    });
  });

  test("a pod of an indexed job is a rank where the job says of how many", () => {
    const env = { JOB_COMPLETION_INDEX: "1", WORLD_SIZE: "2", MASTER_ADDR: "train-0.train" };
    expect(placeFromEnvironment(env)).toMatchObject({
      rank: 1,
      world: 2,
      address: "train-0.train",
      port: 29_500,
    });
    expect(placeFromEnvironment({ JOB_COMPLETION_INDEX: "1" })).toBeNull();
    expect(() => placeFromEnvironment({ JOB_COMPLETION_INDEX: "1", WORLD_SIZE: "2" })).toThrow(
      "MASTER_ADDR is not set. Set it to the name of the first pod (job-0.service).",
    );
  });
});
