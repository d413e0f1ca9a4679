import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { placeFromEnvironment, placeVariables } from "../../../src/train/ranks/environment.ts";
import { hostRendezvous, joinRanks } from "../../../src/train/ranks/rendezvous.ts";
import { selfCommand } from "../../../src/util/self_command.ts";
import { device } from "../support.ts";
import { runFolder, TinyRun } from "./tiny_run.ts";

const folder = await runFolder();

const objectName = /^\/koala-[0-9a-f-]{36}$/;
const onCpu = { nccl: "", device: "", name: "", peers: [] as string[] };

const introduction = (rank: number, world: number, machine: string, offer = onCpu): string =>
  `${JSON.stringify({ rank, world, run: "", machine, agreement: "", offer })}\n`;

/** What the host at `port` says before it closes the connection. */
async function say(port: number, text: string): Promise<string> {
  const closed = Promise.withResolvers<void>();
  let answer = "";
  await Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      open: (socket) => void socket.write(text),
      data: (_, bytes) => void (answer += bytes.toString()),
      close: () => closed.resolve(),
    },
  });
  await closed.promise;
  return answer;
}

test("all are told the same name, whoever comes first", async () => {
  const host = hostRendezvous(2);
  const onGpu = { nccl: "", device: "01:00.0", name: "", peers: ["01:00.0"] };
  const answers = await Promise.all([
    say(host.port, introduction(1, 2, "a", onGpu)),
    Bun.sleep(20).then(() => say(host.port, introduction(0, 2, "a", onGpu))),
  ]);
  host.close();
  expect(answers[0]).toBe(answers[1]!);
  expect(JSON.parse(answers[0])).toEqual({
    name: expect.stringMatching(/^peer:\/koala-[0-9a-f-]{36}$/),
    carried: "Collectives go through the memory of the GPU 01:00.0, which 2 ranks share.",
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
    expect(await say(host.port, "GET / HTTP/1.1\r\n\r\n")).toBe("");
    expect(JSON.parse(await say(host.port, introduction(0, 1, "here"))).name).toMatch(objectName);
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
