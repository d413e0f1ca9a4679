import { describe, expect, test } from "bun:test";
import { cpSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { selfCommand } from "../../../src/util/self_command.ts";
import { runFolder, TinyRun } from "./tiny_run.ts";

const folder = await runFolder();
const tinyRun = (...settings: string[]) => new TinyRun(folder, settings);

const settings = ["zero=3", "checkpoint.interval=2"];
const straight = tinyRun(...settings);
await straight.start();

/** A copy of the run's folder with the checkpoints up to `step`. */
function copyUpTo(step: number, ...changes: string[]): TinyRun {
  const run = tinyRun(...settings, ...changes);
  cpSync(straight.output, run.output, { recursive: true });
  rmSync(join(run.output, "model"), { recursive: true });
  for (const name of readdirSync(join(run.output, "checkpoints")))
    if (Number(name.slice(5)) > step) rmSync(join(run.output, "checkpoints", name), { recursive: true });
  return run;
}
const shardOf = ({ output }: TinyRun, step: number, rank: number): string =>
  join(output, "checkpoints", `step-00000${step}`, `rank-0000${rank}-of-00002.safetensors`);

/** Of a file that may be gone by now. */
function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

describe("a run of two ranks resumes from its checkpoint", () => {
  test.each([
    [1, 3],
    [2, 2],
    [4, 3],
  ])("on %i ranks in stage %i, with the same bits", async (world, zero) => {
    const run = copyUpTo(4, `zero=${zero}`);
    expect(await run.start({ world, resume: true })).toBe("finished");
    expect(run.losses()).toEqual(straight.losses().slice(4));
    expect(run.weights()).toBe(straight.weights());
    expect(run.checkpoints()).toEqual(["latest", "step-000004", "step-000006"]);
  });

  test("on 3 ranks, whose norm of the gradient has other pieces, to rounding", async () => {
    const run = copyUpTo(4, "zero=1");
    expect(await run.start({ world: 3, resume: true })).toBe("finished");
    expect(run.losses()).toHaveLength(2);
    run.losses().forEach((loss, i) => expect(Math.abs(loss - straight.losses()[4 + i]!)).toBeLessThan(1e-6));
  });

  test("but not where a byte of a shard differs, a shard is cut short, or the precision is another", async () => {
    const changed = copyUpTo(4);
    const bytes = readFileSync(shardOf(changed, 4, 1));
    bytes[bytes.length - 5]! ^= 1;
    writeFileSync(shardOf(changed, 4, 1), bytes);
    const refuse = async (run: TinyRun, sentence: RegExp) => {
      const error: Error = await run.start({ resume: true }).then(String, (reason) => reason);
      expect(error.message).toMatch(sentence);
      expect(run.reports).toEqual([]);
    };
    await refuse(
      changed,
      /^The checkpoint .*step-000004 is damaged: the content of rank-00001-of-00002.safetensors is not what was written\. Delete that folder to resume from the one before it\.$/,
    );
    const cut = copyUpTo(4);
    truncateSync(shardOf(cut, 4, 0), 1000);
    await refuse(cut, /is damaged: rank-00000-of-00002.safetensors has 1000 bytes and should have \d+\./);
    await refuse(
      copyUpTo(4, "precision=bf16"),
      /as F32 and this run needs BF16: resume with the precision that the run began with\.$/,
    );
  });

  test("that was finished, where a later one has no manifest", async () => {
    const run = copyUpTo(6);
    rmSync(join(run.output, "checkpoints", "step-000006", "manifest.json"));
    expect(await run.start({ resume: true })).toBe("finished");
    expect(run.losses()).toEqual(straight.losses().slice(4));
    expect(run.weights()).toBe(straight.weights());
  });
});

describe.skipIf(Bun.which("prlimit") === null || Bun.which("pgrep") === null)(
  "a checkpoint that one rank cannot write (skipped without prlimit and pgrep)",
  () => {
    /** Writing beyond a limit is an error, as on a full disk, and not a signal. */
    const command = (run: string) => [
      "sh",
      "-c",
      `trap "" XFSZ; exec "$@"`,
      "sh",
      ...selfCommand("rank", run),
    ];

    /** Waits until rank 1 has stopped itself, gives its files 16 KiB at most, and lets it go on. */
    async function fillDisk(): Promise<void> {
      for (;;) {
        await Bun.sleep(20);
        const children = Bun.spawnSync(["pgrep", "-P", String(process.pid)])
          .stdout.toString()
          .trim()
          .split("\n");
        const stopped = children.find((pid) => /\) T /.test(readText(`/proc/${pid}/stat`)));
        if (stopped === undefined) continue;
        Bun.spawnSync(["prlimit", "--pid", stopped, "--fsize=16384"]);
        process.kill(Number(stopped), "SIGCONT");
        return;
      }
    }

    test("leaves the one before it whole; the run goes on, and ends with a sentence", async () => {
      const run = copyUpTo(4, "checkpoint.interval=1");
      const start = run.start({ resume: true, command, variables: { KOALA_FAULT: "hang:after_reduce:5:1" } });
      await Promise.race([fillDisk(), start.catch(() => {})]);
      const error: Error = await start.then(String, (reason) => reason);
      const reason =
        "a file grew beyond the limit on its size (EFBIG, rank 1); the newest one is whole and of step 4.";
      const sentence = (step: number) =>
        `The checkpoint of step ${step} could not be written to ${run.output}/checkpoints: ${reason}`;
      expect(error.message).toBe(sentence(6));
      const warnings = run.events.flatMap((event) => (event.type === "warning" ? [event.message] : []));
      expect(warnings).toEqual([`${sentence(5)} The run goes on.`]);
      expect(run.checkpoints()).toEqual(["latest", "step-000004"]);
      expect(await run.start({ resume: true })).toBe("finished");
      expect(run.weights()).toBe(straight.weights());
    });
  },
);
