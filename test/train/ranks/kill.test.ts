import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { runFolder, TinyRun } from "./tiny_run.ts";

const folder = await runFolder();
const tinyRun = (...settings: string[]) => new TinyRun(folder, settings);

/** Dropout, stochastic rounding and a split master: whatever a resume could lose. */
const settings = ["precision=bf16", "dropout.residual=0.1", "zero=2"];

/** The run that nothing happened to. */
const undisturbed = (async () => {
  const run = tinyRun(...settings);
  expect(await run.start()).toBe("finished");
  return run;
})();

async function expectSameAsUndisturbed(run: TinyRun): Promise<void> {
  const straight = await undisturbed;
  expect(run.losses()).toEqual(straight.losses());
  expect(run.weights()).toBe(straight.weights());
  expect(run.checkpoints()).toEqual(["latest", "step-000004", "step-000006"]);
}

describe("a run ends with the same losses and weights after kill -9", () => {
  test.each([
    // ranks, point, step, rank, where the report says it was, step it starts again from
    [2, "after_reduce", 4, "1", "in step 4, adamw", "step 2"],
    [2, "after_reduce", 1, "any", "in step 1, adamw", "the beginning"],
    [2, "after_adamw_before_gather", 3, "0", "in step 3, gather", "step 2"],
    [2, "mid_shard_write", 4, "1", "in step 4, save", "step 2"],
    [2, "before_manifest", 4, "0", "in step 4, save", "step 2"],
    [2, "before_rename", 4, "0", "in step 4, save", "step 2"],
    [1, "mid_shard_write", 4, "0", "in step 4, save", "step 2"],
    [4, "after_reduce", 4, "3", "in step 4, adamw", "step 2"],
    [2, "before_latest", 4, "0", "in step 4, save", "step 4"],
  ] as const)("of %i ranks: %s, step %i, rank %s", async (world, point, step, rank, place, from) => {
    const run = tinyRun(...settings);
    const fault = `${point}:${step}:${rank}:once=${join(run.output, "fault")}`;
    expect(await run.start({ world, variables: { KOALA_FAULT: fault } })).toBe("finished");
    expect(run.reports).toHaveLength(1);
    expect(run.reports[0]).toMatch(
      new RegExp(`^Rank ${rank === "any" ? "[01]" : rank} was ended by SIGKILL ${place}`),
    );
    expect(run.reports[0]).toContain(`all start again from ${from} in`);
    await expectSameAsUndisturbed(run);
  });
});
