/** One study's folder belongs to one run at a time: two would write the same checkpoints and answers.
 *  Always: a run that was killed holds nothing, since what names it is its process and when that began. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../../util/errors.ts";

/** Runs `work` while the folder is this process's. Throws a UsageError where another one works there. */
export async function withFolder<T>(folder: string, work: () => Promise<T>): Promise<T> {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, "running.json");
  take(path, folder);
  try {
    return await work();
  } finally {
    rmSync(path, { force: true });
    // A recipe that was refused leaves no folder.
    if (readdirSync(folder).length === 0) rmdirSync(folder);
  }
}

interface Holder {
  pid: number;
  began: string | null;
}

function take(path: string, folder: string): void {
  const own: Holder = { pid: process.pid, began: beganAt(process.pid) };
  for (let attempt = 0; ; attempt++)
    try {
      return writeFileSync(path, `${JSON.stringify(own)}\n`, { flag: "wx" });
    } catch (error) {
      if ((error as { code?: string }).code !== "EEXIST") throw error;
      const holder = holderOf(path);
      if (attempt > 0 || (holder !== null && isRunning(holder)))
        throw new UsageError(
          `${folder} is in use by another run (process ${holder?.pid ?? "unknown"}); wait for it, or stop it and start again.`,
        );
      rmSync(path, { force: true });
    }
}

/** Null for a file that a killed run left half written. */
function holderOf(path: string): Holder | null {
  try {
    const { pid, began } = JSON.parse(readFileSync(path, "utf8")) as Holder;
    return Number.isInteger(pid) && pid > 0 ? { pid, began } : null;
  } catch {
    return null;
  }
}

/** Not another process that got the number since. */
function isRunning({ pid, began }: Holder): boolean {
  if (pid === process.pid) return false;
  const found = beganAt(pid);
  if (found !== null) return found === began;
  try {
    // Signal 0 only asks.
    process.kill(pid, 0);
    return !existsSync("/proc/self/stat");
  } catch (error) {
    return (error as { code?: string }).code === "EPERM";
  }
}

/** When a process began, in the kernel's ticks (field 22 of proc_pid_stat(5)); null where nobody knows. */
function beganAt(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? null : (fields[19] ?? null);
  } catch {
    return null;
  }
}
