import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { superviseRanks } from "../../../src/train/ranks/supervisor.ts";
import { runFolder, TinyRun } from "./tiny_run.ts";

const folder = await runFolder();
const tinyRun = (...settings: string[]) => new TinyRun(folder, settings);

describe("the supervisor", () => {
  test("finds the rank that hangs, not those that wait for it", async () => {
    const run = tinyRun();
    const KOALA_FAULT = `hang:after_reduce:4:1:once=${run.output}/fault`;
    expect(await run.start({ world: 3, silenceMs: 1200, variables: { KOALA_FAULT } })).toBe("finished");
    expect(run.reports).toHaveLength(1);
    expect(run.reports[0]).toMatch(
      /^Rank 1 has been silent for [12] s in step 4, adamw, after koala_comm_all_gather\. .* start again from step 2 /,
    );
    expect(run.losses()).toHaveLength(6);
  });

  test("gives up after some restarts without a new checkpoint, and says where to go on", async () => {
    const run = tinyRun();
    const start = run.start({ restartsMax: 2, variables: { KOALA_FAULT: "after_reduce:4:1" } });
    await expect(start).rejects.toThrow(
      "Rank 1 was ended by SIGKILL in step 4, adamw, after koala_comm_all_gather. The run is given up after 2 restarts without a new checkpoint; resume it from step 2 when the cause is gone.",
    );
    expect(run.reports.map((report) => report.split("(").at(-1))).toEqual([
      "restart 1 of 2).",
      "restart 2 of 2).",
    ]);
  });

  test("does not start again what a user must repair", async () => {
    const run = tinyRun("sequence_length=100");
    const start = run.start();
    await expect(start).rejects.toThrow("sequence_length 100 is more than the 64 positions of the model.");
    expect(run.reports).toEqual([]);
  });

  test("names the op in which the system ended a rank, and its layer", async () => {
    const run = superviseRanks({
      world: 2,
      // Bun has much to say about its end.
      command: [
        "sh",
        "-c",
        `exec "$0" "$1" 2>/dev/null`,
        process.execPath,
        join(import.meta.dir, "crash_rank.ts"),
      ],
      env: { ...process.env, BUN_ENABLE_CRASH_REPORTING: "0" },
      restartsMax: 0,
      checkpointStep: () => null,
      onRestart: () => {},
    });
    await expect(run).rejects.toThrow(
      /^Rank 1 (was ended by SIG\w+|ended with exit code \d+) in step 3, backward of layer 1, in koala_silu_mul\. The run is given up/,
    );
  });

  test("refuses to mix a new run with an old one, and steps without a row for every rank", async () => {
    const run = tinyRun("steps=2");
    await run.start();
    expect(() => run.start()).toThrow("holds checkpoints of an earlier run. Go on with --resume");
    expect(() => tinyRun("rows_per_step=1").start()).toThrow("A step has 1 rows, fewer than the 2 ranks.");
  });

  test("saves and ends all ranks after the same step when it is told to stop; resuming gives the same bits, in stage 0 those of stage 1", async () => {
    const straight = tinyRun("precision=bf16");
    await straight.start();
    const run = tinyRun("precision=bf16", "checkpoint.interval=0", "zero=0");
    const stop = new AbortController();
    const onMessage = (message: { type: string }) => {
      if (message.type === "event" && run.events.push((message as never as { event: never }).event) >= 4)
        stop.abort();
    };
    expect(await run.start({ signal: stop.signal, onMessage })).toBe("stopped");
    const [latest, checkpoint] = run.checkpoints();
    expect([latest, run.reports]).toEqual(["latest", []]);
    expect(checkpoint).toMatch(/^step-00000[3-5]$/);
    expect(await run.start({ resume: true })).toBe("finished");
    expect(run.losses()).toEqual(straight.losses());
    expect(run.weights()).toBe(straight.weights());
  });
});
