/** What a bare `bun test` runs first: it hands over to `./koala test`, which prepares a fresh clone, checks the sources
 *  and supervises the tests. Only built-in modules may be imported here: on a fresh clone there are no packages. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const isInner = process.env.KOALA_TEST_INNER !== undefined || commandLine().includes("--test-worker");
if (!isInner) {
  const own = commandLine();
  const child = Bun.spawnSync(["sh", join(root, "koala"), "test", ...own.slice(own.indexOf("test") + 1)], {
    cwd: root,
    env: { ...process.env, KOALA_BUN: process.execPath },
    stdin: "inherit",
    stdout: "inherit",
    stderr: "inherit",
  });
  process.exit(child.exitCode ?? 1);
}

/** The arguments of this process; `process.argv` lacks those of `bun test`. */
function commandLine(): string[] {
  if (existsSync("/proc/self/cmdline"))
    return readFileSync("/proc/self/cmdline", "utf8").split("\0").slice(0, -1);
  const { stdout } = Bun.spawnSync(["ps", "-ww", "-o", "args=", "-p", String(process.pid)]);
  return stdout.toString().trim().split(/\s+/);
}
