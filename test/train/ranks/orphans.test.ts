/** What becomes of ranks whose supervisor is killed: also of one that hears nothing. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { selfCommand } from "../../../src/util/self_command.ts";
import { runFolder, TinyRun } from "./tiny_run.ts";

const folder = await runFolder();

/** Of /proc/PID/stat: the name may hold anything but ends at the last bracket. */
function stateOf(pid: number): string | null {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.charAt(0);
  } catch {
    return null;
  }
}

async function until<T>(read: () => T | null, timeoutMs = 20_000): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = read();
    if (value !== null) return value;
    if (performance.now() > deadline) throw new Error(`Nothing came in ${timeoutMs} ms.`);
    await Bun.sleep(20);
  }
}

const skip = process.platform !== "linux" || Bun.which("pgrep") === null;
test.skipIf(skip)(
  "ranks end at once with a supervisor that was killed, also one that was stopped in mid-step (skipped without Linux's /proc and pgrep)",
  async () => {
    const run = new TinyRun(folder);
    const recipe = join(folder.path, "orphans.toml");
    await Bun.write(recipe, run.recipe());
    const set = [`model.path=${folder.model}`, `data.dataset=${folder.data}`, "ranks=2"];
    const command = selfCommand("train", recipe, ...set.flatMap((one) => ["--set", one]));
    const KOALA_FAULT = "hang:after_reduce:3:1";
    const supervisor = Bun.spawn(command, {
      env: { ...process.env, KOALA_FAULT },
      stdio: ["ignore", "ignore", "ignore"],
    });
    const ranks = await until(() => {
      const pids = Bun.spawnSync(["pgrep", "-P", String(supervisor.pid)])
        .stdout.toString()
        .split("\n");
      const found = pids.filter((pid) => pid !== "").map(Number);
      return found.some((pid) => stateOf(pid) === "T") ? found : null;
    });
    expect(ranks).toHaveLength(2);
    supervisor.kill("SIGKILL");
    await supervisor.exited;
    await until(() => (ranks.some((pid) => ![null, "Z"].includes(stateOf(pid))) ? null : true), 2000);
    expect(run.checkpoints()).toContain("step-000002");
  },
);
