/** Runs that go on with fewer ranks: real processes, of which one fails or loses its device. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import "../../support/emulator.ts";
import type { ProbePlace } from "../../../src/train/ranks/places.ts";
import { probeDevice } from "../../../src/train/ranks/probe.ts";
import { selfCommand } from "../../../src/util/self_command.ts";
import { runFolder, TinyRun } from "./tiny_run.ts";

const minutes = 60_000;
const folder = await runFolder();
const without2: ProbePlace = async ({ index }) => (index === 2 ? "it fell off the bus" : null);

/** What nothing happened to, on `world` ranks. */
async function straight(world: number, settings: string[]): Promise<TinyRun> {
  const run = new TinyRun(folder, settings);
  expect(await run.start({ world })).toBe("finished");
  return run;
}

const warnings = (run: TinyRun): string[] =>
  run.events.flatMap((event) => (event.type === "warning" ? [event.message] : []));

describe("a run of four ranks, of which rank 2 has no device any more in step 4,", () => {
  test("goes on with those that share its batch evenly, and ends with the same bits", async () => {
    const settings = ["zero=3", "precision=bf16", "dropout.residual=0.1"];
    const run = new TinyRun(folder, settings);
    const KOALA_FAULT = `after_reduce:4:2:once=${run.output}/fault`;
    const outcome = run.start({ world: 4, ranksMin: 1, probe: without2, variables: { KOALA_FAULT } });
    expect(await outcome).toBe("finished");
    const absence =
      "2 of 4 ranks train on: rank 2 on cpu is left out, because it has no device that works (it fell off the bus) and rank 3 on cpu rests, because the 4 micro-batches of a step divide by 2.";
    expect(run.reports).toEqual([
      expect.stringMatching(/^Rank 2 was ended by SIGKILL in step 4, .* these start again from step 2 in /),
    ]);
    expect(run.reports[0]).toContain(` ${absence} The other ranks were stopped`);
    expect(warnings(run)).toEqual([absence]);
    // In the record of the run, too, where the steps of four ranks and of two follow each other.
    const lines = readFileSync(join(run.output, "metrics.jsonl"), "utf8").trim().split("\n");
    const record = lines.map((line) => JSON.parse(line) as { type: string; step: number; message?: string });
    expect(record.find(({ type }) => type === "warning")).toMatchObject({ step: 2, message: absence });
    expect(record.filter(({ type }) => type === "step").map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    const undisturbed = await straight(4, settings);
    expect(run.losses()).toEqual(undisturbed.losses());
    expect(run.weights()).toBe(undisturbed.weights());
  });

  test("goes on with three where three share its batch, to rounding", async () => {
    const settings = ["zero=2", "rows_per_step=6"];
    const run = new TinyRun(folder, settings);
    const KOALA_FAULT = `after_reduce:4:2:once=${run.output}/fault`;
    await run.start({ world: 4, ranksMin: 2, probe: without2, variables: { KOALA_FAULT } });
    expect(warnings(run)[0]).toStartWith("3 of 4 ranks train on: rank 2 on cpu is left out");
    const losses = (await straight(4, settings)).losses();
    expect(run.losses()).toHaveLength(6);
    run.losses().forEach((loss, i) => expect(Math.abs(loss - losses[i]!)).toBeLessThan(1e-6));
  });

  test("does not go on with fewer than it may, and says what would help", async () => {
    const run = new TinyRun(folder);
    const KOALA_FAULT = `after_reduce:4:2:once=${run.output}/fault`;
    const start = run.start({ world: 4, probe: without2, restartsMax: 1, variables: { KOALA_FAULT } });
    await expect(start).rejects.toThrow(
      "Rank 2 on cpu is left out, because it has no device that works (it fell off the bus). 4 ranks must take part, and 3 can: --min-ranks lets fewer go on. The run is given up after 1 restarts without a new checkpoint; resume it from step 2 when the cause is gone.",
    );
    expect(run.reports).toEqual([expect.stringContaining("all start again from step 2")]);
  });
});

test("each rank has the device that a list gives it", async () => {
  const start = new TinyRun(folder).start({ devices: ["cpu", "cuda:77"] });
  await expect(start).rejects.toThrow("--device cuda:77: ");
});

test("a rank that fails again and again is left out, though its device works", async () => {
  const run = new TinyRun(folder, ["zero=2"]);
  const outcome = run.start({ world: 4, ranksMin: 2, variables: { KOALA_FAULT: "after_reduce:4:3" } });
  expect(await outcome).toBe("finished");
  expect(run.reports.map((report) => report.split(" (")[0]!.split(".")[1])).toEqual([
    " The other ranks were stopped, and all start again from step 2 in 0",
    " 2 of 4 ranks train on: rank 3 on cpu is left out, because it failed 2 times without a new checkpoint and rank 2 on cpu rests, because the 4 micro-batches of a step divide by 2",
  ]);
  expect(run.losses()).toHaveLength(6);
});

describe.skipIf(process.arch !== "x64")("a GPU that fails for good (emulated, on x86-64)", () => {
  const command = (request: string) => selfCommand("rank", request);

  test(
    "is told from one that works by a process of its own",
    async () => {
      expect(await probeDevice("emu", command)).toBeNull();
      const env = { ...process.env, KOALA_EMULATOR_LOST: "1" };
      expect(await probeDevice("emu", command, { env })).toMatch(/an illegal memory access was encountered/);
      expect(await probeDevice("cuda:77", command)).toMatch(/^--device cuda:77: /);
      const sleeps = () => ["sleep", "5"];
      expect(await probeDevice("emu", sleeps, { timeoutMs: 100 })).toBe("it did not answer within 0.1 s");
    },
    10 * minutes,
  );

  test(
    "ends its rank with a code that says so, and the others go on when it does not come back",
    async () => {
      const run = new TinyRun(folder, ["device=emu", "steps=1", "checkpoint.interval=0", "zero=2"]);
      const lose = join(run.output, "lose");
      // Rank 1 of the first start has a GPU that fails after 60 kernels.
      const started = (json: string) => [
        "sh",
        "-c",
        `mkdir -p "$(dirname ${lose})"; [ "$RANK" = 1 ] && mkdir ${lose} 2>/dev/null && export KOALA_EMULATOR_LOST=60; exec "$@"`,
        "sh",
        ...selfCommand("rank", json),
      ];
      const probe: ProbePlace = async ({ index }) => (index === 1 ? "it fell off the bus" : null);
      expect(await run.start({ world: 2, ranksMin: 1, command: started, probe })).toBe("finished");
      expect(run.reports).toEqual([
        expect.stringMatching(
          /^Rank 1 lost its device .*: .*an illegal memory access was encountered .*\. 1 of 2 ranks train on: rank 1 on emu is left out/,
        ),
      ]);
      expect(run.losses()).toHaveLength(1);
    },
    10 * minutes,
  );
});
