/** A checkpoint on a disk that is really full: a small one is mounted, filled while the run trains, and emptied again. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runFolder, TinyRun } from "../ranks/tiny_run.ts";

const folder = await runFolder();
const disk = join(folder.path, "disk");
mkdirSync(disk);
const mounted =
  process.platform === "linux" &&
  Bun.spawnSync(["sh", "-c", `mount -t tmpfs -o size=8m tmpfs '${disk}' 2>&1`]).success;

describe.skipIf(!mounted)("a full disk (skipped where no small one can be mounted)", () => {
  afterAll(() => {
    Bun.spawnSync(["umount", "-l", disk]);
  });

  test("leaves the newest checkpoint whole, and the run goes on when there is room again", async () => {
    const straight = new TinyRun(folder);
    await straight.start({ world: 2 });
    const run = new TinyRun(folder, [], join(disk, "run"));
    const filler = join(disk, "filler");
    const start = run.start({
      world: 2,
      onMessage: (message) => {
        if (message.type !== "event") return;
        run.events.push(message.event);
        const { type, step } = message.event;
        if (type === "checkpoint" && step === 2) fill(filler, disk);
        if (type === "warning") rmSync(filler);
      },
    });
    expect(await start).toBe("finished");
    const warnings = run.events.flatMap((event) => (event.type === "warning" ? [event.message] : []));
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(
      /^The checkpoint of step 4 could not be written to .*: no space is left on the device \(ENOSPC, rank \d\); the newest one is whole and of step 2\. The run goes on\.$/,
    );
    expect(run.checkpoints()).toEqual(["latest", "step-000002", "step-000006"]);
    expect(run.weights()).toBe(straight.weights());
  });
});

/** Leaves room for some lines of metrics. */
function fill(path: string, at: string): void {
  const { bavail, bsize } = statfsSync(at);
  writeFileSync(path, Buffer.alloc((bavail - 12) * bsize));
}
