import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import {
  hostRendezvous,
  joinRanks,
  placeFromEnvironment,
  placeVariables,
  threadsOfRank,
} from "../../../src/train/ranks/rendezvous.ts";
import { selfCommand } from "../../../src/util/self_command.ts";
import { device } from "../support.ts";
import { runFolder, TinyRun } from "./tiny_run.ts";

const folder = await runFolder();

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

describe("ranks that do not belong together are told why", () => {
  const place = (rank: number, world: number, port: number) =>
    placeFromEnvironment(placeVariables(rank, world, port));
  const meet = async (first: [number, number, string], second: [number, number, string]) => {
    const host = hostRendezvous(2);
    const outcomes = [first, second].map(async ([rank, world, agreement], i) => {
      // One after the other: the second is the one that does not fit.
      await Bun.sleep(100 * i);
      const joined = joinRanks(device, place(rank, world, host.port), { agreement, timeoutSeconds: 2 });
      return joined.then(
        () => "joined",
        (error: Error) => error.message,
      );
    });
    const messages = await Promise.all(outcomes);
    host.close();
    return messages;
  };

  test.each([
    [[0, 2, "a"], [0, 2, "a"], "Two processes say that they are rank 0."],
    [[0, 2, "a"], [1, 3, "a"], "Rank 1 expects 3 ranks and the others 2."],
    [[0, 2, "a"], [1, 2, "b"], "Rank 1 and rank 0 were given different recipes or data."],
  ] as [[number, number, string], [number, number, string], string][])(
    "%p beside %p",
    async (first, second, sentence) => {
      expect(await meet(first, second)).toEqual([sentence, sentence]);
    },
  );

  test("but a stranger who talks nonsense is not answered, and does no harm", async () => {
    const host = hostRendezvous(1);
    /** What the host says before it closes the connection. */
    const say = async (text: string) => {
      const closed = Promise.withResolvers<void>();
      let answer = "";
      await Bun.connect({
        hostname: "127.0.0.1",
        port: host.port,
        socket: {
          open: (socket) => void socket.write(text),
          data: (_, bytes) => void (answer += bytes.toString()),
          close: () => closed.resolve(),
        },
      });
      await closed.promise;
      return answer;
    };
    expect(await say("GET / HTTP/1.1\r\n\r\n")).toBe("");
    const rank = { rank: 0, world: 1, run: "", machine: "here", agreement: "" };
    expect(JSON.parse(await say(`${JSON.stringify(rank)}\n`)).name).toMatch(/^\/koala-[0-9a-f-]{36}$/);
    host.close();
  });

  /** Rank 0 of a world started by something like torchrun, at a port that is free. */
  const torchrun = (rank: number, world: number, port: number, run = "") =>
    placeFromEnvironment({
      RANK: String(rank),
      WORLD_SIZE: String(world),
      MASTER_PORT: String(port),
      TORCHELASTIC_RUN_ID: run,
    });
  const freePort = () => {
    const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    probe.stop(true);
    return probe.port;
  };
  const outcome = (joined: Promise<unknown>) =>
    joined.then(
      () => "joined",
      (error: Error) => error.message,
    );

  test("who did not come, to those who did", async () => {
    const port = freePort();
    const join = (rank: number) =>
      outcome(joinRanks(device, torchrun(rank, 4, port), { timeoutSeconds: 0.5 }));
    const sentence =
      "Ranks 1 and 3 of 4 did not come within 0.5 s. Start every rank with the same MASTER_ADDR and MASTER_PORT.";
    expect(await Promise.all([join(0), join(2)])).toEqual([sentence, sentence]);
  });

  test("that their port is another run's, which goes on undisturbed", async () => {
    const port = freePort();
    const join = (rank: number, run: string) =>
      outcome(joinRanks(device, torchrun(rank, 2, port, run), { timeoutSeconds: 1 }));
    const first = join(0, "first");
    expect(await join(1, "second")).toBe(
      `Rank 1 belongs to run "second", but those who meet at 127.0.0.1:${port} to run "first". Give every run a MASTER_PORT of its own.`,
    );
    expect(await join(0, "second")).toMatch(/^Rank 0 cannot listen at 127\.0\.0\.1:\d+ \(/);
    // The first run still waits for its own rank 1.
    expect(await Promise.race([first, Bun.sleep(50).then(() => "waits")])).toBe("waits");
    expect(await first).toBe(
      "Rank 1 of 2 did not come within 1 s. Start every rank with the same MASTER_ADDR and MASTER_PORT.",
    );
  });

  test("who waits in vain", async () => {
    const host = hostRendezvous(2);
    const joined = joinRanks(device, place(0, 2, host.port), { timeoutSeconds: 0.2 });
    await expect(joined).rejects.toThrow(
      /^Rank 0 waited 0.2 s for all 2 ranks to meet at 127\.0\.0\.1:\d+\. Start the missing ones/,
    );
    host.close();
  });
});

test("processes that something like torchrun starts meet at rank 0 and train as supervised ones do", async () => {
  const supervised = new TinyRun(folder);
  await supervised.start();
  const run = new TinyRun(folder);
  const recipe = join(folder.path, "recipe.toml");
  await Bun.write(recipe, run.recipe());
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const MASTER_PORT = String(probe.port);
  probe.stop(true);
  const ranks = [1, 0].map((rank) =>
    Bun.spawn(
      selfCommand(
        "train",
        recipe,
        "--set",
        `model.path=${folder.model}`,
        "--set",
        `data.dataset=${folder.data}`,
      ),
      {
        env: { ...process.env, RANK: String(rank), WORLD_SIZE: "2", MASTER_ADDR: "127.0.0.1", MASTER_PORT },
        stdio: ["ignore", "pipe", "pipe"],
      },
    ),
  );
  const errors = await Promise.all(ranks.map((rank) => new Response(rank.stderr).text()));
  expect({ codes: await Promise.all(ranks.map((rank) => rank.exited)), errors }).toMatchObject({
    codes: [0, 0],
  });
  expect(errors[1]).toContain("the model is");
  expect(run.weights()).toBe(supervised.weights());
});
